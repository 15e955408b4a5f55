"""The workspace: a local folder for downloads and unfinished work. It may be lost at any time."""

import fcntl
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from sidestep.runtime.errors import MachineError

log = logging.getLogger(__name__)

ADVICE = "Name another folder with runtime.workspace (--workspace, SIDESTEP_RUNTIME__WORKSPACE)."


class Workspace:
    """A local folder. Nothing in it is state: a job goes on from its output on a machine without it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def pulled(self, place: str) -> Path:
        """Return the folder for what is pulled from `place`: always the same one for the same place.

        `place` is a store's own, normalised one (`Store.place`).
        """
        digest = hashlib.sha256(place.encode()).hexdigest()[:16]
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", place.rsplit("/", 1)[-1])[:40].strip("-.")
        return self._folder("pulled", f"{readable}-{digest}" if readable else digest)

    def scratch(self, name: str) -> Path:
        """Return the folder of unfinished work called `name`. What an earlier process left is still there."""
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name), f"not a plain name: {name!r}"
        return self._folder("scratch", name)

    @contextmanager
    def temporary(self) -> Iterator[str]:
        """Yield a folder of this process alone, deleted with its content when the `with` block ends.

        Those of processes that were killed are deleted, too: each is locked while its process lives.
        """
        root = self._folder("temporary")
        lock = ExitStack()
        with self._usable(), _locked(root):
            for folder in root.iterdir():
                try:
                    with suppress(BlockingIOError), _locked(folder, wait=False):
                        shutil.rmtree(folder)
                except OSError as error:  # another user's, or no folder
                    log.debug("%s stays: %s", folder, error)
            temporary = TemporaryDirectory(dir=root, ignore_cleanup_errors=True)
            lock.enter_context(_locked(Path(temporary.name)))
        with lock, temporary as name:
            yield name

    def _folder(self, *names: str) -> Path:
        """A folder below, made where it is not there. A file or a link in its place goes: nothing here is
        state, and where all users may write, another one could have put the link there."""
        folder = self.root
        with self._usable():
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                folder /= name
                if folder.is_symlink() or folder.is_file():
                    folder.unlink()
                folder.mkdir(exist_ok=True)
        return folder

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise MachineError(f"The workspace {self.root} cannot be used: {error}. {ADVICE}") from error


@contextmanager
def _locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Hold the folder's lock, which ends with the process at the latest."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def open_workspace(path: str | None) -> Workspace:
    """Return the workspace at `path`; without one, at `sidestep` in the user's cache folder.

    Raises MachineError where the folder cannot be made or written.
    """
    root = Path(path) if path else _cache_folder() / "sidestep"
    try:
        root = root.expanduser().absolute()
        root.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        why = str(error).rstrip(".")
        raise MachineError(f"The workspace {root} cannot be made: {why}. {ADVICE}") from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise MachineError(f"The workspace {root} is not writable for this user. {ADVICE}")
    return Workspace(root)


def _cache_folder() -> Path:
    """$XDG_CACHE_HOME or ~/.cache; the XDG rules say to ignore a relative one."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named) if Path(named).is_absolute() else Path("~/.cache")
