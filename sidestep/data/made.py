"""Which tensors of a dataset are made already, and are still what was written."""

import logging
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from sidestep.data.index import Index, find_files, tensors_file
from sidestep.data.keys import digests_of
from sidestep.data.unfinished import Unfinished
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.workspace import Workspace
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

    digests = digests_of(tensors, list(there.values()), Index(), workspace, "tensors")
    damaged: set[str] = set()
    for key, file in there.items():
        if expected[key] is None:
            is_sound = _can_be_read(tensors, file, workspace)
        else:
            is_sound = expected[key] == digests[file.path]
        if not is_sound:
            log.warning("%s/%s is damaged and is made again", tensors.place, file.path)
            damaged.add(key)
    return {key: digests[file.path] for key, file in there.items() if key not in damaged}, damaged


def _can_be_read(store: Store, file: FileInfo, workspace: Workspace) -> bool:
    from sidestep.data.tensors import read_sample

    try:
        read_sample(copy_of(store, pull(store, [file], workspace, "Pulling tensors"), file.path))
    except BadDataError as error:
        log.debug("%s", error)
        return False
    return True
