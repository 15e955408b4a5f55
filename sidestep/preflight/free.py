"""Whether what an output is to hold can be written there: nothing else is in its place.

A link in the way, or a folder where a file belongs, would otherwise be met after hours of work. In a bucket
nothing can be in the way.
"""

import re
from collections.abc import Sequence

from sidestep.commitlog.lease import FOLDER as HEARTBEATS
from sidestep.commitlog.leftovers import CHECKPOINTS, generation_of
from sidestep.commitlog.log import FOLDER as COMMITS
from sidestep.config.shards import FOLDER as SHARDS
from sidestep.data.index import TENSORS_SUFFIX
from sidestep.data.shards import INDEX_FILE
from sidestep.lifecycle.output import LOGS, RUNS, SPEC
from sidestep.lifecycle.publish import FILES as ADAPTER_FILES
from sidestep.lifecycle.publish import FOLDER as ADAPTER
from sidestep.lifecycle.receipt import FILE as RECEIPT
from sidestep.lifecycle.results import FILE as MADE
from sidestep.lifecycle.status import FILE as STATUS
from sidestep.report.curve import FILE as CURVE
from sidestep.report.page import FILE as REPORT
from sidestep.runtime.diskerrors import local_errors
from sidestep.storage.local import LocalStore
from sidestep.storage.store import Store
from sidestep.training.history import FILE as HISTORY
from sidestep.training.numbers import STATE_FILES

FILES = (SPEC, STATUS, RECEIPT, HISTORY, CURVE, REPORT, MADE)
FOLDERS = (COMMITS, HEARTBEATS, CHECKPOINTS, ADAPTER, LOGS, RUNS, "tensors", "estimate", "lr-find", SHARDS)
"""What an output holds, by name."""

FILES_IN = {
    COMMITS: re.compile(r"\d{6,}\.json"),
    HEARTBEATS: re.compile(r"\d{6,}\.json"),
    LOGS: re.compile(r"sidestep-\d+\.log"),
    RUNS: re.compile(r"events\.out\.tfevents\.\d+\.sidestep"),
}
"""Files whose names count up, by their folder. Whatever else is there is not ours, and in nobody's way."""


def check_output_free(store: Store) -> None:
    """Make sure that all an output holds can be written. Raises BadDataError with what is in the way."""
    if not isinstance(store, LocalStore):
        return
    for name in FILES:
        store.check_free(name, is_folder=False)
    for name in FOLDERS:
        store.check_free(name, is_folder=True)
    for name in ADAPTER_FILES:
        store.check_free(f"{ADAPTER}/{name}", is_folder=False)
    for folder, names in FILES_IN.items():
        for name in _names_in(store, folder):
            if names.fullmatch(name):
                store.check_free(f"{folder}/{name}", is_folder=False)
    for checkpoint in (f"{CHECKPOINTS}/{name}" for name in _names_in(store, CHECKPOINTS)):
        if generation_of(checkpoint):
            store.check_free(checkpoint, is_folder=True)
            for name in (*ADAPTER_FILES, *STATE_FILES):
                store.check_free(f"{checkpoint}/{name}", is_folder=False)


def check_tensors_free(store: Store) -> None:
    """The same for the files beside and in a place of tensors."""
    if isinstance(store, LocalStore):
        for name in (INDEX_FILE, *_names_in(store, "")):
            if name == INDEX_FILE or name.endswith(TENSORS_SUFFIX):
                store.check_free(name, is_folder=False)


def _names_in(store: LocalStore, folder: str) -> Sequence[str]:
    path = store.root / folder
    with local_errors(path):
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
