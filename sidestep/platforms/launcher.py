"""Starts the processes of one training on this machine, and ends with the code that counts.

Each process is a command of its own, which knows by its variables which rank it is (`runtime.ranks`). A
signal is passed on to all. Whatever a platform's failure policy is told comes from here: which of several
codes it is, and that a process which the kernel has killed, or a library has aborted, is worth a few tries.
"""

import ctypes
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from sidestep.runtime.errors import OTHERS, ExitCode, MachineError, Rerun, rerun_after
from sidestep.runtime.interrupts import SIGNALS, is_free
from sidestep.runtime.ranks import ENDS_VARIABLE, LISTENER_VARIABLE, Node
from sidestep.runtime.words import counted

log = logging.getLogger(__name__)

LOOKS_EVERY = 0.1  # seconds
SECONDS_TO_END = 45.0  # that the others have, once one has failed, or rank 0 has ended
SECONDS_TO_FIND = 1.0  # what another has found, as in a wrong spec: to be told to stop as well would confuse
SECONDS_AFTER_PEER = 15.0  # once one has ended as it had lost another one: it has waited before
THREADS_VARIABLE = "OMP_NUM_THREADS"
_PR_SET_PDEATHSIG = 1


@dataclass
class _Processes:
    """Those of this machine, by rank.

    Attributes:
        ends: the codes of those that have ended, as they are told, in the order of their ends.
        is_noticed: whether a signal came, or was sent as one of them has ended.
        tell_at: when those that are left are told to stop.
        kill_at: when those that are left are killed.
        noted: the file in which they read which of them has failed, see `runtime.ranks.ENDS_VARIABLE`.
    """

    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    ends: list[tuple[int, int]] = field(default_factory=list)
    is_noticed: bool = False
    tell_at: float | None = None
    kill_at: float | None = None
    noted: int | None = None

    def pass_on(self, number: int, frame: FrameType | None = None) -> None:
        """A signal came: it is for all."""
        self.is_noticed = True
        self._signal(signal.Signals(number))

    def wait(self) -> None:
        """Until all have ended. Where one has failed, the others cannot go on, and are told so."""
        while self.running:
            time.sleep(LOOKS_EVERY)
            for rank, process in list(self.running.items()):
                if (ended := process.poll()) is None:
                    continue
                del self.running[rank]
                seen = ended if ended >= 0 else 128 - ended
                code = self._told_as(rank, seen)
                self.ends.append((rank, code))
                is_failure = code not in (ExitCode.DONE, ExitCode.AGAIN, ExitCode.PEER)
                if is_failure and self.noted is not None:
                    os.write(self.noted, f"{rank} {seen}\n".encode())
                if code == ExitCode.PEER:
                    self._kill_after(SECONDS_AFTER_PEER)
                elif is_failure or rank == 0:
                    self._kill_after(SECONDS_TO_END)
                if is_failure or code == ExitCode.AGAIN:  # it may not have met the others yet
                    is_for_all = rerun_after(code) is Rerun.PERMANENT
                    self._tell_after(SECONDS_TO_FIND if is_for_all else 0)
            if self.tell_at is not None and time.monotonic() > self.tell_at:
                self._end_others()
            if self.kill_at is not None and time.monotonic() > self.kill_at:
                self._signal(signal.SIGKILL)

    def _end_others(self) -> None:
        """Once: a later signal would end rank 0 while it saves."""
        if not self.is_noticed:
            self.pass_on(signal.SIGTERM)

    def _tell_after(self, seconds: float) -> None:
        at = time.monotonic() + seconds
        self.tell_at = at if self.tell_at is None else min(self.tell_at, at)

    def _kill_after(self, seconds: float) -> None:
        at = time.monotonic() + seconds
        self.kill_at = at if self.kill_at is None else min(self.kill_at, at)

    def _signal(self, number: signal.Signals) -> None:
        for process in list(self.running.values()):
            process.send_signal(number)

    def _told_as(self, rank: int, code: int) -> int:
        """The code that stands for how a process has ended: killed, aborted and crashed ones are counted."""
        told = code
        if code > 128:
            is_end = code in (128 + signal.SIGTERM, 128 + signal.SIGINT)
            told = ExitCode.AGAIN if is_end and self.is_noticed else ExitCode.STALLED
            log.error("Rank %d: %s (%d); this counts as %d", rank, OTHERS.get(code, "a signal"), code, told)
        elif code not in (ExitCode.DONE, ExitCode.AGAIN):
            log.warning("Rank %d has ended with %d", rank, code)
        return told


def launch(command: Sequence[str], node: Node, count: int) -> int:
    """Run `command`, a program and its words, in `count` processes of this node; the code of all together.

    Raises MachineError where the port is taken at which the others meet rank 0.
    """
    _warn_of_threads(os.environ, count)
    noted = os.memfd_create("ends")
    processes = _Processes(noted=noted)
    before = {number: signal.signal(number, processes.pass_on) for number in SIGNALS if is_free(number)}
    try:
        listener = _listener(node) if node.number == 0 else None
        port = listener.getsockname()[1] if listener else node.port
        for local in range(count):
            rank = node.number * count + local
            given = {
                "RANK": rank,
                "WORLD_SIZE": node.count * count,
                "LOCAL_RANK": local,
                "LOCAL_WORLD_SIZE": count,
                "MASTER_ADDR": node.host,
                "MASTER_PORT": port,
            }
            environ = {**os.environ, **{name: str(value) for name, value in given.items()}}
            environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # pages of it where another process is gone
            if count > 1 and not environ.get(THREADS_VARIABLE, "").strip():
                environ[THREADS_VARIABLE] = str(_share_of_cores(count))
            if node.count == 1:
                environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            environ[ENDS_VARIABLE] = str(noted)
            passed = [noted]
            if listener and rank == 0:
                environ[LISTENER_VARIABLE] = str(listener.fileno())
                passed.append(listener.fileno())
            processes.running[rank] = subprocess.Popen(
                command,
                env=environ,
                pass_fds=passed,
                preexec_fn=_end_with_parent,
            )
        if listener:
            listener.close()
        if processes.is_noticed:  # some were not there to hear of it
            processes.pass_on(signal.SIGTERM)
        processes.wait()
    finally:
        processes.pass_on(signal.SIGKILL) if processes.running else None
        os.close(noted)
        for number, handler in before.items():
            signal.signal(number, handler)
    return together(processes.ends)


def _share_of_cores(count: int) -> int:
    return max((os.cpu_count() or 1) // count, 1)


def _warn_of_threads(environ: Mapping[str, str], count: int) -> None:
    """Say where each of `count` processes is told to compute with more threads than there are cores for it:
    then they wait for each other, and are many times slower."""
    text, share = environ.get(THREADS_VARIABLE, "").partition(",")[0].strip(), _share_of_cores(count)
    if count > 1 and text.isdecimal() and int(text) > share:
        log.warning(
            "%s is %s for each of %d processes, and this machine has %s: on a CPU, that is many times "
            "slower. Leave it unset, or set it to %d",
            *(THREADS_VARIABLE, text, count, counted(os.cpu_count() or 1, "cores"), share),
        )


def together(ends: Sequence[tuple[int, int]]) -> int:
    """The one code of several processes: `ends` are rank and code of each, in the order of their ends.

    Where rank 0 has finished, the training is finished. Else the first permanent code counts, else the first
    counted one, else 75. Who ends as another process is gone has no say beside others.
    """
    codes = [code for _, code in ends]
    if (0, ExitCode.DONE) in ends:
        return ExitCode.DONE
    by_class = [
        *(code for code in codes if rerun_after(code) is Rerun.PERMANENT),
        *(code for code in codes if rerun_after(code) is Rerun.COUNTED and code != ExitCode.PEER),
        *(code for code in codes if code == ExitCode.AGAIN),
        *(code for code in codes if code == ExitCode.PEER),
    ]
    return next(iter(by_class), ExitCode.DONE)


def _listener(node: Node) -> socket.socket:
    """Where rank 0 is met: a free port of this machine, where all are here."""
    if node.count == 1:
        return socket.create_server((node.host, node.port))
    both = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            ("", node.port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both
        )
    except OSError as error:
        raise MachineError(
            f"the nodes cannot meet at port {node.port} of this one: {error.strerror}\n"
            "  another program has it: set MASTER_PORT to a free one, the same on each node"
        ) from error


def _end_with_parent() -> None:
    """In the child: where the launcher is killed, that is notice."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
