"""What there is to know of a platform: what it takes, and what it does when it wants its machine back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sidestep.platforms.job import Job
from sidestep.runtime.errors import Rerun
from sidestep.storage.access import Way


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
    after: Mapping[Rerun, str]  # what it does by itself after a code of each class that is not done
    brings: Mapping[Way, str]  # how credentials come to a job, and where from
    render: Callable[[Job], Rendered]
    grace_seconds: int | None = None  # what the platform leaves to save; None: as long as it is told to
    local_paths: bool = False  # its machines have the folders that the spec names
    rented: bool = False  # a machine of ours alone, paid until it is given back: runtime.on_exit
    gpu_only: bool = False
    starts_many: bool = False  # of one file, each with an index of its own
    grants: frozenset[str] = frozenset()  # which of the `Wishes` it can be asked for
    many_gpus: bool = False  # its machines may have several: runtime.gpus
    many_nodes: bool = False  # several machines may train together: runtime.nodes
    cuda: int = 13  # of its image by default: 12 where nobody can choose the machine's driver
