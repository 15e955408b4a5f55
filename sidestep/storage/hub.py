"""Repositories on the Hugging Face Hub, for reading: `hf://owner/name@revision`, `hf://datasets/owner/name`.

What a revision is (a branch, a tag, a commit; without one the default branch) is asked once, and all is read
at that commit: files of two states of a repository never mix. HF_TOKEN is the token, HF_ENDPOINT the server.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import NoReturn, Self, TypeVar

import httpx2
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # which it documents, and imports lazily
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from sidestep.config.place import REPOSITORY
from sidestep.config.schema import StorageSpec
from sidestep.runtime.atomic import replacing
from sidestep.runtime.diskerrors import local_errors
from sidestep.runtime.errors import BadSpecError, MissingInputError
from sidestep.storage.http import PARTIAL, RANGE_BEHIND_THE_END
from sidestep.storage.hub_errors import hub_endpoint, may_pass, read_failures
from sidestep.storage.retry import Limits, check_answer, was_short
from sidestep.storage.store import FileInfo, ProgressCallback, Store, no_progress

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

BLOCK = 2**20  # bytes


class Repository:
    """A repository at one commit. What is at a commit never changes, so it is listed once.

    Attributes:
        name: as in a place, `owner/name@revision`.
    """

    def __init__(self, owner_and_name: str, revision: str | None, kind: str, anonymous: bool) -> None:
        self._id, self._revision, self._kind = owner_and_name, revision, kind
        self._token = False if anonymous else os.environ.get("HF_TOKEN")
        self._api = HfApi(endpoint=hub_endpoint(), token=self._token)

    @cached_property
    def commit(self) -> str:
        """The commit that the revision is, when it is first asked for."""
        info = self._api.repo_info(self._id, revision=self._revision, repo_type=self._kind)
        assert info.sha, "every repository has a commit"
        log.info("%s is read at commit %s", self._id, info.sha)
        return info.sha

    @cached_property
    def files(self) -> dict[str, FileInfo]:
        """All files, by their paths. Their version is git's digest of them, or of what stands for them."""
        tree = self._api.list_repo_tree(self._id, recursive=True, revision=self.commit, repo_type=self._kind)
        return {
            entry.path: FileInfo(entry.path, entry.size, entry.blob_id)
            for entry in tree
            if isinstance(entry, RepoFile)
        }

    def request(self, path: str, bytes_from: str) -> tuple[str, dict[str, str]]:
        """The address of a file, and the headers with which it is asked for, `bytes_from` on."""
        url = hf_hub_url(
            self._id, path, repo_type=self._kind, revision=self.commit, endpoint=self._api.endpoint
        )
        # Packed on its way, a file would come in another size than it is said to have.
        plain = {"Accept-Encoding": "identity", "Range": f"bytes={bytes_from}"}
        return url, {**build_hf_headers(token=self._token), **plain}


class HubStore(Store):
    """A repository, or a folder of one. Writing to it is refused."""

    def __init__(
        self, place: str, repository: Repository, folder: str, options: StorageSpec, limits: Limits
    ) -> None:
        self.place, self.repository, self.folder = place, repository, folder
        self.options, self.limits = options, limits

    @property
    def commit(self) -> str:
        with self._failures(""):
            return self._ask(lambda: self.repository.commit)

    def child(self, path: str) -> Self:
        path = self.clean_path(path)
        place = "/".join(part for part in (self.place, path) if part)
        return type(self)(place, self.repository, self._path(path), self.options, self.limits)

    def list_files(self, path: str = "") -> list[FileInfo]:
        below = self._path(path) + "/" if self._path(path) else ""
        start = len(self.folder) + 1 if self.folder else 0
        infos = [
            FileInfo(name[start:], info.size, info.version)
            for name, info in self._files(path).items()
            if name.startswith(below)
        ]
        return sorted(infos, key=lambda info: info.path)

    def stat(self, path: str) -> FileInfo | None:
        info = self._files(path).get(self._path(path))
        return FileInfo(self.clean_path(path), info.size, info.version) if info else None

    def read_bytes(self, path: str) -> bytes:
        return self.read_range(path, 0, self._info(path).size)

    def read_range(self, path: str, start: int, size: int) -> bytes:
        info = self._info(path)
        end = min(start + size, info.size)
        if start >= end:
            return b""

        def get() -> bytes:
            data = b"".join(self._stream(path, start, end - 1))[: end - start]
            check_answer(f"{self.place}/{path}", len(data), end - start)
            return data

        with self._failures(path):
            return self._ask(get)

    def download(self, path: str, target: Path, progress: ProgressCallback = no_progress) -> None:
        info = self._info(path)

        def get(temporary: Path) -> None:
            """What an earlier try had got through stays; so a model's gigabytes come at last."""
            there = temporary.stat().st_size
            if there < info.size:
                with temporary.open("ab") as file:
                    for block in self._stream(path, there, info.size - 1):
                        file.write(block)
                        progress(len(block))
            got = temporary.stat().st_size
            if got > info.size:
                progress(-got)
                os.truncate(temporary, 0)
            check_answer(f"{self.place}/{path}", got, info.size)

        with (
            local_errors(target),
            replacing(target, lasting=False) as temporary,
            self._failures(path),
        ):
            self._ask(lambda: get(temporary))

    def write_bytes(self, path: str, data: bytes) -> None:
        self._refuse()

    def create(self, path: str, data: bytes) -> bool:
        self._refuse()

    def upload(self, source: Path, path: str, progress: ProgressCallback = no_progress) -> None:
        self._refuse()

    def delete(self, path: str) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise BadSpecError(f"{self.place} can only be read. Name a path or a bucket as the place of results.")

    def _path(self, path: str) -> str:
        """The path in the repository."""
        return "/".join(part for part in (self.folder, self.clean_path(path)) if part)

    def _files(self, path: str) -> dict[str, FileInfo]:
        with self._failures(path):
            return self._ask(lambda: self.repository.files)

    def _info(self, path: str) -> FileInfo:
        info = self.stat(path)
        if info is None:
            raise MissingInputError(f"{self.place}/{path} does not exist. Check the place and the name.")
        return info

    def _stream(self, path: str, first: int, last: int) -> Iterator[bytes]:
        """The bytes of a file from `first` to `last`, in blocks, as they come."""
        url, headers = self.repository.request(self._path(path), f"{first}-{last}")
        wait = httpx2.Timeout(self.limits.read_seconds, connect=self.limits.connect_seconds)
        with get_session().stream("GET", url, headers=headers, timeout=wait) as answer:
            if answer.status_code == RANGE_BEHIND_THE_END:
                return
            if answer.is_error:
                answer.read()
            hf_raise_for_status(answer)
            skip = 0 if answer.status_code == PARTIAL else first  # a server that knows no parts
            for block in answer.iter_raw(BLOCK):
                if skip < len(block):
                    yield block[skip:]
                skip = max(skip - len(block), 0)

    def _ask(self, request: Callable[[], Answer]) -> Answer:
        def failed(error: Exception, pause: float) -> None:
            log.debug("%s; asked again in %.1f s", type(error).__name__, pause)

        return self.limits.retry.call(request, lambda error: may_pass(error) or was_short(error), failed)

    def _failures(self, path: str) -> AbstractContextManager[None]:
        return read_failures(f"{self.place}/{path}".rstrip("/"))


def open_hub(rest: str, options: StorageSpec, limits: Limits) -> HubStore:
    """The store at `hf://<rest>`. Nothing is asked yet. Raises BadSpecError where it names no repository."""
    match = REPOSITORY.fullmatch(rest)
    if match is None:
        raise BadSpecError(f"hf://{rest} names no repository: it looks like hf://owner/name@revision.")
    kind, name, revision, folder = match.groups()
    revision = revision and revision.replace("%2F", "/").replace("%2f", "/")  # refs/pr/1
    repository = Repository(name, revision, "dataset" if kind else "model", options.anonymous)
    return HubStore(f"hf://{rest}", repository, (folder or "").strip("/"), options, limits)
