"""An adapter on the Hugging Face Hub: what is sent, and what there is left alone.

`side-step.json` in the repository lists the files that a push has put there, by their digests. A later push
replaces and deletes these as long as they are what it lists. All else is somebody else's: a file that was
edited on the Hub's pages, or one that stood there before.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from sidestep.lifecycle.bundle import Bundle
from sidestep.report.card import README
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadDataError, StorageError, UsageError
from sidestep.runtime.parsing import parse_as
from sidestep.runtime.words import counted, some
from sidestep.storage.hub_push import Content, Head, ModelRepository

log = logging.getLogger(__name__)

MANIFEST = "side-step.json"
THE_HUBS_OWN = frozenset({".gitattributes"})
"""What the Hub puts into each new repository."""
TRIES = 3  # where others change the repository meanwhile
_MB = 1e6


class _Put(BaseModel):
    """The digests of a file that was put there: of its content, and git's of that as a blob."""

    sha256: Annotated[str, Field(pattern=r"[0-9a-f]{64}")]
    git: Annotated[str, Field(pattern=r"[0-9a-f]{40}")]


class _Manifest(BaseModel):
    """The content of side-step.json."""

    format: Literal[1] = 1
    files: dict[str, _Put] = {}


@dataclass(frozen=True)
class Change:
    """What becomes of one file in the repository."""

    path: str
    what: Literal["add", "replace", "delete", "keep"]
    size: int = 0  # of what is sent, in bytes
    is_others: bool = False  # it is not as an earlier push has put it there

    def __str__(self) -> str:
        size = f" ({_shown_size(self.size)})" if self.what in ("add", "replace") else ""
        return f"{self.what:8}{self.path}{size}"


@dataclass(frozen=True)
class Cargo:
    """A bundle with its manifest."""

    name: str
    files: Mapping[str, Content]

    @classmethod
    def of(cls, bundle: Bundle) -> "Cargo":
        files = {path: Content(source) for path, source in bundle.files.items()}
        put = {path: _Put(sha256=content.sha256, git=content.git) for path, content in files.items()}
        manifest = Content(json_bytes(_Manifest(files=put).model_dump()))
        return cls(bundle.name, {**files, MANIFEST: manifest})

    @cached_property
    def readme(self) -> bytes:
        source = self.files[README].source
        assert isinstance(source, bytes), "a card is made, or read, in memory"
        return source


def push(cargo: Cargo, repository: ModelRepository, *, is_public: bool, overwrite: bool) -> bool:
    """Make the repository hold the cargo, by one commit; it is created where it does not exist.

    Returns False where it holds all of it already, and nothing was done. A push that was cut off has changed
    nothing: there is its one commit, or there is not.

    Args:
        is_public: whether anyone may see the repository, where it is created.
        overwrite: replace what is not as an earlier push has put it there, too.

    Raises UsageError where it holds what it did not write, or is public and is not to be, BadDataError where
    the Hub refuses the card, and what `ModelRepository` does.
    """
    repository.check_token()
    repository.check_card(cargo.readme)
    for _ in range(TRIES):
        head = repository.head() or repository.create(is_private=not is_public)
        changes = planned(cargo, repository, head, is_public=is_public, overwrite=overwrite)
        if not any(change.what != "keep" for change in changes):
            return False
        if head.is_private and is_public:
            log.warning("%s stays private: make it public in its settings, on its page", repository.place)
        put = {
            change.path: cargo.files[change.path] for change in changes if change.what in ("add", "replace")
        }
        gone = [change.path for change in changes if change.what == "delete"]
        size = _shown_size(sum(content.size for content in put.values()))
        log.info("Sending %s, %s", counted(len(put), "files"), size)
        if repository.retried(partial(_commit, repository, head, put, gone, _title(cargo))):
            return True
        log.info("Somebody else has changed %s meanwhile: it is looked at again", repository.place)
    raise StorageError(
        f"{repository.place}: somebody else changes the repository, time and again. Run the same command "
        "again once they are done."
    )


def planned(
    cargo: Cargo, repository: ModelRepository, head: Head | None, *, is_public: bool, overwrite: bool
) -> list[Change]:
    """What a push would do, file by file. Raises UsageError as `push` does.

    Args:
        head: None where the repository is to be created.
    """
    if head is None:
        return list(_changes(cargo, None, _Manifest()))
    if not (head.is_private or is_public):
        raise UsageError(
            f"{repository.place} is public, and an adapter is pushed for anyone to see only with --public"
        )
    manifest = _manifest(repository, head)
    changes = list(_changes(cargo, head, manifest or _Manifest()))
    if overwrite:
        return changes
    if others := [change.path for change in changes if change.is_others]:
        raise UsageError(
            f"{repository.place} holds {some(others)}, which Side-Step has not put there, or which was "
            "changed since: nothing was sent\n  --overwrite replaces it; its history keeps what was there"
        )
    strangers = sorted(head.files.keys() - cargo.files.keys() - THE_HUBS_OWN)
    if manifest is None and strangers:
        raise UsageError(
            f"{repository.place} is in use for something else: it holds {some(strangers)}, and Side-Step has "
            "never written there\n  name another repository, or add to this one with --overwrite"
        )
    return changes


def _changes(cargo: Cargo, head: Head | None, manifest: _Manifest) -> Iterator[Change]:
    there = head.files if head else {}
    for path, content in sorted(cargo.files.items()):
        remote, put = there.get(path), manifest.files.get(path)
        if remote is None:
            yield Change(path, "add", content.size)
        elif remote.is_of(content.sha256, content.git):
            yield Change(path, "keep")
        else:
            is_ours = path == MANIFEST or (put is not None and remote.is_of(put.sha256, put.git))
            yield Change(path, "replace", content.size, is_others=not is_ours)
    for path, put in sorted(manifest.files.items()):
        if path in there and path not in cargo.files:
            if there[path].is_of(put.sha256, put.git):
                yield Change(path, "delete")
            else:
                log.warning("%s was changed in the repository, and stays", path)


def _manifest(repository: ModelRepository, head: Head) -> _Manifest | None:
    """What earlier pushes have put there; None where there was none, or its list is damaged."""
    if MANIFEST not in head.files:
        return None
    where = f"{repository.place}/{MANIFEST}"
    try:
        return parse_as(_Manifest, repository.read(head, MANIFEST), where)
    except BadDataError as error:
        log.warning("Nothing there counts as Side-Step's: %s", error)
        return None


def _commit(
    repository: ModelRepository, head: Head, put: Mapping[str, Content], gone: list[str], title: str
) -> str | None:
    """One try. Where the Hub's answer was lost, its commit is there already."""
    now = repository.head()
    if now and now.commit != head.commit:
        done = all(
            path in now.files and now.files[path].is_of(content.sha256, content.git)
            for path, content in put.items()
        )
        return now.commit if done and now.files.keys().isdisjoint(gone) else None
    return repository.commit(head, put, gone, title)


def _title(cargo: Cargo) -> str:
    return f"Adapter {cargo.name} by Side-Step" if cargo.name else "An adapter by Side-Step"


def _shown_size(size: int) -> str:
    return f"{size / _MB:,.1f} MB" if size >= _MB / 10 else f"{size:,} bytes"
