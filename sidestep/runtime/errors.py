"""What can go wrong, and the exit code that says so: the one table.

The numbers follow sysexits.h. 137 and 143 (killed by a signal) are never ours, so a scheduler that
sees one of the codes below knows that the job itself decided to stop, and whether to run it again.
"""

from enum import Enum, IntEnum
from typing import Self

from sidestep.runtime.secrets import hide


class Rerun(Enum):
    """What the same command does when it is run again, as the docs say it."""

    NO_NEED = "has nothing left to do"
    NEVER = "fails the same way: the code is permanent"
    LIMITED = "may succeed later or on another machine"
    ALWAYS = "continues from there"


class ExitCode(IntEnum):
    """Why a process ended: the code, what becomes of another try, and the reason in a sentence.

    The CLI reference and what the platforms are told about retries are made from these rows.
    """

    rerun: Rerun
    meaning: str

    def __new__(cls, code: int, rerun: Rerun, meaning: str) -> Self:
        row = int.__new__(cls, code)
        row._value_ = code
        row.rerun = rerun
        row.meaning = meaning
        return row

    DONE = 0, Rerun.NO_NEED, "The task is done."
    USAGE = 64, Rerun.NEVER, "The command line is wrong."
    BAD_DATA = 65, Rerun.NEVER, "An input exists, but it is damaged or not what it should be."
    MISSING = 66, Rerun.NEVER, "An input does not exist."
    STORAGE = 69, Rerun.LIMITED, "A store could not be reached, even after several tries."
    BUG = 70, Rerun.NEVER, "A bug in Side-Step, or five attempts in a row without a checkpoint."
    OUT_OF_MEMORY = 71, Rerun.NEVER, "The GPU has too little memory for these settings."
    MACHINE = 72, Rerun.LIMITED, "This machine cannot run the job: no GPU, a full disk, …"
    AGAIN = 75, Rerun.ALWAYS, "The job was told to stop; its progress is saved."
    ACCESS = 77, Rerun.NEVER, "Credentials are missing, or do not allow this."
    BAD_SPEC = 78, Rerun.NEVER, "The job spec is wrong."


def codes(rerun: Rerun) -> list[int]:
    """The exit codes of this kind, in their order."""
    return [int(code) for code in ExitCode if code.rerun is rerun]


class SideStepError(Exception):
    """A failure with a message for the user: shown without a traceback, ends with `exit_code`.

    The message says what is wrong, where, what is allowed, and what to do; it may have many lines.
    Raise one of the subclasses; anything else that reaches the top is a bug (exit code 70).
    """

    exit_code = ExitCode.BUG

    def __init__(self, *words: object) -> None:
        """`words` may hold what a library said of its own error: secrets in them are hidden."""
        super().__init__(*(hide(word) if isinstance(word, str) else word for word in words))


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
