"""What there is to know of a platform: what it takes, and what it does when it wants its machine back."""

from collections.abc import Callable
from dataclasses import dataclass

from sidestep.platforms.job import Job


@dataclass(frozen=True)
class Rendered:
    """The file for a platform, and the shell command that submits it."""

    text: str
    command: str


@dataclass(frozen=True)
class Platform:
    """One platform that a job can run on."""

    name: str
    suffix: str  # of the rendered file's name
    reclaim: str  # what the platform does when it wants the machine back
    notice: str  # how long that leaves
    next_attempt: str  # who starts the next attempt; where nobody does, what to do
    render: Callable[[Job], Rendered]
    grace_seconds: int | None = None  # what the platform leaves to save; None: as long as it is told to
    local_paths: bool = False  # its machines have the folders that the spec names
    rented: bool = False  # a machine of ours alone, paid until it is given back: runtime.on_exit
    gpu_only: bool = False
