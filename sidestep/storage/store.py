"""Where things are. A `Store` is one place, a folder or a bucket's prefix, that holds files.

The rest of Side-Step knows no other storage than this: small files are read and written as bytes, large
ones are moved to and from the local disk, and `create` is all that the commit log needs to have one
writer. Paths inside a store are relative and POSIX ("adapter/adapter_config.json"); any character but
NUL may be in a name, and none is a wildcard.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import BadDataError, BadSpecError

SCHEMES = ("s3", "file", "memory", "gs", "az", "http", "https")

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
    def list(self, path: str = "") -> list[FileInfo]:
        """All files below a folder, however deep, sorted by path; [] when nothing is there."""

    @abstractmethod
    def info(self, path: str) -> FileInfo | None:
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
        """`path` without "." parts and a slash at its end.

        Raises:
            BadDataError: it is absolute, or leads out through "..".
        """
        parts = path.split("/")
        if path.startswith("/") or ".." in parts or "\0" in path:
            raise BadDataError(
                f"{path!r} leads out of {self.place}. Only relative paths without '..' are allowed here: "
                "correct it where it is written, or put the file into that place."
            )
        return "/".join(part for part in parts if part != ".").rstrip("/")


def open_store(place: str, options: StorageSpec, *, follow_links: bool = False) -> Store:
    """The store at a place: a path, or a URI with one of `SCHEMES`. Nothing is read or written yet.

    Args:
        follow_links: let symbolic links lead out of a local folder, such as those in a model hub's cache.
            Only for places that nobody but the user fills: elsewhere a link could show any file.

    Raises:
        BadSpecError: the place or the endpoint is not one.
        MachineError: the package for this kind of place is not installed.
    """
    if (path := local_path(place)) is not None:
        from sidestep.storage.local import LocalStore

        return LocalStore(path, options, follow_links)
    scheme, _, rest = place.partition("://")
    scheme, rest = scheme.lower(), rest.strip("/")
    if scheme not in SCHEMES:
        allowed = ", ".join(f"{name}://" for name in SCHEMES)
        raise BadSpecError(f"{scheme}:// is not a known kind of place. Use a path, or one of {allowed}.")
    if "@" in rest.split("/")[0] and scheme != "az":  # there it parts container and account
        # The place would be shown in messages and logs, so it is not repeated here.
        raise BadSpecError(
            f"A {scheme}:// place has an '@' where the bucket's name is. If that is a user and a password: "
            "credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), not the place."
        )
    if ".." in rest.split("/") or (not rest and scheme != "memory"):
        raise BadSpecError(f"{place!r} is not a place. It looks like {scheme}://bucket/folder, without '..'.")
    if options.endpoint_url and not urlsplit(options.endpoint_url).hostname:
        raise BadSpecError(
            f"storage.endpoint_url {options.endpoint_url!r} names no host. It looks like https://host:port."
        )
    # boto3 and fsspec take 0.2 to 0.4 s to import: only for those who need them.
    if scheme == "s3":
        from sidestep.storage.s3 import open_s3

        return open_s3(rest, options)
    from sidestep.storage.remote import open_remote

    return open_remote(scheme, rest, options)


def local_path(place: str) -> Path | None:
    """The absolute path of a place on this machine, or None for a place elsewhere.

    Raises:
        BadSpecError: its file:// URI is none, or it begins with ~ and a user whom this machine does not know.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", place, re.DOTALL)
    if match and match[1].lower() != "file":
        return None
    path = Path(_file_uri_path(match[2]) if match else place)
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise BadSpecError(
            f"{place!r} begins with the home folder of a user whom this machine does not know. Write the "
            "whole path."
        ) from None


def _file_uri_path(rest: str) -> str:
    """RFC 8089: file:///an%20absolute/path, with no host or localhost."""
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise BadSpecError(f"file://{rest} is not a place. It looks like file:///absolute/path.")
    return "/" + unquote(path)
