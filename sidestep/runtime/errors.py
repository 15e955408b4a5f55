"""What can go wrong, and the exit code that says so: the one table.

The numbers follow sysexits.h. 137 and 143 (killed by a signal) are never ours, so a scheduler that
sees one of the codes below knows that the job itself decided to stop, and whether to run it again.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Why a process ended. The member's docstring-like comment is what the docs print."""

    DONE = 0  # the task is done
    USAGE = 64  # the command line is wrong
    BAD_DATA = 65  # an input is there but is not what it should be
    MISSING = 66  # an input is not there
    STORAGE = 69  # a store stayed out of reach after retries
    BUG = 70  # a fault of Side-Step itself
    OUT_OF_MEMORY = 71  # the GPU's memory is too small for these settings
    MACHINE = 72  # this machine cannot run the job (no GPU where one is asked for, a full disk, ...)
    AGAIN = 75  # progress is saved; run the same command again
    ACCESS = 77  # credentials are missing or not allowed to do this
    BAD_SPEC = 78  # the job spec is wrong


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
