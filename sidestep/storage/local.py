"""A folder on this machine as a store."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from sidestep.config.schema import StorageSpec
from sidestep.runtime.atomic import TEMPORARY, create_file, replacing
from sidestep.runtime.diskerrors import local_errors
from sidestep.runtime.errors import BadDataError
from sidestep.storage.store import FileInfo, ProgressCallback, Store, no_progress

COPY_BYTES = 2**20


class LocalStore(Store):
    """A local folder. Written files are synced to the disk before they get their name."""

    def __init__(self, root: Path, options: StorageSpec, follow_links: bool = False) -> None:
        self.local_root = self.root = Path(os.path.normpath(root))
        self.place = str(self.root)
        self.options = options
        self.follow_links = follow_links

    def child(self, path: str) -> Self:
        return type(self)(self.root / self.clean_path(path), self.options, self.follow_links)

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

    def list_files(self, path: str = "") -> list[FileInfo]:
        with local_errors(f"{self.place}/{path}"):
            found = self._files_below(self.clean_path(path), frozenset())
            return sorted(found, key=lambda info: info.path)

    def stat(self, path: str) -> FileInfo | None:
        full = self.locate(path)
        with local_errors(full):
            return _info(full, self.clean_path(path)) if full.is_file() else None

    def read_bytes(self, path: str) -> bytes:
        full = self.locate(path)
        with local_errors(full):
            return full.read_bytes()

    def write_bytes(self, path: str, data: bytes) -> None:
        full = self.locate(path)
        with local_errors(full), replacing(full) as temporary:
            temporary.write_bytes(data)

    def create(self, path: str, data: bytes) -> bool:
        full = self.locate(path)
        with local_errors(full):
            return create_file(full, data)

    def download(self, path: str, target: Path, progress: ProgressCallback = no_progress) -> None:
        _copy(self.locate(path), target, progress)

    def upload(self, source: Path, path: str, progress: ProgressCallback = no_progress) -> None:
        _copy(source, self.locate(path), progress)

    def delete(self, path: str) -> None:
        full = self.locate(path)
        with local_errors(full):
            full.unlink(missing_ok=True)
            self._remove_empty_folders(full)

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
            scanned = os.scandir(full)
        except FileNotFoundError:  # deleted since it was seen
            return
        with scanned as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir():
                    yield from self._files_below(path, above | {real})
                elif entry.is_file() and not entry.name.startswith(TEMPORARY):
                    info = _info(Path(entry.path), path)
                    if info is not None:
                        yield info


def _info(full: Path, path: str) -> FileInfo | None:
    try:
        status = full.stat()
    except FileNotFoundError:  # deleted since it was seen
        return None
    return FileInfo(path, status.st_size, str(status.st_mtime_ns))


def _copy(source: Path, target: Path, progress: ProgressCallback) -> None:
    with local_errors(source):
        reader = source.open("rb")
    with reader, local_errors(target), replacing(target) as temporary, temporary.open("wb") as writer:
        while block := reader.read(COPY_BYTES):
            writer.write(block)
            progress(len(block))
