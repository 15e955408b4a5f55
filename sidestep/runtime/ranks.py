"""Which process of a training this is, and which node, by the variables of whoever has started it.

A process is a rank where RANK and WORLD_SIZE say so: `sidestep launch` sets them, and torchrun. The variables
of platforms (an Indexed Job's index, Slurm's, SkyPilot's, dstack's) are those of a node, and are read by
`sidestep launch` alone: elsewhere an index may mean something else. Blanks and line ends around a value are
no part of it, and one with nothing else is not set.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sidestep.runtime.errors import BadSpecError, meaning

LISTENER_VARIABLE = "SIDE_STEP_LISTENER"
"""The descriptor of a socket that listens already, for rank 0 of `sidestep launch`: no port can be taken."""

ENDS_VARIABLE = "SIDE_STEP_ENDS"
"""The descriptor of a file in which `sidestep launch` writes which of its processes has failed, and with what
code, before it ends the others: all that they see of it is a signal, or a connection that is closed."""

DEFAULT_PORT = 29500  # torchrun's
LAST_PORT = 65535


@dataclass(frozen=True)
class Rank:
    """One process of a training of several.

    Attributes:
        number: from 0. Rank 0 alone writes to the output.
        count: how many there are; at least 2.
        local: the same among those of this node: also which of its GPUs.
        host: where rank 0 is met, or torchrun.
        port: there.
        listener: see `LISTENER_VARIABLE`.
        is_hosted: whether torchrun, and not rank 0, answers there.
        attempt: counts torchrun's restarts, which meet at the same place.
    """

    number: int
    count: int
    local: int
    host: str
    port: int
    listener: int | None = None
    is_hosted: bool = False
    attempt: str = "0"

    @property
    def is_by_torchrun(self) -> bool:
        """Whether torchrun, which ends with 1 whatever its processes end with, has started it."""
        return self.is_hosted


@dataclass(frozen=True)
class Node:
    """One machine of a training of several.

    Attributes:
        number: from 0; rank 0 is there.
        count: how many there are.
        host: where node 0 is met.
        port: there; 0: any, as all processes are on this machine.
    """

    number: int
    count: int
    host: str
    port: int


@dataclass(frozen=True)
class _Variables:
    """How a platform tells a node its number, the count of nodes, and where the first one is."""

    number: str
    count: str
    host: str


_PLATFORMS = (  # in this order
    _Variables("PET_NODE_RANK", "PET_NNODES", "PET_MASTER_ADDR"),
    _Variables("JOB_COMPLETION_INDEX", "", ""),
    _Variables("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LAUNCH_NODE_IPADDR"),
    _Variables("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES", "SKYPILOT_NODE_IPS"),
    _Variables("DSTACK_NODE_RANK", "DSTACK_NODES_NUM", "DSTACK_MASTER_NODE_IP"),
)


def rank_in(environ: Mapping[str, str]) -> Rank | None:
    """The rank that this process is; None where it trains by itself.

    Raises BadSpecError where the variables contradict each other, or where one that is needed is missing.
    """
    if not _text(environ, "RANK") or not _text(environ, "WORLD_SIZE"):
        return None
    number, count = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    if number >= count:
        raise BadSpecError(f"RANK is {number}, but WORLD_SIZE is {count}: ranks are counted from 0")
    if count < 2:
        return None
    if not _text(environ, "MASTER_ADDR") or not _text(environ, "MASTER_PORT"):
        raise BadSpecError(
            "RANK and WORLD_SIZE are set, but not MASTER_ADDR and MASTER_PORT, where rank 0 is met\n"
            "  start the processes by `sidestep launch`; or unset RANK, to train in one process"
        )
    return Rank(
        number=number,
        count=count,
        local=_number(environ, "LOCAL_RANK") if _text(environ, "LOCAL_RANK") else number,
        host=_text(environ, "MASTER_ADDR"),
        port=_port(environ),
        listener=_number(environ, LISTENER_VARIABLE) if _text(environ, LISTENER_VARIABLE) else None,
        is_hosted=_text(environ, "TORCHELASTIC_USE_AGENT_STORE") == "True",
        attempt=_text(environ, "TORCHELASTIC_RESTART_COUNT") or "0",
    )


def is_rank(environ: Mapping[str, str]) -> bool:
    """Whether this process is one of several."""
    try:
        return rank_in(environ) is not None
    except BadSpecError:
        return False


def is_beside_another(environ: Mapping[str, str]) -> bool:
    """Whether this process is one of several, and not the first on its machine."""
    try:
        return share_in(environ)[0] > 0
    except BadSpecError:
        return False


def leads_another_machine(environ: Mapping[str, str]) -> bool:
    """Whether this process is the first on a machine without rank 0: what that machine waits for, and what it
    has to be warned of, nobody else says."""
    try:
        rank = rank_in(environ)
    except BadSpecError:
        return False
    return rank is not None and rank.number > 0 and rank.local == 0


def follower(environ: Mapping[str, str]) -> int:
    """The rank that this process is, if it leaves log, screen and output to another one; 0: it does not."""
    return _number(environ, "RANK") if is_rank(environ) else 0


def share_in(environ: Mapping[str, str]) -> tuple[int, int]:
    """Which process this is among those of a training on this machine, and how many they are."""
    rank = rank_in(environ)
    count = _number(environ, "LOCAL_WORLD_SIZE") if rank and _text(environ, "LOCAL_WORLD_SIZE") else 1
    return (rank.local, count) if rank and rank.local < count else (0, 1)


def is_launched(environ: Mapping[str, str]) -> bool:
    """Whether a launcher sees the ends of this machine's processes, and says so."""
    return bool(_text(environ, ENDS_VARIABLE))


def lost_rank(environ: Mapping[str, str]) -> str:
    """Which rank of this machine has failed first, as the launcher says: "rank 1 was lost with 137: …".
    Nothing where none has, or where nobody says so."""
    try:
        noted = os.pread(_number(environ, ENDS_VARIABLE), 100, 0) if is_launched(environ) else b""
    except (BadSpecError, OSError):  # another program's variable, or a process without its files
        return ""
    found = re.match(rb"(\d+) (\d+)\n", noted)
    return f"rank {int(found[1])} was lost with {int(found[2])}: {meaning(int(found[2]))}" if found else ""


def node_in(environ: Mapping[str, str], nodes: int | None = None) -> Node:
    """The node that this machine is among `nodes`; None: as many as the platform says, else one.

    Raises BadSpecError where the platform has another count, or does not say which node this is.
    """
    found = next((one for one in _PLATFORMS if _text(environ, one.number)), None)
    said = f"--nodes is {nodes}"
    if nodes is None:
        # Neither an index nor a Slurm task is a node by itself: both have other uses.
        counts = found is not None and found.number.startswith(("PET_", "SKYPILOT_", "DSTACK_"))
        nodes = _number(environ, found.count) if found and counts and _text(environ, found.count) else 1
        said = f"{found.count} is {nodes}" if found else ""
    if nodes == 1:
        return Node(0, 1, "127.0.0.1", 0)
    if found is None:
        names = ", ".join(one.number for one in _PLATFORMS)
        raise BadSpecError(
            f"--nodes is {nodes}, but nothing says which of them this is: none of {names} is set\n"
            "  on a cluster of your own, set PET_NODE_RANK (from 0) and PET_MASTER_ADDR (node 0) on each node"
        )
    number = _number(environ, found.number)
    if number >= nodes:
        raise BadSpecError(f"{found.number} is {number}, but {said}: nodes are counted from 0")
    if _text(environ, found.count) and _number(environ, found.count) != nodes:
        raise BadSpecError(f"--nodes is {nodes}, but {found.count} is {_text(environ, found.count)}")
    host = _text(environ, "MASTER_ADDR") or _text(environ, found.host).partition("\n")[0].rstrip()
    if not host:
        raise BadSpecError(
            f"{nodes} nodes, but nothing says where node 0 is: set MASTER_ADDR to its name or address"
        )
    port = _port(environ) if _text(environ, "MASTER_PORT") else DEFAULT_PORT
    return Node(number, nodes, host, port)


def _port(environ: Mapping[str, str]) -> int:
    port = _number(environ, "MASTER_PORT")
    if not 1 <= port <= LAST_PORT:
        raise BadSpecError(f"MASTER_PORT is {port}: a port from 1 to {LAST_PORT} is expected")
    return port


def _number(environ: Mapping[str, str], name: str) -> int:
    text = _text(environ, name)
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise BadSpecError(f"{name} is {text!r}: a whole number is expected")
    return int(text)


def _text(environ: Mapping[str, str], name: str) -> str:
    """A variable's value; nothing where it is not set."""
    return environ.get(name, "").strip()
