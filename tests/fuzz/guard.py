"""What a reader may change: its own folder. Python tells of whatever it is asked to do, before it is done."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {  # audit event → where in its arguments a path stands that is changed, and the folder it is below
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
}
_NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")

_own: Path | None = None
_seen: list[str] = []


@contextmanager
def watched(own: Path) -> Iterator[list[str]]:
    """Yield a list to which all is added that the block does to this machine outside of the folder `own`."""
    global _own
    _listen()
    _seen.clear()
    _own = own
    try:
        yield _seen
    finally:
        _own = None


@cache
def _listen() -> None:
    sys.addaudithook(_hear)  # which stays as long as the process


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _own is None:
        return
    if event in _NEVER:
        _seen.append(f"{event} {arguments[:2]}")
    elif event == "open" and arguments[2] and arguments[2] & _WRITES:
        _judge(event, arguments[0], None)
    else:
        for path, folder in _CHANGES.get(event, ()):
            _judge(event, arguments[path], arguments[folder] if folder is not None else None)


def _judge(event: str, path: Any, folder: int | None) -> None:
    if not isinstance(path, str | bytes | os.PathLike):
        return  # a file that is open already
    full = Path(os.fsdecode(path))
    if folder is not None and folder >= 0:
        full = Path(f"/proc/self/fd/{folder}").resolve() / full
    # What is opened is what a link leads to; what is deleted or made is the link itself.
    real = Path(os.path.realpath(full)) if event == "open" else Path(os.path.realpath(full.parent), full.name)
    is_python_s = real == Path(os.devnull) or "__pycache__" in real.parts
    if _own is not None and not is_python_s and not real.is_relative_to(os.path.realpath(_own)):
        _seen.append(f"{event} {real}")
