"""The table of exit codes: each row is reached by one kind of error, and says what to do."""

from sidestep.runtime.errors import ExitCode, Retry, SideStepError, codes


def test_each_code_has_its_error() -> None:
    """But for 0, and for bugs, which any other exception is."""
    kinds = [kind.exit_code for kind in SideStepError.__subclasses__()]
    assert sorted(kinds) == sorted(set(ExitCode) - {ExitCode.DONE, ExitCode.BUG})


def test_each_code_says_why_and_whether_to_try_again() -> None:
    assert [int(code) for code in ExitCode] == sorted(set(map(int, ExitCode)))
    assert all(code.meaning for code in ExitCode)
    assert sorted(code for retry in Retry for code in codes(retry)) == [int(code) for code in ExitCode]
    assert codes(Retry.ALWAYS) == [75]


def test_a_code_is_its_number() -> None:
    """As a process's exit code, in a shell script and in JSON."""
    assert f"{ExitCode.AGAIN}" == "75" and ExitCode.AGAIN == 75 and ExitCode(75) is ExitCode.AGAIN
