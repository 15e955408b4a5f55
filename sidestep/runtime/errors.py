"""What can go wrong, and the exit code that says so: the one table.

The numbers follow sysexits.h. 137 and 143 (killed by a signal) are never ours, so a scheduler that
sees one of the codes below knows that the job itself decided to stop, and whether to run it again. What the
rendered files, the chart and the docs say of codes is made from here.
"""

from enum import Enum, IntEnum
from typing import Self

from sidestep.runtime.secrets import hide


class Rerun(Enum):
    """The class of a code: what the same command does when it is run again, as the docs say it."""

    NO_NEED = "done: has nothing left to do"
    PERMANENT = "permanent: fails the same way"
    COUNTED = "counted: may succeed later or on another machine, so a few tries are worth it"
    AGAIN = "again: continues from there, so it is worth any number of tries"


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
    USAGE = 64, Rerun.PERMANENT, "The command line is wrong."
    BAD_DATA = 65, Rerun.PERMANENT, "An input exists, but it is damaged or not what it should be."
    MISSING = 66, Rerun.PERMANENT, "An input does not exist."
    STORAGE = 69, Rerun.COUNTED, "A store could not be reached, even after several tries."
    BUG = (
        70,
        Rerun.PERMANENT,
        "A bug in Side-Step, or the end of max_hours, max_cost or max_attempts.",
    )
    OUT_OF_MEMORY = 71, Rerun.PERMANENT, "The GPU has too little memory for these settings."
    MACHINE = 72, Rerun.COUNTED, "This machine cannot run the job: no GPU, a full disk, …"
    TAKEN = 73, Rerun.COUNTED, "Another run is writing to the same output."
    PEER = (
        74,
        Rerun.COUNTED,
        "Another process of the same training has ended or is lost; its own code says why.",
    )
    AGAIN = 75, Rerun.AGAIN, "The job was told to stop; its progress is saved."
    STALLED = 76, Rerun.COUNTED, "Nothing has advanced for too long."
    ACCESS = 77, Rerun.PERMANENT, "Credentials are missing, or do not allow this."
    BAD_SPEC = 78, Rerun.PERMANENT, "The job spec is wrong."


OTHERS = {
    1: "a wrapper or Python itself failed",
    126: "the command cannot be executed",
    127: "there is no such command",
    134: "it aborted",
    137: "it was killed, for memory or because its time was over",
    139: "it crashed",
    143: "it was told to stop before Side-Step began",
}
"""Codes that a scheduler may see and that are not Side-Step's. They are counted, as all others that are not
in the table: nobody knows whether another try would help."""


def codes(rerun: Rerun) -> list[int]:
    """The exit codes of this class, in their order."""
    return [int(code) for code in ExitCode if code.rerun is rerun]


def rerun_after(code: int) -> Rerun:
    """The class of any exit code: what is not in the table is counted."""
    return next((own.rerun for own in ExitCode if own == code), Rerun.COUNTED)


def meaning(code: int) -> str:
    """Why a process ended with this code, as a clause."""
    own = next((one.meaning for one in ExitCode if one == code), "")
    return OTHERS.get(code) or (own[:1].lower() + own[1:]).rstrip(".") or "for no reason that is known"


class SideStepError(Exception):
    """A failure with a message for the user: shown without a traceback, ends with `exit_code`.

    The message says what is wrong, where, what is allowed, and what to do; it may have many lines.
    Raise one of the subclasses; anything else that reaches the top is a bug (exit code 70).

    Attributes:
        is_own: whether it is that of one process of several that train together, which have met. Before they
            have, what ends one ends all of its machine.
    """

    exit_code = ExitCode.BUG
    is_own = False

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


class TakenError(SideStepError):
    """Another run is alive and writes to the output; what this one had committed is safe."""

    exit_code = ExitCode.TAKEN


class PeerLostError(SideStepError):
    """A training of several processes has lost one, see `training.team`. Beside other codes it has no say."""

    exit_code = ExitCode.PEER


class StalledError(SideStepError):
    """Nothing has advanced for too long, see `lifecycle.watchdog`."""

    exit_code = ExitCode.STALLED


class AgainError(SideStepError):
    """Not a failure: what is done is saved, and the same command goes on from there."""

    exit_code = ExitCode.AGAIN
