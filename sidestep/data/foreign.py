"""Folders of tensors that other trainers made: which of their files count.

Their `manifest.json` names the files of the dataset, under "samples", by paths that may be of another
machine: the names count. A `*.tmp.pt` is one whose writing was cut off. Files of an older dataset may lie
beside them.
"""

import logging
from collections.abc import Collection, Mapping

from pydantic import BaseModel

from sidestep.runtime import words
from sidestep.runtime.errors import MissingInputError
from sidestep.runtime.parsing import parse_as
from sidestep.storage.store import FileInfo, Store

log = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"
UNFINISHED_SUFFIX = ".tmp.pt"
SHOWN = 5  # names that a message lists


class _Manifest(BaseModel):
    samples: list[str] | None = None  # None: it is of something else


def counted(store: Store, listed: Mapping[str, FileInfo]) -> dict[str, FileInfo]:
    """Of the `.pt` files in a folder without an index, by name, those that are its dataset.

    Raises MissingInputError where the manifest names one that is not there, BadDataError where it is damaged.
    """
    whole = {name: file for name, file in listed.items() if not name.endswith(UNFINISHED_SUFFIX)}
    named = _read_manifest(store)
    if named is None:
        return whole
    if missing := sorted(named - whole.keys()):
        for name in missing:
            store.refuse_folder(name)
        raise MissingInputError(
            f"{store.place} is not complete: {MANIFEST_FILE} names {words.counted(len(named), 'files')}, and "
            f"{len(missing)} of {len(named)} are not there: {_some(missing)}\n"
            f"  copy the folder again, whole; without {MANIFEST_FILE}, all .pt files in it are the dataset"
        )
    return {name: file for name, file in whole.items() if name in named}


def log_left_out(store: Store, listed: Collection[str], files: Collection[str]) -> None:
    """Say which of the names listed are not among the dataset's `files`."""
    left_out = sorted(set(listed) - set(files))
    unfinished = [name for name in left_out if name.endswith(UNFINISHED_SUFFIX)]
    others = [name for name in left_out if not name.endswith(UNFINISHED_SUFFIX)]
    if unfinished:
        log.warning("%s: %d unfinished .pt are left out: %s", store.place, len(unfinished), _some(unfinished))
    if others:
        log.warning(
            "%s: %d .pt that %s does not name are left out: %s",
            *(store.place, len(others), MANIFEST_FILE, _some(others)),
        )


def _read_manifest(store: Store) -> set[str] | None:
    """The names of the files that the manifest in a folder names; None where it has none."""
    if store.stat(MANIFEST_FILE) is None:
        store.refuse_folder(MANIFEST_FILE)
        return None
    manifest = parse_as(_Manifest, store.read_bytes(MANIFEST_FILE), f"{store.place}/{MANIFEST_FILE}")
    if manifest.samples is None:
        return None
    return {path.replace("\\", "/").rpartition("/")[2] for path in manifest.samples}


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
