"""The table of exit codes: each row is reached by one kind of error, and says what to do."""

import json

from sidestep.runtime.errors import ExitCode, Rerun, SideStepError, codes


def test_each_code_has_its_error() -> None:
    """But for 0, and for bugs, which any other exception is."""
    kinds = [kind.exit_code for kind in SideStepError.__subclasses__()]
    assert sorted(kinds) == sorted(set(ExitCode) - {ExitCode.DONE, ExitCode.BUG})


def test_each_code_says_why_and_whether_to_try_again() -> None:
    assert [int(code) for code in ExitCode] == sorted(set(map(int, ExitCode)))
    assert all(code.meaning for code in ExitCode)
    assert sorted(code for rerun in Rerun for code in codes(rerun)) == [int(code) for code in ExitCode]
    assert codes(Rerun.ALWAYS) == [75]


def test_a_code_is_written_as_its_number() -> None:
    """In a shell script and in JSON."""
    assert f"{ExitCode.AGAIN}" == json.dumps(ExitCode.AGAIN) == "75"
