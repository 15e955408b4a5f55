"""A preprocessed dataset: which tensors it consists of, and what its index says of them."""

import logging
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from sidestep.config.training import Alternate
from sidestep.data import foreign
from sidestep.data.index import (
    TENSORS_SUFFIX,
    Index,
    and_asked_for,
    dataset_digest,
    read_index,
    tensors_file,
    without_alternates,
)
from sidestep.data.shards import refuse_unmerged
from sidestep.runtime.errors import MissingInputError, StorageError
from sidestep.runtime.words import counted, out_of, some
from sidestep.storage.retry import Retry
from sidestep.storage.store import FileInfo, Store

log = logging.getLogger(__name__)

WAIT = Retry(tries=1, seconds=60, first_pause=1, longest_pause=8, jitter=0)
"""For tensors that were written, and that the store does not show yet."""


class LateError(StorageError):
    """Tensors that were written do not show."""


@dataclass(frozen=True, eq=False)
class Preprocessed:
    """The tensors in a place, seen once: its index is read, and its files are listed, where they are first
    asked for. Who is to see what has changed since makes another one.
    """

    store: Store

    @cached_property
    def index(self) -> Index | None:
        """None where there is none. Raises BadDataError where it is damaged."""
        return read_index(self.store)

    @cached_property
    def listed(self) -> list[FileInfo]:
        """All files in the place, whatever they are."""
        return self.store.list_files()

    def samples(self, begun_with: str = "", wait: Retry = WAIT) -> list[FileInfo]:
        """The tensor files of the dataset, sorted: those that its index names, or else its manifest.

        So tensors of songs or captions that have been taken out of the dataset are not trained on. Without
        either of the two, all whole `*.pt` are the dataset: see `data.foreign`. A run whose dataset had the
        digest `begun_with` keeps its list: older versions took every `*.pt` of a place without an index.

        Raises BadDataError where there are shards that are not merged, and MissingInputError where the index
        names tensors that were never made: preprocessing has not finished; where some were made, the same for
        a disk, which shows what it has, and else StorageError if they do not show as long as `wait` says.
        """
        store, index = self.store, self.index  # before the listing: what was made by then is listed
        listed = self._tensors()
        if index is None:
            refuse_unmerged(store)
            every = list(listed.values())
            is_begun = dataset_digest(every) == begun_with
            return every if is_begun else list(foreign.counted(store, listed).values())
        keys = {tensors_file(key): key for key in sorted(set(index.samples.values()))}

        def ask() -> dict[str, FileInfo]:
            found = and_asked_for(store, keys, listed)
            missing = [path for path in keys if path not in found]
            for path in missing:
                store.refuse_folder(path)
            not_made = [path for path in missing if keys[path] not in index.tensors]
            if not_made:
                raise MissingInputError(
                    f"{store.place} is not complete: {out_of(len(not_made), len(keys), 'songs')} to "
                    "preprocess\n"
                    "  run `sidestep preprocess` with the same settings again: it makes what is missing"
                )
            if missing:
                raise _gone(store, index, [keys[path] for path in missing], len(keys))
            return found

        def may_pass(error: Exception) -> bool:
            return isinstance(error, LateError)

        return list(wait.call(ask, may_pass, _log_late).values())

    def files(self, begun_with: str = "", wait: Retry = WAIT) -> list[FileInfo]:
        """The same. Raises MissingInputError where there are none."""
        files = self.samples(begun_with, wait)
        if not files:
            raise MissingInputError(
                f"no preprocessed songs (.pt) in {self.store.place}\n"
                "  make them with `sidestep preprocess`, or set dataset_dir to where they are"
            )
        return files

    def log_left_out(self) -> None:
        """Say which `.pt` files in a place without an index are not the dataset's."""
        if self.index is None:
            listed = self._tensors()
            foreign.log_left_out(self.store, listed, foreign.counted(self.store, listed))

    def check_alternates(self, needed: Iterable[Alternate]) -> None:
        """Raise BadSpecError where the index says that the tensors lack prompts that are needed.

        Without an index, the files themselves show it.
        """
        index = self.index
        if index and (lacking := [alternate for alternate in needed if alternate not in index.alternates]):
            raise without_alternates(lacking, f"the tensors in {self.store.place} were made without")

    @property
    def written(self) -> dict[str, str]:
        """File → sha256 of tensors, as they were written; empty where its index has none."""
        return {tensors_file(key): digest for key, digest in self.index.tensors.items()} if self.index else {}

    @property
    def audio(self) -> dict[str, str]:
        """File → sha256 of the song that tensors were made of; empty where they have no index."""
        if (index := self.index) is None:
            return {}
        found = ((tensors_file(key), index.files.get(place)) for place, key in sorted(index.samples.items()))
        return {file: record.sha256 for file, record in found if record}

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """File → the names of the songs that tensors were made of, more than one where copies have the same
        texts; empty where they have no index."""
        found: dict[str, tuple[str, ...]] = {}
        for place, key in sorted((self.index or Index()).samples.items()):
            found[tensors_file(key)] = (*found.get(tensors_file(key), ()), posixpath.basename(place))
        return found

    def _tensors(self) -> dict[str, FileInfo]:
        return {
            file.path: file
            for file in self.listed
            if file.path.endswith(TENSORS_SUFFIX) and "/" not in file.path and not file.path.startswith(".")
        }


def _gone(store: Store, index: Index, keys: list[str], count: int) -> LateError | MissingInputError:
    """Tensors of some songs were made, and are not there."""
    song_of = {key: posixpath.basename(song) for song, key in index.samples.items()}
    names = some([f"{tensors_file(key)} ({song_of[key]})" for key in keys])
    said = f"of the tensors of {counted(count, 'songs')}, {len(keys)} that were written"
    again = "run `sidestep preprocess` with the same settings again: it makes what is missing"
    if store.local_root:
        return MissingInputError(f"{store.place} is not complete: {said} are gone: {names}\n  {again}")
    return LateError(f"{store.place}: {said} do not show: {names}\n  if they were deleted, {again}")


def _log_late(error: Exception, pause: float) -> None:
    log.info("%s; asked again in %.0f s", str(error).splitlines()[0], pause)
