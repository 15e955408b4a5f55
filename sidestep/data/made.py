"""Which tensors of a dataset are made already, and are still what was written."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from sidestep.data.index import find_files, tensors_file
from sidestep.data.keys import sha256_of
from sidestep.data.unfinished import Unfinished
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.progress import track
from sidestep.runtime.workspace import Workspace
from sidestep.storage.cache import Cache
from sidestep.storage.store import FileInfo, Store
from sidestep.storage.transfer import copy_of, pull

log = logging.getLogger(__name__)


def find_made(
    tensors: Store,
    keys: Collection[str],
    known: Mapping[str, str],
    unfinished: Unfinished,
    workspace: Workspace,
) -> tuple[dict[str, str], set[str]]:
    """Of the tensors with these keys, those that are there: the digests of sound ones, and what is damaged.

    Each file is read once and compared with what was written: a bit that flips at rest changes neither the
    file's size nor its time. `known` are the digests by key that the index has; an attempt that came to no
    end noted its own. Older versions kept none: what they wrote counts where it can be read.
    """
    found = find_files(tensors, map(tensors_file, keys))
    there = {key: found[tensors_file(key)] for key in keys if tensors_file(key) in found}
    with ThreadPoolExecutor(tensors.options.connections) as pool:
        unknown = [key for key in there if key not in known]
        noted = dict(zip(unknown, pool.map(unfinished.noted_digest, unknown), strict=True))
    expected = {key: known.get(key) or noted[key] for key in there}

    files = list(there.values())
    path_of = _paths(tensors, files, workspace)

    def look(number: int, key: str) -> str | None:
        with path_of(number) as path:
            digest = sha256_of(path)
            is_sound = digest == expected[key] if expected[key] else _can_be_read(path)
        return digest if is_sound else None

    sound: dict[str, str] = {}
    with (
        track("Reading tensors", sum(file.size for file in files), "B") as bar,
        ThreadPoolExecutor(tensors.options.connections) as pool,  # hashing leaves Python's lock to the others
    ):
        for key, digest in zip(there, pool.map(look, range(len(files)), there), strict=True):
            bar.advance(there[key].size)
            if digest is None:
                log.warning("%s/%s is damaged and is made again", tensors.place, there[key].path)
            else:
                sound[key] = digest
    return sound, set(there) - set(sound)


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
