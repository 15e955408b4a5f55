"""The table of exit codes: each row is reached by one kind of error, and says what to do."""

import json

from sidestep.runtime.errors import OTHERS, ExitCode, Rerun, SideStepError, codes, rerun_after


def test_each_code_has_its_error() -> None:
    """But for 0, and for bugs, which any other exception is."""
    kinds = [kind.exit_code for kind in SideStepError.__subclasses__()]
    assert sorted(kinds) == sorted(set(ExitCode) - {ExitCode.DONE, ExitCode.BUG})


def test_each_code_says_why_and_whether_to_try_again() -> None:
    assert [int(code) for code in ExitCode] == sorted(set(map(int, ExitCode)))
    assert all(code.meaning for code in ExitCode)
    assert sorted(code for rerun in Rerun for code in codes(rerun)) == [int(code) for code in ExitCode]
    assert codes(Rerun.AGAIN) == [75]


def test_the_classes_are_those_that_schedulers_are_told() -> None:
    classes = {rerun: codes(rerun) for rerun in Rerun}
    assert classes == {
        Rerun.NO_NEED: [0],
        Rerun.PERMANENT: [64, 65, 66, 70, 71, 77, 78],
        Rerun.COUNTED: [69, 72, 73, 74, 76],
        Rerun.AGAIN: [75],
    }


def test_every_other_code_is_counted() -> None:
    """Nobody knows what it means, so neither for ever nor never."""
    assert not set(OTHERS) & set(ExitCode)
    others = set(range(256)) - set(ExitCode)
    assert {1, 126, 127, 134, 137, 139, 143} <= set(OTHERS) <= others
    assert {rerun_after(code) for code in others} == {Rerun.COUNTED}
    assert all(rerun_after(code) is code.rerun for code in ExitCode)


def test_a_code_is_written_as_its_number() -> None:
    """In a shell script and in JSON."""
    assert f"{ExitCode.AGAIN}" == json.dumps(ExitCode.AGAIN) == "75"
