"""What can go wrong, and the exit code that says so: the one table.

The numbers follow sysexits.h. 137 and 143 (killed by a signal) are never ours, so a scheduler that
sees one of the codes below knows that the job itself decided to stop, and whether to run it again.
"""

from enum import Enum, IntEnum
from typing import Self


class Retry(Enum):
    """What the same command does when it is run again, as the docs say it."""

    NO_NEED = "finds its work done"
    NEVER = "ends alike: the code is permanent"
    LIMITED = "may help, later or on another machine"
    ALWAYS = "goes on from there"


class ExitCode(IntEnum):
    """Why a process ended: the code, what becomes of another try, and the reason in a sentence.

    The CLI reference and what the platforms are told about retries are made from these rows.
    """

    retry: Retry
    meaning: str

    def __new__(cls, code: int, retry: Retry, meaning: str) -> Self:
        row = int.__new__(cls, code)
        row._value_ = code
        row.retry = retry
        row.meaning = meaning
        return row

    DONE = 0, Retry.NO_NEED, "The task is done."
    USAGE = 64, Retry.NEVER, "The command line is wrong."
    BAD_DATA = 65, Retry.NEVER, "An input is there but is not what it should be."
    MISSING = 66, Retry.NEVER, "An input is not there."
    STORAGE = 69, Retry.LIMITED, "A store stayed out of reach, though it was tried again and again."
    BUG = 70, Retry.NEVER, "A fault of Side-Step itself."
    OUT_OF_MEMORY = 71, Retry.NEVER, "The GPU's memory is too small for these settings."
    MACHINE = (
        72,
        Retry.LIMITED,
        "This machine cannot run the job: there is no GPU, the disk is full, …",
    )
    AGAIN = 75, Retry.ALWAYS, "The job was told to stop, and its progress is saved."
    ACCESS = 77, Retry.NEVER, "Credentials are missing or not allowed to do this."
    BAD_SPEC = 78, Retry.NEVER, "The job spec is wrong."


def codes(retry: Retry) -> list[int]:
    """The exit codes of this kind, in their order."""
    return [int(code) for code in ExitCode if code.retry is retry]


class SideStepError(Exception):
    """A failure with a message for the user: shown without a traceback, ends with `exit_code`.

    The message says what is wrong, where, what is allowed, and what to do; it may have many lines.
    Raise one of the subclasses; anything else that reaches the top is a bug (exit code 70).
    """

    exit_code = ExitCode.BUG


class UsageError(SideStepError):
    exit_code = ExitCode.USAGE


class BadDataError(SideStepError):
    exit_code = ExitCode.BAD_DATA


class MissingInputError(SideStepError):
    exit_code = ExitCode.MISSING


class StorageError(SideStepError):
    exit_code = ExitCode.STORAGE


class OutOfMemoryError(SideStepError):
    exit_code = ExitCode.OUT_OF_MEMORY


class MachineError(SideStepError):
    exit_code = ExitCode.MACHINE


class AccessError(SideStepError):
    exit_code = ExitCode.ACCESS


class BadSpecError(SideStepError):
    exit_code = ExitCode.BAD_SPEC


class AgainError(SideStepError):
    """Not a failure: what is done is saved, and the same command goes on from there."""

    exit_code = ExitCode.AGAIN
