"""Whether a place holds the tensors of a dataset, and those of the encoders that the job's model has."""

from collections.abc import Sequence

from rich.filesize import decimal

from sidestep.acestep.layout import find_variant
from sidestep.data.index import TENSORS_SUFFIX
from sidestep.data.kinds import AUDIO_SUFFIXES
from sidestep.data.preprocessed import WAIT, Preprocessed
from sidestep.data.shards import shards_in
from sidestep.data.unmerged import check_whole
from sidestep.data.weights import check_headers
from sidestep.lifecycle.job import Job
from sidestep.preflight.checks import Skipped
from sidestep.runtime.errors import BadDataError, MissingInputError, SideStepError
from sidestep.runtime.words import counted, some
from sidestep.storage.retry import Retry
from sidestep.storage.store import FileInfo

AT_ONCE = Retry(tries=1, seconds=0)


def find_tensors(job: Job, dataset: Preprocessed, *, ahead: bool) -> str:
    """The tensor files that the job's dataset consists of, in words; others may lie beside them.

    Args:
        ahead: the job is not about to run, so nothing is waited for that a bucket does not show.

    Raises MissingInputError where there are none, or not all; what is there instead is named. Raises Skipped
    for shards that the task will merge, and as `merge_shards` for those that it will not.
    """
    store, listed = dataset.store, dataset.listed
    if ahead and dataset.index is None and shards_in(store):
        shards = job.spec.preprocess.shards
        merged = check_whole(store, shards if shards > 1 else None)
        raise Skipped(
            f"not looked at, as the {merged} shards in {store.place} are not merged: `sidestep merge-index` "
            "makes one dataset of them, as does the task when it is run"
        )
    every = [file for file in listed if file.path.endswith(TENSORS_SUFFIX)]
    try:
        files = dataset.samples(wait=AT_ONCE if ahead else WAIT)
    except MissingInputError:
        # A run that was begun when no manifest counted knows its files.
        if not every or dataset.index or job.spec.task != "train" or job.commits.tail() is None:
            raise
        files = every
    if files:
        size, others = decimal(sum(file.size for file in files)), {file.path for file in every}
        others -= {file.path for file in files}
        there = f"{counted(len(files), 'tensors')} ({TENSORS_SUFFIX}), {size}, in {store.place}"
        return f"{there}; {len(others)} more there are not the dataset's" if others else there
    root = store.local_root
    if every:
        found = (
            f"none of the {len(every)} {TENSORS_SUFFIX} in {store.place} is the dataset's: no song in "
            f"index.json or manifest.json has them, or they are unfinished "
            f"({some([file.path for file in every])})."
        )
    elif root and not root.exists():
        found = f"{store.place} does not exist. Check the path, and what is mounted."
    elif root and not root.is_dir():
        found = f"{store.place} is a file, where a folder is needed."
    else:
        found = f"there are no tensors ({TENSORS_SUFFIX}) in {store.place}. Check the place and its name."
    raise MissingInputError(found + _how_to_make_tensors(job, listed))


def check_made_with(job: Job, dataset: Preprocessed) -> str | None:
    """Compare what made the tensors with the job's model; None where the index does not say what did.

    Raises Skipped where there is no model or it cannot be told, BadSpecError where that has other encoders.
    """
    try:
        index = dataset.index
    except SideStepError:  # which is said of the tensors
        return None
    if index is None or index.weights is None:
        return None
    try:
        model = find_variant(job.checkpoints, job.spec.model_variant)
        warnings = check_headers(job.spec, job.checkpoints, model, index.weights)
    except (BadDataError, MissingInputError) as error:  # which is said at checkpoint_dir
        raise Skipped("not compared, as there is no sound model") from error
    made = index.weights
    if not made.samples and not warnings and made.variant != model.folder:
        raise Skipped(
            f"made with {made.variant}, by a version that kept no sample of its bytes: {model.folder} has "
            "the same names and shapes, and is compared by content before the first step"
        )
    compared = "names, shapes and samples" if made.samples else "names and shapes"
    return "; ".join([f"made with {made.variant}, by {compared} (content not read)", *warnings])


def _how_to_make_tensors(job: Job, files: Sequence[FileInfo]) -> str:
    """What to do where there are no tensors: where `files` are there in their place, which may be songs."""
    songs = [file.path for file in files if file.path.lower().endswith(AUDIO_SUFFIXES)]
    if songs and job.spec.dataset_dir:
        return (
            f" There are songs ({some(songs)}), which belong into audio_dir: `sidestep preprocess "
            f"--audio-dir {job.tensors.place} --tensor-output TENSORS` makes tensors of them, and "
            "dataset_dir is TENSORS then."
        )
    return " `sidestep preprocess` makes tensors of songs."
