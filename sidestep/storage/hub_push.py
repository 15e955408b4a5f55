"""A model repository on the Hugging Face Hub, for writing: its newest state, and one commit on top of it.

Large files go by the Hub's LFS protocol, not by Xet, which huggingface_hub would choose: Xet's client is a
program of its own, with a cache in the home folder, and cannot be tried against a server on loopback. An
adapter is small enough that Xet would save nothing.
"""

import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    set_client_factory,
)
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # which it documents, and imports lazily
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    validate_repo_id,
)
from huggingface_hub.utils._http import default_client_factory

from sidestep.config.place import REPOSITORY
from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import AccessError, BadDataError, BadSpecError, StorageError
from sidestep.runtime.shown import shown
from sidestep.storage.hub import open_hub
from sidestep.storage.hub_errors import HAS_MOVED, hub_endpoint, may_pass, no_hub, status_of, write_failures
from sidestep.storage.retry import LIMITS, Limits

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

constants.HF_HUB_DISABLE_XET = True

TAKEN = 409  # there is a repository of that name
ANSWER_SECONDS = 120.0
"""Of silence where an answer is due: the Hub checks what it has been sent before it answers."""
_BLOCK = 2**20  # bytes


@dataclass(frozen=True)
class Content:
    """The content of a file, on this machine: bytes, or a path.

    Attributes:
        sha256: by which the Hub knows a large file.
        git: by which it knows a small one: git's digest of a blob.
    """

    source: bytes | Path

    @property
    def size(self) -> int:
        return self.source.stat().st_size if isinstance(self.source, Path) else len(self.source)

    @cached_property
    def _digests(self) -> tuple[str, str]:
        whole, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        for block in self._blocks():
            whole.update(block)
            blob.update(block)
        return whole.hexdigest(), blob.hexdigest()

    @property
    def sha256(self) -> str:
        return self._digests[0]

    @property
    def git(self) -> str:
        return self._digests[1]

    def _blocks(self) -> Iterator[bytes]:
        if isinstance(self.source, bytes):
            yield self.source
            return
        with self.source.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block


@dataclass(frozen=True)
class Remote:
    """A file in a repository, by its digest: sha256 of a large one, else git's of a blob."""

    digest: str
    is_large: bool

    def is_of(self, sha256: str, git: str) -> bool:
        return self.digest == (sha256 if self.is_large else git)


@dataclass(frozen=True)
class Head:
    """The newest state of a repository's default branch."""

    commit: str
    is_private: bool
    files: Mapping[str, Remote]  # by path


class ModelRepository:
    """The repository at `hf://owner/name`. HF_TOKEN is the token, HF_ENDPOINT the server.

    Every method raises AccessError where the Hub refuses, StorageError where it is out of reach or full, and
    BadSpecError where what answers is not the Hub.
    """

    def __init__(self, place: str, limits: Limits | None = None) -> None:
        """Nothing is asked yet. Raises BadSpecError where `place` names no model repository, or
        HF_ENDPOINT no server."""
        self.place, self._limits = place.rstrip("/"), limits or LIMITS
        self.name = _name_in(self.place)
        self._token = os.environ.get("HF_TOKEN")
        self._api = HfApi(endpoint=hub_endpoint(), token=self._token or False)
        self.page = f"{self._api.endpoint}/{self.name}"
        timeout = httpx2.Timeout(ANSWER_SECONDS, connect=self._limits.connect_seconds)
        set_client_factory(lambda: _client(timeout))  # by itself, it would wait for ever

    @property
    def has_token(self) -> bool:
        return bool(self._token)

    def check_token(self) -> None:
        """Raises AccessError where there is none. One that a login has left on this machine does not count:
        what is pushed in whose name is said by the environment alone."""
        if not self.has_token:
            raise AccessError(
                f"{self.place}: HF_TOKEN is not set. Set it to a token that may write to this repository: "
                "https://huggingface.co/settings/tokens."
            )

    def head(self) -> Head | None:
        """The newest state; None where there is no such repository, or the token may not see it."""
        return self.retried(self._head)

    def check_card(self, readme: bytes) -> None:
        """Ask the Hub whether it would take this README.md. Raises BadDataError, with its words, if not."""

        def ask() -> Any:
            answer = get_session().post(
                f"{self._api.endpoint}/api/validate-yaml",
                json={"content": readme.decode(), "repoType": "model"},
                headers=build_hf_headers(token=self._token),
            )
            if answer.status_code != 400:  # which is its answer to a card that it would refuse
                hf_raise_for_status(answer)
            return answer.json()

        found = self.retried(ask)
        if not isinstance(found, dict):
            raise no_hub(self.place)
        for warning in _messages(found.get("warnings")):
            log.warning("README.md: the Hub says: %s", warning)
        if errors := list(_messages(found.get("errors"))):
            raise BadDataError(f"README.md: the Hub refuses its front matter: {'; '.join(errors)}")

    def create(self, *, is_private: bool) -> Head:
        """Create the repository, and return its first state. One that is there already will do."""

        def make() -> Head:
            try:
                self._api.create_repo(self.name, private=is_private, repo_type="model")
            except HfHubHTTPError as error:
                head = self._head() if status_of(error) == TAKEN else None  # an earlier try had got through
                if head is None:
                    raise
                return head
            head = self._head()
            if head is None:
                raise StorageError(f"{self.place} is created and not there yet. Run the same command again.")
            return head

        return self.retried(make)

    def read(self, head: Head, path: str) -> bytes:
        """The content of a small file in the repository."""
        place = f"{self.name}@{head.commit}"
        return open_hub(place, StorageSpec(), self._limits).read_small(path)

    def commit(
        self, head: Head, put: Mapping[str, Content], delete: Collection[str], message: str
    ) -> str | None:
        """Put these files and delete those, in one commit on top of `head`, and return that.

        None where the branch has moved on meanwhile. It is tried once: what became of it is seen in the head.
        """
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(path, content.source) for path, content in sorted(put.items())),
            *(CommitOperationDelete(path) for path in sorted(delete)),
        ]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the Hub's of the card, which have been said
                made = self._api.create_commit(
                    self.name, operations, commit_message=message, parent_commit=head.commit
                )
        except HfHubHTTPError as error:
            if status_of(error) == HAS_MOVED:
                return None
            raise
        return made.oid

    def retried(self, request: Callable[[], Answer]) -> Answer:
        """What `request` returns, asked again as long as the limits allow."""

        def failed(error: Exception, pause: float) -> None:
            log.debug("%s; asked again in %.1f s", type(error).__name__, pause)

        with write_failures(self.place):
            return self._limits.retry.call(request, may_pass, failed)

    def _head(self) -> Head | None:
        try:
            info = self._api.repo_info(self.name, repo_type="model")
        except RepositoryNotFoundError:
            return None
        if not info.sha:
            raise no_hub(self.place)
        tree = self._api.list_repo_tree(self.name, recursive=True, revision=info.sha, repo_type="model")
        files = {
            entry.path: Remote(entry.lfs.sha256 if entry.lfs else entry.blob_id, bool(entry.lfs))
            for entry in tree
            if isinstance(entry, RepoFile)
        }
        return Head(info.sha, bool(info.private), files)


def _name_in(place: str) -> str:
    """`owner/name` of `hf://owner/name`. Raises BadSpecError for anything else."""
    match = REPOSITORY.fullmatch(place.removeprefix("hf://"))
    if not place.startswith("hf://") or match is None:
        raise BadSpecError(f"{place} names no repository on the Hub: it looks like hf://owner/name.")
    kind, name, revision, folder = match.groups()
    if kind or name.startswith("spaces/"):
        raise BadSpecError(
            f"{place} names a {'dataset' if kind else 'space'}: an adapter belongs into a model repository, "
            "hf://owner/name."
        )
    if revision or folder:
        raise BadSpecError(
            f"{place} names {'a revision' if revision else 'a folder'}: an adapter is pushed to the top of a "
            f"repository's default branch, hf://{name}."
        )
    with write_failures(place):
        validate_repo_id(name)
    return name


def _client(timeout: httpx2.Timeout) -> httpx2.Client:
    client = default_client_factory()
    client.timeout = timeout
    return client


def _messages(found: object) -> Iterator[str]:
    for each in found if isinstance(found, list) else []:
        if isinstance(each, dict) and each.get("message"):
            yield shown(" ".join(str(each["message"]).split()))
