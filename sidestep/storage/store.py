"""Where things are. A `Store` is one place, a folder or a bucket's prefix, that holds files.

The rest of Side-Step knows no other storage than this: small files are read and written as bytes, large
ones are moved to and from the local disk, and `create` is all that the commit log needs to have one
writer. Paths inside a store are relative and POSIX ("adapter/adapter_config.json"); any character but
NUL may be in a name, and none is a wildcard.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import BadDataError

ProgressCallback = Callable[[int], object]
"""Told of bytes as they are moved, from any thread."""


def no_advance(size: int) -> None:
    """For those who do not want to know."""


@dataclass(frozen=True)
class FileInfo:
    """One file: its path relative to the store, its size in bytes, and what changes with its content."""

    path: str
    size: int
    version: str  # the ETag; for a local file its mtime in ns


class Store(ABC):
    """A place that holds files.

    Attributes:
        place: its normalised name: an absolute path, or a URI without a slash at its end.
        local_root: the folder, when the place is one on this machine.
        options: how it is reached.

    Every method may raise AccessError, StorageError (out of reach) and BadDataError (a path that leads out
    of the place); those that need a file raise MissingInputError where there is none.
    """

    place: str
    options: StorageSpec
    local_root: Path | None = None

    @abstractmethod
    def child(self, path: str) -> Self:
        """The store of a folder in this one. It need not exist."""

    @abstractmethod
    def list_files(self, path: str = "") -> list[FileInfo]:
        """All files below a folder, however deep, sorted by path; [] when nothing is there."""

    @abstractmethod
    def stat(self, path: str) -> FileInfo | None:
        """What a file is now; None when it is not there (a folder is no file)."""

    @abstractmethod
    def read_bytes(self, path: str) -> bytes:
        """The whole content of a small file."""

    @abstractmethod
    def write_bytes(self, path: str, data: bytes) -> None:
        """Writes a small file or replaces it; readers see all of it or nothing."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Writes a small file only if it is not there, as one step; False when it was.

        After a network failure the request is sent again, and then False may mean that the first one had
        got through: whoever needs to know puts something of his own in `data` and reads it back.
        """

    @abstractmethod
    def download(self, path: str, target: Path, advance: ProgressCallback = no_advance) -> None:
        """Copies a file to the local disk; `target` appears only when it is complete."""

    @abstractmethod
    def upload(self, source: Path, path: str, advance: ProgressCallback = no_advance) -> None:
        """Copies a local file here; readers see all of it or nothing."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Deletes a file; it is fine if there is none."""

    def checked(self, path: str) -> str:
        """`path` without "." parts and a slash at its end. Raises BadDataError where it leads out."""
        parts = path.split("/")
        if path.startswith("/") or ".." in parts or "\0" in path:
            raise BadDataError(
                f"{path!r} leads out of {self.place}. Only relative paths without '..' are allowed here: "
                "correct it where it is written, or put the file into that place."
            )
        return "/".join(part for part in parts if part != ".").rstrip("/")
