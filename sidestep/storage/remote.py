"""Stores behind fsspec: S3, memory, the web, and the other clouds it has a package for."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import fsspec
from fsspec.callbacks import Callback

from sidestep.runtime.errors import BadDataError, MachineError, StorageError
from sidestep.spec.schema import StorageSpec
from sidestep.storage.atomic import replacing
from sidestep.storage.local import local_errors
from sidestep.storage.remote_errors import FAILURES, error_code, explained
from sidestep.storage.store import Advance, FileInfo, Store, no_advance

PACKAGES = {"gs": "gcsfs", "az": "adlfs"}  # not installed by default
ATTEMPTS = 6  # tries of one request, with pauses of 1 to 16 s: outlasts a server's restart, ends in a minute
CONNECT_SECONDS = 5
READ_SECONDS = 15
REPEATS = 2  # s3fs's own, around all those tries, when a server falls silent or an answer breaks off
PART_BYTES = 16 * 2**20  # larger files move in parts of this size,
PARTS_AT_A_TIME = 4  # so many at once; together with `connections` this bounds the memory


def open_remote(scheme: str, root: str, options: StorageSpec) -> "RemoteStore":
    """The store at scheme://root. Raises MachineError when the package for it is not installed."""
    from sidestep.storage.http import HttpStore, http_settings

    try:
        backend = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        package = PACKAGES[scheme]
        raise MachineError(
            f"{scheme}:// places need the package {package}, which is not installed: pip install {package}"
        ) from error

    def connect() -> Any:
        settings = {"s3": s3_settings(options), "http": http_settings(), "https": http_settings()}.get(
            scheme, {}
        )
        client = backend(use_listings_cache=False, skip_instance_cache=True, **settings)
        if scheme == "s3":
            client.retries = REPEATS
        return client

    kinds = {"s3": S3Store, "memory": MemoryStore, "http": HttpStore, "https": HttpStore}
    return kinds.get(scheme, RemoteStore)(scheme, root, options, Clients(connect))


def s3_settings(options: StorageSpec) -> dict[str, Any]:
    """What the spec says about S3, as s3fs takes it. Credentials are left to botocore's own chain."""
    path_style = options.path_style if options.path_style is not None else options.endpoint_url is not None
    config: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "retries": {"total_max_attempts": ATTEMPTS, "mode": "standard"},
        "max_pool_connections": options.connections * PARTS_AT_A_TIME,
        "s3": {"addressing_style": "path" if path_style else "auto"},
    }
    if options.endpoint_url:
        # Many servers that are not AWS refuse the checksums that newer clients add unasked.
        config["request_checksum_calculation"] = config["response_checksum_validation"] = "when_required"
    return {
        "anon": options.anonymous,
        "endpoint_url": options.endpoint_url,
        "client_kwargs": {"region_name": options.region} if options.region else {},
        "config_kwargs": config,
        "default_block_size": PART_BYTES,
        "max_concurrency": PARTS_AT_A_TIME,
    }


class Clients:
    """One fsspec client per process: one that came over a fork would share its parent's connections.

    The parent's is kept in the child, unused: its finalizer would try to close those connections.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._by_process: dict[int, Any] = {}

    def mine(self) -> Any:
        process = os.getpid()
        if process not in self._by_process:
            # Without a lock, which could come locked over the fork; a client that loses was never connected.
            self._by_process.setdefault(process, self._connect())
        return self._by_process[process]


class RemoteStore(Store):
    """Files in a bucket, or in anything else that fsspec reaches.

    Only fsspec's calls for single files are used: those for many expand wildcards in names.
    """

    def __init__(self, scheme: str, root: str, options: StorageSpec, clients: Clients) -> None:
        self.scheme, self.root, self.options, self.clients = scheme, root, options, clients
        self.place = f"{scheme}://{root}"

    def child(self, path: str) -> Self:
        root = "/".join(part for part in (self.root, self.checked(path)) if part)
        return type(self)(self.scheme, root, self.options, self.clients)

    def list(self, path: str = "") -> list[FileInfo]:
        below = self._key(path) + "/"
        with self._failures(path):
            found = self._fs.find(below.rstrip("/"), detail=True)
        start = len(self._key("")) + 1
        infos = [
            self._info(name[start:], details)
            for name, details in found.items()
            # An empty object whose name ends with a slash is how consoles show an empty folder.
            if name.startswith(below) and not name.endswith("/") and details["type"] == "file"
        ]
        return sorted(infos, key=lambda info: info.path)

    def info(self, path: str) -> FileInfo | None:
        key = self._key(path)
        with self._failures(path):
            try:
                details = self._fs.info(key)
            except FileNotFoundError as error:
                if error_code(error) == "NoSuchBucket":
                    raise
                return None
            return self._info(self.checked(path), details) if details["type"] == "file" else None

    def read_bytes(self, path: str) -> bytes:
        key = self._key(path)
        with self._failures(path):
            return self._fs.cat_file(key)

    def write_bytes(self, path: str, data: bytes) -> None:
        key = self._key(path)
        with self._failures(path):
            self._fs.pipe_file(key, data)

    def create(self, path: str, data: bytes) -> bool:
        key = self._key(path)
        with self._failures(path):
            try:
                self._fs.pipe_file(key, data, mode="create")
            except FileExistsError:
                return False
            return True

    def download(self, path: str, target: Path, advance: Advance = no_advance) -> None:
        key = self._key(path)
        with local_errors(target), replacing(target) as temporary, self._failures(path):
            self._fs.get_file(key, str(temporary), callback=Moved(advance))

    def upload(self, source: Path, path: str, advance: Advance = no_advance) -> None:
        key = self._key(path)
        with self._failures(path):
            self._fs.put_file(str(source), key, callback=Moved(advance))

    def delete(self, path: str) -> None:
        key = self._key(path)
        with self._failures(path):
            try:
                self._fs.rm_file(key)
            except FileNotFoundError as error:
                if error_code(error) == "NoSuchBucket":
                    raise

    @property
    def _fs(self) -> Any:
        return self.clients.mine()

    def _key(self, path: str) -> str:
        """What fsspec calls the file: with the bucket, without the scheme."""
        return "/".join(part for part in (self.root, self.checked(path)) if part)

    def _info(self, path: str, details: dict[str, Any]) -> FileInfo:
        return FileInfo(path, details["size"], str(details.get("ETag") or details["etag"]).strip('"'))

    @contextmanager
    def _failures(self, path: str) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            raise explained(error, f"{self.place}/{path}".rstrip("/"), self.place) from error


class S3Store(RemoteStore):
    """A bucket, or a prefix in one."""

    def read_bytes(self, path: str) -> bytes:
        key = self._key(path)
        with self._failures(path):
            # One request: s3fs would ask for the size first, and the file could change in between.
            return self._fs.cat_file(key, max_concurrency=1)

    def upload(self, source: Path, path: str, advance: Advance = no_advance) -> None:
        key = self._key(path)
        with local_errors(source):
            source.open("rb").close()  # s3fs would pass over a folder without a word
        with self._failures(path):
            self._fs.put_file(str(source), key, callback=Moved(advance), chunksize=PART_BYTES)

    def create(self, path: str, data: bytes) -> bool:
        """Put with If-None-Match: *. A server that ignores it is found out by the commit log."""
        key = self._key(path)
        with self._failures(path):
            for attempt in range(ATTEMPTS):
                try:
                    self._fs.pipe_file(key, data, mode="create")
                except OSError as error:
                    code = error_code(error)
                    if code in ("PreconditionFailed", "412"):
                        return False
                    if code not in ("ConditionalRequestConflict", "409"):
                        raise
                    # Another request for this key is under way. S3 says: try again, to learn who won.
                    time.sleep(0.1 * 2**attempt)
                else:
                    return True
        raise StorageError(f"{self.place}/{path} could not be created: others keep writing it. Run again.")

    def _key(self, path: str) -> str:
        key = super()._key(path)
        if "?versionId=" in key:  # s3fs would read the file whose name ends before it
            raise BadDataError(f"{key}: names with '?versionId=' cannot be used on S3. Rename the file.")
        return key


class MemoryStore(RemoteStore):
    """fsspec's memory file system, which all stores of this process share: for tests and trials."""

    _creating = threading.Lock()

    def create(self, path: str, data: bytes) -> bool:
        with self._creating:  # fsspec looks first and writes then
            return super().create(path, data)

    def upload(self, source: Path, path: str, advance: Advance = no_advance) -> None:
        # fsspec would show the file while it is copied.
        with local_errors(source):
            data = source.read_bytes()
        self.write_bytes(path, data)
        advance(len(data))

    def _key(self, path: str) -> str:
        key = super()._key(path)
        return f"/{key}" if key else ""

    def _info(self, path: str, details: dict[str, Any]) -> FileInfo:
        return FileInfo(path, details["size"], self._fs.modified(details["name"]).isoformat())


class Moved(Callback):
    """fsspec's progress, passed on."""

    def __init__(self, advance: Advance) -> None:
        super().__init__()
        self._advance = advance

    def relative_update(self, inc: int = 1) -> None:
        self._advance(inc)
