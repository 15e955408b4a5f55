"""A command that is ended at each change that it makes on the disk, one after another."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from sidestep.runtime import interrupts
from sidestep.runtime.errors import ExitCode

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


def _forked(work: Callable[[], int], number: signal.Signals, root: Path, change: int) -> int:
    pid = os.fork()
    if not pid:
        code = 99
        try:
            interrupts.raise_them()
            _end_at(change, number, str(root))
            code = work()
        except interrupts.Terminated:
            code = ExitCode.AGAIN
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


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
