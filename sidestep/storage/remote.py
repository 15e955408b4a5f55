"""Stores behind fsspec: memory, the web, and the other clouds it has a package for."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from fsspec.callbacks import Callback

from sidestep.config.schema import StorageSpec
from sidestep.runtime.atomic import replacing
from sidestep.runtime.diskerrors import local_errors
from sidestep.storage.clients import Clients
from sidestep.storage.remote_errors import is_failure, to_user_error
from sidestep.storage.retry import Limits, check_answer, was_short
from sidestep.storage.store import FileInfo, ProgressCallback, Store, no_progress

Answer = TypeVar("Answer")


class RemoteStore(Store):
    """Files in whatever fsspec reaches.

    Only fsspec's calls for single files are used: those for many expand wildcards in names.
    """

    def __init__(
        self, scheme: str, root: str, options: StorageSpec, clients: Clients[Any], limits: Limits
    ) -> None:
        self.scheme, self.root, self.options, self.clients = scheme, root, options, clients
        self.limits = limits
        self.place = f"{scheme}://{root}"

    def child(self, path: str) -> Self:
        root = "/".join(part for part in (self.root, self.clean_path(path)) if part)
        return type(self)(self.scheme, root, self.options, self.clients, self.limits)

    def list_files(self, path: str = "") -> list[FileInfo]:
        below = self._key(path) + "/"
        with self._failures(path):
            found = self._fs.find(below.rstrip("/"), detail=True)
        if isinstance(found, list):  # so adlfs says that the place is itself a file
            found = {}
        start = len(self._key("")) + 1
        infos = [
            self._info(name[start:], details)
            for name, details in found.items()
            # An empty object whose name ends with a slash is how consoles show an empty folder.
            if name.startswith(below) and not name.endswith("/") and details["type"] == "file"
        ]
        return sorted(infos, key=lambda info: info.path)

    def stat(self, path: str) -> FileInfo | None:
        with self._failures(path):
            try:
                details = self._fs.info(self._key(path))
            except FileNotFoundError:
                return None
            return self._info(self.clean_path(path), details) if details["type"] == "file" else None

    def read_bytes(self, path: str) -> bytes:
        def get() -> bytes:
            data: bytes = self._fs.cat_file(self._key(path))
            self._check_whole(path, len(data))
            return data

        with self._failures(path):
            return self._ask(get)

    def read_range(self, path: str, start: int, size: int) -> bytes:
        def get() -> bytes:
            data: bytes = self._fs.cat_file(self._key(path), start=start, end=start + size)
            if len(data) < size:  # it is asked for what it has only where that may be wrong
                self._check_whole(path, start + len(data))
            return data

        with self._failures(path):
            return self._ask(get)

    def write_bytes(self, path: str, data: bytes) -> None:
        with self._failures(path):
            self._fs.pipe_file(self._key(path), data)

    def create(self, path: str, data: bytes) -> bool:
        with self._failures(path):
            try:
                self._fs.pipe_file(self._key(path), data, mode="create")
            except FileExistsError:
                return False
            return True

    def download(self, path: str, target: Path, progress: ProgressCallback = no_progress) -> None:
        key, moved = self._key(path), 0

        def count(size: int) -> None:
            nonlocal moved
            moved += size
            progress(size)

        def get(temporary: Path) -> None:
            count(-moved)  # what an earlier try had got through
            self._fs.get_file(key, str(temporary), callback=Forwarded(count))
            self._check_whole(path, temporary.stat().st_size)

        with (
            local_errors(target),
            replacing(target, lasting=False) as temporary,
            self._failures(path),
        ):
            self._ask(lambda: get(temporary))

    def upload(self, source: Path, path: str, progress: ProgressCallback = no_progress) -> None:
        with self._failures(path):
            self._fs.put_file(str(source), self._key(path), callback=Forwarded(progress))

    def delete(self, path: str) -> None:
        with self._failures(path), suppress(FileNotFoundError):
            self._fs.rm_file(self._key(path))

    def _ask(self, request: Callable[[], Answer]) -> Answer:
        """What the store answers to `request`. Asked again where it is too short; else that is fsspec's."""
        return self.limits.retry.call(request, was_short)

    def _check_whole(self, path: str, size: int) -> None:
        """Asked after the file came, as it may have been replaced meanwhile; then it is read again."""
        expected = self._fs.info(self._key(path))["size"]
        if expected is not None:  # a web server need not say
            check_answer(f"{self.place}/{path}", size, expected)

    @property
    def _fs(self) -> Any:
        return self.clients.mine()

    def _key(self, path: str) -> str:
        """What fsspec calls the file: with the bucket, without the scheme."""
        return "/".join(part for part in (self.root, self.clean_path(path)) if part)

    def _info(self, path: str, details: dict[str, Any]) -> FileInfo:
        return FileInfo(path, details["size"], str(details.get("ETag") or details["etag"]).strip('"'))

    @contextmanager
    def _failures(self, path: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not is_failure(error):
                raise
            raise to_user_error(error, f"{self.place}/{path}".rstrip("/")) from error


class MemoryStore(RemoteStore):
    """fsspec's memory file system, which all stores of this process share: for tests and trials."""

    _creating = threading.Lock()

    def create(self, path: str, data: bytes) -> bool:
        with self._creating:  # fsspec looks first and writes then
            return super().create(path, data)

    def upload(self, source: Path, path: str, progress: ProgressCallback = no_progress) -> None:
        # fsspec would show the file while it is copied.
        with local_errors(source):
            data = source.read_bytes()
        self.write_bytes(path, data)
        progress(len(data))

    def _key(self, path: str) -> str:
        key = super()._key(path)
        return f"/{key}" if key else ""

    def _info(self, path: str, details: dict[str, Any]) -> FileInfo:
        return FileInfo(path, details["size"], self._fs.modified(details["name"]).isoformat())


class Forwarded(Callback):  # type: ignore[misc]  # published without types
    """fsspec's progress, passed on."""

    def __init__(self, progress: ProgressCallback) -> None:
        super().__init__()
        self._progress = progress

    def relative_update(self, inc: int = 1) -> None:
        self._progress(inc)
