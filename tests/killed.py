"""Work that is ended by a real signal: at each change that it makes on the disk, or before a call."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from sidestep.config.job import JobSpec
from sidestep.runtime import interrupts
from sidestep.runtime.errors import AgainError, ExitCode
from sidestep.runtime.preemption import Preemption
from sidestep.tasks import run

Point = tuple[Any, str]
"""A class or a module, and the name of a function of it."""

SIGNALS = [signal.SIGKILL, signal.SIGTERM]
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}


def ended_at_each_change(
    work: Callable[[], int], number: signal.Signals, root: Path, prepare: Callable[[], object] = lambda: None
) -> Iterator[int]:
    """After each end yield at which change below `root` it came; the last time `work` came through.

    Each time `prepare` is called, and then `work` runs in a fork of this process, to be ended by the signal
    `number`: SIGTERM as the command's process takes it.
    """
    for change in count(1):
        prepare()
        code = _forked(work, number, root, change)
        yield change
        if code == ExitCode.DONE:
            return
        assert code == (-number if number == signal.SIGKILL else ExitCode.AGAIN)


def attempt(spec: JobSpec, point: Point, number: int, what: signal.Signals) -> int:
    """One attempt at a job, in a fork, that gets a signal before call `number` of the point: the exit code,
    or minus the signal that it died of."""

    def work() -> int:
        _signal_at(point, number, what)
        try:
            with Preemption() as preemption:
                run(spec, preemption)
        except (AgainError, KeyboardInterrupt):
            return ExitCode.AGAIN
        return ExitCode.DONE

    return _in_fork(work)


def _forked(work: Callable[[], int], number: signal.Signals, root: Path, change: int) -> int:
    def ended() -> int:
        interrupts.raise_them()
        _end_at(change, number, str(root))
        try:
            return work()
        except interrupts.Terminated:
            return ExitCode.AGAIN

    return _in_fork(ended)


def _in_fork(work: Callable[[], int]) -> int:
    """The exit code that `work` returns, or minus the signal that it died of; 99 where it raised."""
    pid = os.fork()
    if not pid:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _signal_at(point: Point, number: int, what: signal.Signals) -> None:
    owner, name = point
    original, calls = getattr(owner, name), count(1)

    def call(*given: Any, **named: Any) -> Any:
        if next(calls) == number:
            os.kill(os.getpid(), what)
        return original(*given, **named)

    setattr(owner, name, call)


def _end_at(change: int, number: signal.Signals, root: str) -> None:
    """A file that is opened to be written counts twice: before that, and when it is there and empty."""
    left = change

    def is_its_turn() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def hook(event: str, given: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
        if not (writes or event in CHANGES) or not str(Path(given[0]).absolute()).startswith(root):
            return
        if writes and Path(given[0]).is_dir():  # a file without a name, of which nothing is left
            return
        if is_its_turn():
            os.kill(os.getpid(), number)
        if writes and is_its_turn():
            os.close(os.open(given[0], given[2] | os.O_CREAT, 0o666))
            os.kill(os.getpid(), number)

    sys.addaudithook(hook)
