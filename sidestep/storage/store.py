"""`Store`: the files of one place, a local folder or a bucket's prefix, behind one interface.

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
from sidestep.runtime import tally
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.liveness import sign_of_life
from sidestep.runtime.parsing import JSON_AT_MOST

ProgressCallback = Callable[[int], object]
"""Called with the number of bytes just moved, from any thread; negative for those to be moved again."""


def no_progress(size: int) -> None:
    """The callback of those who do not want to know: bytes that move count all the same, and are a sign of
    life."""
    sign_of_life()
    tally.add(tally.BYTES, size)


@dataclass(frozen=True)
class FileInfo:
    """One file: its path relative to the store, its size in bytes, and what changes with its content."""

    path: str
    size: int
    version: str  # the ETag; for a local file its mtime in ns


@dataclass(frozen=True)
class Download:
    """A file that came: which one it was, and the sha256 of what came."""

    file: FileInfo
    sha256: str


PROBE = ".sidestep-probe-"
"""How the names of files begin that are made to see whether a place can be written, and deleted at once."""


@dataclass(frozen=True)
class Unfinished:
    """Something that was being written, and is no file yet.

    Attributes:
        path: of the file that it was to become, or of its temporary one, relative to the store.
        age: seconds since it grew, by the store's own clock.
        upload: the store's name for it; "" where it is a file that `Store.delete` deletes.
    """

    path: str
    age: float
    upload: str = ""


class Store(ABC):
    """The files of one place.

    Attributes:
        place: the absolute path, or the URI without a slash at its end.
        local_root: the folder, if the place is one on this machine.
        options: how it is reached.

    Every method raises AccessError where the store refuses, StorageError where it is out of reach, and
    BadDataError for a path that leads out of the place; those that need a file raise MissingInputError
    where there is none.
    """

    place: str
    options: StorageSpec
    local_root: Path | None = None

    @property
    def creates_atomically(self) -> bool:
        """False once `create` was found to look first and write then, as the store knows no other way."""
        return True

    @property
    def commit(self) -> str:
        """The commit that is read, where the place is a repository; else ""."""
        return ""

    @abstractmethod
    def child(self, path: str) -> Self:
        """Return the store of a folder in this one, which need not exist."""

    @abstractmethod
    def list_files(self, path: str = "") -> list[FileInfo]:
        """List all files below a folder, however deep, sorted by path; [] if there are none."""

    @abstractmethod
    def stat(self, path: str) -> FileInfo | None:
        """Return size and version of a file; None if it is not there, or is a folder."""

    def refuse_folder(self, path: str) -> None:
        """Raise BadDataError where a folder has the name of a file that is needed: that does not pass, as a
        file's absence may. A bucket has no folders."""
        self.clean_path(path)

    @abstractmethod
    def read_bytes(self, path: str) -> bytes:
        """Return the content of a small file."""

    def read_small(self, path: str, at_most: int = 0) -> bytes:
        """Return the content of a file that others may have made. Raises BadDataError where it has more than
        `at_most` (JSON_AT_MOST) bytes."""
        info, most = self.stat(path), at_most or JSON_AT_MOST
        if info and info.size > most:
            raise BadDataError(
                f"{self.place}/{path} has {info.size:,} bytes: it is not what its name says "
                f"(at most {most:,})"
            )
        return self.read_bytes(path)

    @abstractmethod
    def read_range(self, path: str, start: int, size: int) -> bytes:
        """Return at most `size` bytes of a file, from `start` on: fewer where it ends.

        No more of a file is moved than that, so a part of one of many gigabytes is had in a moment; but for
        a web server that cannot send a part, of which all up to the end of it is read.
        """

    @abstractmethod
    def write_bytes(self, path: str, data: bytes) -> None:
        """Write or replace a small file; readers see all of it or nothing."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Write a small file only if it is not there, atomically; return whether it was written.

        After a network failure the request is sent again, and then False may mean that the first one had
        got through: whoever needs to know puts a nonce into `data` and reads it back.
        """

    @abstractmethod
    def download(self, path: str, target: Path, progress: ProgressCallback = no_progress) -> Download | None:
        """Copy a file to the local path `target`, which appears only when it is complete.

        Returns what came, where the store says which file it was; None where only `stat` can tell.
        """

    @abstractmethod
    def upload(self, source: Path, path: str, progress: ProgressCallback = no_progress) -> None:
        """Copy the local file `source` here; readers see all of it or nothing."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file, if it is there. In a bucket that lets nothing be deleted it stays: one warning."""

    def unfinished(self) -> list[Unfinished]:
        """Return what was begun to be written here, by anybody, and is not complete, nor in any listing.

        Nothing from a store that forgets such by itself, as Google's and Azure's do after a week.
        """
        return []

    def discard(self, unfinished: Unfinished) -> None:
        """Delete what `unfinished` has found, if it is there. Who is still writing it meets a failure."""
        self.delete(unfinished.path)

    def clean_path(self, path: str) -> str:
        """Return `path` without "." parts and a slash at its end. Raises BadDataError where it leads out."""
        parts = path.split("/")
        if path.startswith("/") or ".." in parts or "\0" in path:
            raise BadDataError(
                f"{path!r} leads out of {self.place}. Only relative paths without '..' are allowed here: "
                "correct it where it is written, or put the file into that place."
            )
        return "/".join(part for part in parts if part != ".").rstrip("/")
