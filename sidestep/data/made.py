"""Which tensors of a dataset are made already, and are still what was written.

On a disk they are read for that. Of a remote place, those are fetched of which its listing says anything else
than when they were written or last read: a size, a version, or that nothing is known of them. What rots there
under the same version is seen when it is trained on.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from sidestep.data.index import Index, Stored, find_files, tensors_file
from sidestep.data.keys import sha256_of
from sidestep.data.unfinished import Unfinished
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.progress import track
from sidestep.runtime.workspace import Workspace
from sidestep.storage.cache import Cache
from sidestep.storage.store import FileInfo, Store
from sidestep.storage.transfer import copy_of, pull

log = logging.getLogger(__name__)


@dataclass
class Made:
    """Tensors that are there.

    Attributes:
        sound: key → sha256 of those that are what was written.
        damaged: keys of the others.
        stored: what their place says of sound ones, by their digests.
    """

    sound: dict[str, str] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    stored: dict[str, Stored] = field(default_factory=dict)

    def add(self, other: "Made") -> None:
        """What was found later counts, too."""
        self.sound |= other.sound
        self.damaged |= other.damaged
        self.stored |= other.stored


def find_made(
    tensors: Store, keys: Collection[str], known: Index, unfinished: Unfinished, workspace: Workspace
) -> Made:
    """Of the tensors with these keys, those that are there, and whether they are sound.

    A file is read and compared with what was written, unless it is listed as `known` has it stored. An
    attempt that came to no end noted its own digests. Older versions kept none: what they wrote counts where
    it can be read.
    """
    found = find_files(tensors, map(tensors_file, keys))
    there = {key: found[tensors_file(key)] for key in keys if tensors_file(key) in found}
    made = Made()
    for key in [key for key, file in there.items() if known.is_as_stored(key, file)]:
        made.sound[key] = known.tensors[key]
        made.stored[known.tensors[key]] = Stored.of(there.pop(key))
    if not there:
        return made
    with ThreadPoolExecutor(tensors.options.connections) as pool:
        unknown = [key for key in there if key not in known.tensors]
        noted = dict(zip(unknown, pool.map(unfinished.noted_digest, unknown), strict=True))
    expected = {key: known.tensors.get(key) or noted[key] for key in there}

    files = list(there.values())
    path_of = _paths(tensors, files, workspace)

    def look(number: int, key: str) -> str | None:
        with path_of(number) as path:
            digest = sha256_of(path)
            is_sound = digest == expected[key] if expected[key] else _can_be_read(path)
        return digest if is_sound else None

    with (
        track("Reading tensors", sum(file.size for file in files), "B") as bar,
        ThreadPoolExecutor(tensors.options.connections) as pool,  # hashing leaves Python's lock to the others
    ):
        for key, digest in zip(there, pool.map(look, range(len(files)), there), strict=True):
            bar.advance(there[key].size)
            if digest is None:
                log.warning("%s/%s is damaged and is made again", tensors.place, there[key].path)
                made.damaged.add(key)
            else:
                made.sound[key], made.stored[digest] = digest, Stored.of(there[key])
    return made


def _paths(
    store: Store, files: Sequence[FileInfo], workspace: Workspace
) -> Callable[[int], AbstractContextManager[Path]]:
    """By its number, a block in which a file is on this machine. All of them need not fit there."""
    if store.local_root is not None:
        folder = pull(store, files, workspace, "Reading tensors")
        return lambda number: nullcontext(copy_of(store, folder, files[number].path))
    cache = Cache(store, workspace, files)
    return lambda number: cache.holding(number, anew=not cache.copies.has(files[number]))


def _can_be_read(path: Path) -> bool:
    from sidestep.data.tensors import read_sample

    try:
        read_sample(path)
    except BadDataError as error:
        log.debug("%s", error)
        return False
    return True
