"""A folder on this machine as a store."""

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from tempfile import TemporaryFile
from typing import Self

from sidestep.config.schema import StorageSpec
from sidestep.runtime.atomic import TEMPORARY, replacing
from sidestep.runtime.creating import create_file
from sidestep.runtime.diskerrors import local_errors
from sidestep.runtime.errors import BadDataError, BadSpecError
from sidestep.storage.store import PROBE, FileInfo, ProgressCallback, Store, Unfinished, no_progress

log = logging.getLogger(__name__)

COPY_BYTES = 2**20


class LocalStore(Store):
    """A local folder. Written files are synced to the disk before they get their name.

    Nothing is written or deleted through a symbolic link below the folder that was opened; that one may
    itself be a link, as the user has named it.
    """

    def __init__(
        self, root: Path, options: StorageSpec, follow_links: bool = False, opened: Path | None = None
    ) -> None:
        """`opened` is the folder that was opened first, where this one is a child of it."""
        self.local_root = self.root = Path(os.path.normpath(root))
        self.place = str(self.root)
        self.options = options
        self.follow_links = follow_links
        self._opened = opened or self.root

    def child(self, path: str) -> Self:
        return type(self)(self.root / self.clean_path(path), self.options, self.follow_links, self._opened)

    def locate(self, path: str) -> Path:
        """Return the file's own path on this machine, which need not exist.

        Raises BadDataError where it leads out of the folder, by itself or through a symbolic link.
        """
        full = self.root / self.clean_path(path)
        if not self.follow_links:
            real, root = os.path.realpath(full), os.path.realpath(self.root)
            if os.path.commonpath((real, root)) != root:
                raise BadDataError(
                    f"{full} is a symbolic link out of {self.root}, which is not followed: it could show any "
                    "file of this machine. Put the file itself there, or name the folder the link leads to."
                )
        return full

    def locate_to_write(self, path: str) -> Path:
        """Return the path of what is to be written. Raises BadDataError for a link on the way to it."""
        full = self.locate(path)
        with local_errors(full):
            links = [part for part in (full, *full.parents) if part.is_symlink()]
        if below := [link for link in links if link.is_relative_to(self._opened) and link != self._opened]:
            raise BadDataError(
                f"{below[0]} is a symbolic link, through which nothing is written: it could lead into any "
                "file of this machine. Put a file or folder itself there, or name the place it leads to."
            )
        return full

    def check_can_be_made(self) -> Path:
        """Make sure that files can be written here, or a folder made: by a file in the nearest one there is.

        That file has no name, so nothing is left of it. No folder is made or deleted: another process may be
        about to use it. Returns the folder that was tried. Raises BadSpecError where a file is in the way,
        AccessError where it may not be made.
        """
        full = self.locate_to_write("")
        with local_errors(full):
            while True:
                kinds = ((folder, _is_folder(folder)) for folder in (full, *full.parents))
                nearest, is_folder = next(known for known in kinds if known[1] is not None)
                if not is_folder:
                    raise BadSpecError(
                        f"{nearest} is a file, where a folder is needed. Move it away, or name another place."
                    )
                try:
                    TemporaryFile(dir=nearest).close()
                    return nearest
                except FileNotFoundError:
                    if nearest.is_dir():
                        raise
                    log.debug("%s was deleted just now", nearest)

    def check_free(self, path: str, *, is_folder: bool) -> None:
        """Make sure that `path` can be a file, or a folder. Raises BadDataError for anything else there."""
        full = self.locate_to_write(path)
        with local_errors(full):
            if _is_folder(full) is (not is_folder):
                kind = errno.ENOTDIR if is_folder else errno.EISDIR
                raise OSError(kind, os.strerror(kind), str(full))

    def list_files(self, path: str = "") -> list[FileInfo]:
        with local_errors(f"{self.place}/{path}"):
            found = self._files_below(self.clean_path(path), frozenset())
            return sorted(found, key=lambda info: info.path)

    def stat(self, path: str) -> FileInfo | None:
        full = self.locate(path)
        with local_errors(full):
            return _info(full, self.clean_path(path)) if full.is_file() else None

    def refuse_folder(self, path: str) -> None:
        full = self.locate(path)
        with local_errors(full):
            if _is_folder(full):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(full))

    def read_bytes(self, path: str) -> bytes:
        full = self.locate(path)
        with local_errors(full):
            _refuse_pipe(full)
            return full.read_bytes()

    def read_range(self, path: str, start: int, size: int) -> bytes:
        full = self.locate(path)
        with local_errors(full), full.open("rb") as file:
            file.seek(start)
            return file.read(size)

    def write_bytes(self, path: str, data: bytes) -> None:
        full = self.locate_to_write(path)
        with local_errors(full), replacing(full) as temporary:
            temporary.write_bytes(data)

    def create(self, path: str, data: bytes) -> bool:
        full = self.locate_to_write(path)
        with local_errors(full):
            return create_file(full, data) is not None

    def download(self, path: str, target: Path, progress: ProgressCallback = no_progress) -> None:
        _copy(self.locate(path), target, progress)

    def upload(self, source: Path, path: str, progress: ProgressCallback = no_progress) -> None:
        _copy(source, self.locate_to_write(path), progress)

    def delete(self, path: str) -> None:
        full = self.locate_to_write(path)
        with local_errors(full):
            full.unlink(missing_ok=True)
            self._remove_empty_folders(full)

    def unfinished(self) -> list[Unfinished]:
        """Temporary files, however deep, and probes."""
        with local_errors(self.root):
            found = [
                Path(folder, name)
                for folder, _, names in os.walk(self.root)
                for name in names
                if name.startswith(TEMPORARY) or (name.startswith(PROBE) and Path(folder) == self.root)
            ]
            if not found:
                return []
            with TemporaryFile(dir=self.root) as just_made:  # by a file server's clock, where it is one's
                just_made.write(b"\0")
                just_made.flush()
                now = os.fstat(just_made.fileno()).st_mtime
            infos = [_info(file, file.relative_to(self.root).as_posix()) for file in found]
            return [Unfinished(info.path, now - int(info.version) / 1e9) for info in infos if info]

    def _remove_empty_folders(self, deleted: Path) -> None:
        """A folder that holds nothing goes, as in a bucket. The store's own stays."""
        for folder in deleted.parents:
            if folder == self.root or not folder.is_relative_to(self.root):
                return
            try:
                folder.rmdir()
            except OSError:  # it holds something, or is a link, or a disk is mounted there
                return

    def _files_below(self, folder: str, above: frozenset[str]) -> Iterator[FileInfo]:
        """`above`: the real paths of the folders this one is in, so that a link upwards ends the way down."""
        full = self.locate(folder)
        real = os.path.realpath(full)
        if real in above or not full.is_dir():
            return
        try:
            entries = os.scandir(full)
        except FileNotFoundError:  # deleted since it was seen
            return
        with entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir():
                    yield from self._files_below(path, above | {real})
                elif entry.is_file() and not entry.name.startswith(TEMPORARY):
                    info = _info(Path(entry.path), path)
                    if info is not None:
                        yield info


def _is_folder(path: Path) -> bool | None:
    """None where nothing is there. Asked once, as another process may make or delete it at any time."""
    try:
        return S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False if path.is_symlink() else None  # a link that leads nowhere


def _info(full: Path, path: str) -> FileInfo | None:
    try:
        status = full.stat()
    except FileNotFoundError:  # deleted since it was seen
        return None
    return FileInfo(path, status.st_size, str(status.st_mtime_ns))


def _refuse_pipe(path: Path) -> None:
    """A pipe or a device could be waited for, or read, for ever. A folder is refused by whoever opens it."""
    mode = path.stat().st_mode
    if not S_ISREG(mode) and not S_ISDIR(mode):
        raise BadDataError(f"{path} is a pipe or a device, where a file is needed.")


def _copy(source: Path, target: Path, progress: ProgressCallback) -> None:
    with local_errors(source):
        _refuse_pipe(source)
        reader = source.open("rb")
    with reader, local_errors(target), replacing(target) as temporary, temporary.open("wb") as writer:
        while block := reader.read(COPY_BYTES):
            writer.write(block)
            progress(len(block))
