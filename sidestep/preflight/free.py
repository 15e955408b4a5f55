"""Whether what an output is to hold can be written there: nothing else is in its place.

A link in the way, or a folder where a file belongs, would otherwise be met after hours of work. In a bucket
nothing can be in the way.
"""

import re
from collections.abc import Iterable, Sequence

from sidestep.commitlog.lease import FOLDER as HEARTBEATS
from sidestep.commitlog.leftovers import CHECKPOINTS, generation_of
from sidestep.commitlog.log import FOLDER as COMMITS
from sidestep.config.shards import FOLDER as SHARDS
from sidestep.config.shards import Shard
from sidestep.data.checked import FILE as CHECKED
from sidestep.data.index import TENSORS_SUFFIX
from sidestep.data.listing import PREVIEW, PREVIEWS
from sidestep.data.shards import INDEX_FILE
from sidestep.data.survey import FILE as SURVEY
from sidestep.data.unfinished import FOLDER as UNFINISHED
from sidestep.data.unmerged import NOTE
from sidestep.lifecycle.attempts import FOLDER as ATTEMPTS
from sidestep.lifecycle.output import LOGS, RUNS, SPEC
from sidestep.lifecycle.publish import FILES as ADAPTER_FILES
from sidestep.lifecycle.publish import FOLDER as ADAPTER
from sidestep.lifecycle.receipt import FILE as RECEIPT
from sidestep.lifecycle.results import FILE as MADE
from sidestep.lifecycle.status import FILE as STATUS
from sidestep.lifecycle.sweep import FILE as SWEEP
from sidestep.lifecycle.sweep import LEASE
from sidestep.lifecycle.sweep_best import FILE as BEST
from sidestep.lifecycle.trackers import FILE as TRACKERS
from sidestep.report.curve import FILE as CURVE
from sidestep.report.page import FILE as REPORT
from sidestep.runtime.diskerrors import local_errors
from sidestep.sampling.takes import WHILE_TRAINING
from sidestep.storage.local import LocalStore
from sidestep.storage.store import Store
from sidestep.training.history import FILE as HISTORY
from sidestep.training.numbers import STATE_FILES

FILES = (SPEC, STATUS, RECEIPT, HISTORY, CURVE, REPORT, MADE, CHECKED, TRACKERS)
FOLDERS = (
    *(COMMITS, HEARTBEATS, CHECKPOINTS, ADAPTER, LOGS, RUNS, ATTEMPTS, SHARDS),
    *("tensors", "estimate", "lr-find", WHILE_TRAINING),
)
"""What an output holds, by name."""

SWEEP_FILES, SWEEP_FOLDERS = (SWEEP, BEST), (LEASE, f"{LEASE}/{COMMITS}", f"{LEASE}/{HEARTBEATS}")
"""What that of a sweep holds beside its runs' folders."""

TENSORS_FILES, TENSORS_FOLDERS = (INDEX_FILE, CHECKED, SURVEY, *PREVIEWS), (UNFINISHED, PREVIEW)
"""What is beside tensors, and in the folder of each shard there."""

FILES_IN = {
    COMMITS: re.compile(r"\d{6,}\.json"),
    HEARTBEATS: re.compile(r"\d{6,}\.json"),
    LOGS: re.compile(r"sidestep-\d+\.log"),
    RUNS: re.compile(r"events\.out\.tfevents\.\d+\.sidestep"),
}
"""Files whose names count up, by their folder. Whatever else is there is not ours, and in nobody's way."""


def check_output_free(store: Store, shards: Iterable[Shard] = ()) -> None:
    """Make sure that all an output holds can be written, of `shards` their own folders there, too.

    Raises BadDataError with what is in the way.
    """
    if not isinstance(store, LocalStore):
        return
    _check_free(store, FILES, FOLDERS)
    for shard in shards:
        _check_free(store, [f"{shard.folder}/{STATUS}"], [shard.folder, f"{shard.folder}/{LOGS}"])
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


def check_tensors_free(store: Store, shards: Iterable[Shard] = ()) -> None:
    """The same for what is beside and in a place of tensors, and in the folders of `shards` there."""
    if not isinstance(store, LocalStore):
        return
    tensors = [name for name in _names_in(store, "") if name.endswith(TENSORS_SUFFIX)]
    _check_free(store, [*TENSORS_FILES, NOTE, *tensors], [*TENSORS_FOLDERS, SHARDS])
    for shard in shards:
        store.check_free(shard.folder, is_folder=True)
        _check_free(store.child(shard.folder), TENSORS_FILES, TENSORS_FOLDERS)


def check_sweep_free(store: Store, folders: Iterable[str] = ()) -> None:
    """The same for what a sweep's output holds for all of its runs, and for the outputs of those runs that
    are in `folders`."""
    if not isinstance(store, LocalStore):
        return
    _check_free(store, SWEEP_FILES, SWEEP_FOLDERS)
    for output in map(store.child, folders):
        assert isinstance(output, LocalStore)
        output.check_can_be_made()
        if output.root.is_dir():
            check_output_free(output)


def _check_free(store: LocalStore, files: Iterable[str], folders: Iterable[str]) -> None:
    for name in folders:
        store.check_free(name, is_folder=True)
    for name in files:
        store.check_free(name, is_folder=False)


def _names_in(store: LocalStore, folder: str) -> Sequence[str]:
    path = store.root / folder
    with local_errors(path):
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
