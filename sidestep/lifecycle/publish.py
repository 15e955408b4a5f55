"""The result: `adapter/` in the output, made from committed bytes and mended from them."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

from sidestep.commitlog.leftovers import clear_finished
from sidestep.commitlog.log import CommitLog, Record
from sidestep.runtime.errors import AgainError, MissingInputError
from sidestep.runtime.workspace import Workspace
from sidestep.training.numbers import STATE_FILES

log = logging.getLogger(__name__)

FOLDER = "adapter"
FILES = ("adapter_config.json", "adapter_model.safetensors", "lokr_weights.safetensors")
"""What may be in it: a LoRA's two files, or a LoKR's one."""


def publish(commits: CommitLog, done: Record, workspace: Workspace) -> None:
    """Make adapter/ what the last commit has. Files that are so already are not written.

    What the run's writers have left unfinished, or kept too long, is cleared before.

    Raises BadDataError or MissingInputError where the commit's files are not what they were, AgainError where
    the run has gone on since: then adapter/ is a later writer's.
    """
    store = commits.store
    clear_finished(commits, done)
    files = {name: entry for name, entry in done.files.items() if name not in STATE_FILES}
    if all(_is_there(commits, f"{FOLDER}/{name}", entry["sha256"]) for name, entry in files.items()):
        return
    with workspace.temporary() as folder:
        commits.fetch(replace(done, files=files), Path(folder))
        for name in files:
            _refuse_if_older(commits, done)
            store.upload(Path(folder, name), f"{FOLDER}/{name}")
    log.info("Wrote the adapter to %s/%s", store.place, FOLDER)


def warn_of_dots(*names: str) -> None:
    """Say which of these folder names the ACE-Step app cannot load an adapter by.

    It calls a module of the model by the folder's name, and there a dot parts a module from its own.
    """
    for name in sorted({name for name in names if "." in name}):
        log.warning(
            "The ACE-Step app cannot load an adapter whose folder's name has a dot: for the app, call it %s "
            "instead of %s",
            *(without_dots(name), name),
        )


def without_dots(name: str) -> str:
    """The name with each dot as a hyphen: `blues.v1` → `blues-v1`."""
    return name.replace(".", "-")


def _refuse_if_older(commits: CommitLog, done: Record) -> None:
    tail = commits.tail()
    if tail and tail.number > done.number:
        raise AgainError(
            f"another run has gone on in {commits.store.place}: this one stops, and leaves {FOLDER}/ to it"
        )


def _is_there(commits: CommitLog, path: str, sha256: str) -> bool:
    try:
        return hashlib.sha256(commits.store.read_bytes(path)).hexdigest() == sha256
    except MissingInputError:
        return False
