"""Pulling many files at a time from a store to the local disk."""

import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from rich.filesize import decimal

from sidestep.runtime.atomic import replacing
from sidestep.runtime.diskerrors import local_errors
from sidestep.runtime.errors import BadDataError, MachineError, StorageError
from sidestep.runtime.parsing import parse_as
from sidestep.runtime.progress import track
from sidestep.runtime.words import counted, shown
from sidestep.runtime.workspace import Workspace
from sidestep.storage.paths import local_name, unfit
from sidestep.storage.store import FileInfo, ProgressCallback, Store, no_progress

log = logging.getLogger(__name__)

Item = TypeVar("Item")


def pull(store: Store, files: Sequence[FileInfo], workspace: Workspace, title: str) -> Path:
    """Bring files of a store to the local disk, and return the folder that holds them, see `copy_of`.

    A local store is used where it is. From another one a file is pulled unless the workspace has it in
    this size and version, with the content that was pulled: its copy is compared with its sha256 once in an
    attempt. What else the folder holds is from earlier pulls, and of no meaning.

    Raises StorageError where a file changed while it was pulled, MachineError where the disk is too small,
    and BadDataError with all keys that can be no files on a disk.
    """
    if store.local_root is not None:
        for file in files:
            store.stat(file.path)  # refuses links that lead out of the store
        return store.local_root
    check_keys(store, files)
    copies = Copies(store, workspace)
    with ThreadPoolExecutor() as threads:  # hashing leaves Python's lock to the others
        are_there = list(threads.map(copies.has, files))
    missing = [file for file, is_there in zip(files, are_there, strict=True) if not is_there]
    if not missing:
        log.info("%s: all of it is in the workspace already (%s)", title, counted(len(files), "files"))
        return copies.folder
    size = sum(file.size for file in missing)
    copies.check_space(size)
    with track(title, size, "B") as bar:
        _each(lambda file: copies.fetch(file, bar.advance), missing, store.options.connections)
    return copies.folder


def check_keys(store: Store, files: Iterable[FileInfo]) -> None:
    """Raise BadDataError with all keys that can be no files on a disk."""
    if problems := unfit(file.path for file in files):
        lines = [f"{shown(f'{store.place}/{key}')} {reason}" for key, reason in problems.items()]
        raise BadDataError("\n  ".join([f"{counted(len(lines), 'files')} cannot be pulled:", *lines]))


def copy_of(store: Store, folder: Path, path: str) -> Path:
    """Where a file of a store is in the folder that `pull` has returned."""
    return folder / (path if store.local_root is not None else local_name(path))


@contextmanager
def using_copies(store: Store, files: Sequence[FileInfo], workspace: Workspace) -> Iterator[None]:
    """Raise MachineError where the block fails, and copies of `files`, which were pulled, are gone or other.

    Then the failure says nothing of the store's own files, and the same command pulls them again.
    """
    try:
        yield
    except Exception as error:
        if store.local_root is None:
            copies = Copies(store, workspace)
            if gone := [file.path for file in files if not copies.has(file)]:
                raise MachineError(
                    f"{copy_of(store, copies.folder, gone[0])} was deleted or changed after it was pulled. "
                    "Run the same command again: it pulls what is missing; and let nothing else clear the "
                    "workspace meanwhile."
                ) from error
        raise


def _each(move: Callable[[Item], None], items: Iterable[Item], at_a_time: int) -> None:
    """Calls `move` for all items in threads. After a failure, which is raised, no other one is begun."""
    stop = threading.Event()

    def move_unless_stopped(item: Item) -> None:
        if not stop.is_set():
            try:
                move(item)
            except BaseException:
                stop.set()
                raise

    with ThreadPoolExecutor(at_a_time, thread_name_prefix="transfer") as threads:
        moves = [threads.submit(move_unless_stopped, item) for item in items]
        try:
            for started in moves:
                started.result()
        finally:
            stop.set()  # also when the waiting itself is interrupted


def _make_way(local: Path, folder: Path) -> None:
    """Delete what is no file in the copy's place, and what is no folder above it: nothing here is state."""
    with local_errors(local):
        for above in reversed(local.relative_to(folder).parents[:-1]):
            if (folder / above).is_symlink() or (folder / above).is_file():
                (folder / above).unlink()
        _delete_unless_file(local)


def _delete_unless_file(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif not path.is_file() or path.is_symlink():
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Pulled:
    """A file as the store had it when it was pulled, and what came."""

    path: str
    size: int
    version: str
    sha256: str = ""  # older versions noted none

    def is_of(self, file: FileInfo) -> bool:
        return (self.path, self.size, self.version) == (file.path, file.size, file.version)


_verified: dict[Path, tuple[int, int]] = {}
"""Copies that this process has compared with their digest, with the size and time they had then."""


class Copies:
    """Copies of a store's files in the workspace, and what is known of them: one JSON line per file that was
    pulled, in `<folder>.jsonl`, of which the last one counts.

    A line is added after each file, so that a pull that is stopped goes on where it was. Several threads may
    use it at a time.
    """

    def __init__(self, store: Store, workspace: Workspace) -> None:
        self._store = store
        self.folder = workspace.pulled(store.place)
        self._path = self.folder.with_name(self.folder.name + ".jsonl")
        self._lock = threading.Lock()
        with local_errors(self.folder):
            _delete_unless_file(self._path)
            self._files = _read_records(self._path)
            # Also ends a torn last line, to which the next record would be added.
            with replacing(self._path) as temporary:
                temporary.write_text("".join(map(_line, self._files.values())), encoding="utf-8")

    def path(self, file: FileInfo) -> Path:
        """Where the copy of a file is, if it is there."""
        return self.folder / local_name(file.path)

    def fetch(self, file: FileInfo, progress: ProgressCallback = no_progress) -> None:
        """Pull a file, whether or not it is there.

        Raises StorageError where it is another one by now, and what `Store.download` does.
        """
        local = self.path(file)
        _make_way(local, self.folder)
        came = self._store.download(file.path, local, progress)
        # An answer may spell its version otherwise.
        if (came is None or came.file != file) and self._store.stat(file.path) != file:
            raise StorageError(
                f"{self._store.place}/{file.path} changed while it was pulled. Run the same command again "
                "when nobody writes there."
            )
        self._add(_Pulled(**asdict(file), sha256=came.sha256 if came else _sha256(local)))

    def check_space(self, size: int) -> None:
        """Raise MachineError where the disk has not so many bytes left."""
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise MachineError(
                f"{decimal(size)} are to be pulled into {self.folder}, where only {decimal(free)} are free. "
                "Free some, or name a workspace on another disk with runtime.workspace (--workspace)."
            )

    def has(self, file: FileInfo) -> bool:
        """Whether the copy of a file is there, as it was pulled: it is compared once in an attempt."""
        pulled, local = self._files.get(file.path), self.path(file)
        try:
            if pulled is None or not pulled.is_of(file) or local.is_symlink() or not local.is_file():
                return False
            status = local.stat()
            seen = (status.st_size, status.st_mtime_ns)
            if _verified.get(local) == seen:
                return True
            if status.st_size != file.size or pulled.sha256 not in ("", _sha256(local)):
                log.warning("%s is damaged, and is pulled again", local)
                return False
        except OSError as error:
            log.warning("%s cannot be read, and is pulled again: %s", local, error.strerror)
            return False
        _verified[local] = seen
        return True

    def _add(self, pulled: _Pulled) -> None:
        with self._lock, local_errors(self._path):
            if self._files.get(pulled.path) != pulled:
                self._files[pulled.path] = pulled
                with self._path.open("a", encoding="utf-8") as lines:
                    lines.write(_line(pulled))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_records(path: Path) -> dict[str, _Pulled]:
    files: dict[str, _Pulled] = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            file = parse_as(_Pulled, line, str(path))
        except BadDataError:
            log.debug("%s has a torn line; its file is pulled again", path)
            continue
        files[file.path] = file
    return files


def _line(file: _Pulled) -> str:
    return json.dumps(asdict(file)) + "\n"
