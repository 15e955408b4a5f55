"""Places on a web server, for reading: `http://` and `https://`.

A folder is what its index page links to, as nginx, Apache and `python -m http.server` write one. fsspec
asks once; what may pass (throttling, a server's restart, an answer that breaks off) is asked again here.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, unquote

import aiohttp
from fsspec.asyn import sync

from sidestep.runtime.errors import BadDataError, BadSpecError
from sidestep.storage import remote
from sidestep.storage.paths import odd
from sidestep.storage.retry import Limits, check_answer, was_short
from sidestep.storage.store import FileInfo, ProgressCallback, no_progress

log = logging.getLogger(__name__)

PASSING = (429, 500, 502, 503, 504)
PARTIAL, RANGE_BEHIND_THE_END = 206, 416
VERSIONS = ("ETag", "Content-MD5", "Digest", "Last-Modified")


def http_settings(limits: Limits) -> dict[str, Any]:
    """Return settings for fsspec. No limit on the whole: a model takes its time, silence does not."""
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=limits.connect_seconds, sock_read=limits.read_seconds
    )
    plain = {"Accept-Encoding": "identity"}  # else a file may come in another size than it is said to have
    return {
        "simple_links": False,
        "encoded": True,  # names are quoted here: '%' or '?' in one means itself
        "client_kwargs": {"timeout": timeout, "trust_env": True, "headers": plain},
    }


class HttpStore(remote.RemoteStore):
    """A folder on a web server. Writing to it is refused."""

    def list_files(self, path: str = "") -> list[FileInfo]:
        with self._failures(path):
            paths = sorted(set(self._paths_below(self.clean_path(path))))
            with ThreadPoolExecutor(self.options.connections) as threads:
                infos = list(threads.map(self._ask_info, paths))  # an index page says no exact sizes
        return [info for info in infos if info]

    def stat(self, path: str) -> FileInfo | None:
        with self._failures(path):
            return self._ask_info(path)

    def read_range(self, path: str, start: int, size: int) -> bytes:
        key, fs = self._key(path), self._fs

        async def get() -> bytes:
            session = await fs.set_session()
            headers = {"Range": f"bytes={start}-{start + size - 1}"}
            async with session.get(fs.encode_url(key), headers=headers) as answer:
                if answer.status == RANGE_BEHIND_THE_END:
                    return b""
                fs._raise_not_found_for_status(answer, key)
                skipped = 0 if answer.status == PARTIAL else start
                read = bytearray()
                while len(read) < skipped + size and (block := await answer.content.readany()):
                    read += block
                data = bytes(read[skipped : skipped + size])
                if whole := answer.headers.get("Content-Range", "").rpartition("/")[2].strip("*"):
                    check_answer(f"{self.place}/{path}", len(data), min(size, int(whole) - start))
                return data

        with self._failures(path):
            data: bytes = self._ask(lambda: sync(fs.loop, get))
            return data

    def write_bytes(self, path: str, data: bytes) -> None:
        self._refuse()

    def create(self, path: str, data: bytes) -> bool:
        self._refuse()

    def upload(self, source: Path, path: str, progress: ProgressCallback = no_progress) -> None:
        self._refuse()

    def delete(self, path: str) -> None:
        self._refuse()

    def _ask(self, request: Callable[[], remote.Answer]) -> remote.Answer:
        """What the server answers to `request`, sent again as long as the limits allow."""

        def failed(error: Exception, pause: float) -> None:
            log.debug("%s; asked again in %.1f s", type(error.__cause__ or error).__name__, pause)

        return self.limits.retry.call(request, lambda error: _may_pass(error) or was_short(error), failed)

    def _refuse(self) -> NoReturn:
        raise BadSpecError(f"{self.place} can only be read. Name a path or a bucket as the place of results.")

    def _key(self, path: str) -> str:
        # The place is a URL, in which '%' already quotes; a path in it is made of plain names.
        base = f"{self.scheme}://{quote(self.root, safe='/%:@[]~!$&()*+,;=')}"
        return "/".join(part for part in (base, quote(self.clean_path(path))) if part)

    def _paths_below(self, folder: str) -> Iterator[str]:
        url = self._key(folder) + "/"
        try:
            links = self._ask(lambda: self._fs.ls(url, detail=False))
        except FileNotFoundError:
            return
        for link in links:
            relative = link.removeprefix(url)
            if (
                not link.startswith(url)
                or relative.startswith(("?", "#", "/", "../"))
                or relative in ("", "./")
            ):
                continue  # the page's own sorting links, and the way up
            name = unquote(relative)
            if odd(name.rstrip("/")):
                log.warning("%s%s is left out: its name is no path", url, relative)
                continue
            path = self.clean_path(f"{folder}/{name}" if folder else name)
            if not name.endswith("/"):
                yield path
            elif "/" not in name[:-1]:
                yield from self._paths_below(path)

    def _ask_info(self, path: str) -> FileInfo | None:
        failure: BaseException | None = None
        try:
            details = self._ask(lambda: self._fs.info(self._key(path)))
        except FileNotFoundError as error:
            failure = error.__cause__ or error  # fsspec says so of any failure; what it was is the cause
        if isinstance(failure, aiohttp.ClientResponseError) and failure.status == 404:
            return None
        if failure:
            raise failure  # not above: there it would become its own cause's context, in a circle
        if details["url"].endswith("/"):  # it was led on to a folder's page
            return None
        if details["size"] is None:
            raise BadDataError(f"{self.place}/{path}: the server does not say how large it is.")
        version = next((details[header] for header in VERSIONS if header in details), "")
        return FileInfo(self.clean_path(path), details["size"], str(version))


def _may_pass(failure: BaseException | None) -> bool:
    if isinstance(failure, FileNotFoundError):  # fsspec says so of any failure; what it was is the cause
        failure = failure.__cause__
    if isinstance(failure, aiohttp.ClientResponseError):
        return failure.status in PASSING
    if isinstance(failure, aiohttp.InvalidURL):
        return False
    return isinstance(failure, aiohttp.ClientError | TimeoutError)
