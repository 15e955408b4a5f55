"""Whether what the job says of single songs can be, before any of them is read."""

from typing import Literal

from sidestep.config.training import TrainSpec
from sidestep.data.index import Share
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.shares import as_set, shares_of
from sidestep.lifecycle.job import Job
from sidestep.preflight.checks import Skipped
from sidestep.preflight.tensors import AT_ONCE
from sidestep.runtime.errors import SideStepError
from sidestep.runtime.words import out_of

_OF_SHARE = {"repeats": "repeats", "weights": "weight"}
"""What a song's share calls the fields."""


def check_shares(job: Job, dataset: Preprocessed, field: Literal["repeats", "weights"]) -> str | None:
    """What train.repeats or train.weights sets; None where it sets nothing.

    Raises BadSpecError where a pattern fits no song, or two say different things of one; Skipped where the
    songs cannot be listed.
    """
    train = job.spec.train
    if not getattr(train, field):
        return None
    others: dict[str, dict[str, float]] = {other: {} for other in _OF_SHARE if other != field}
    shares = _shares(job, dataset, train.model_copy(update=others))
    own = sum(getattr(share, _OF_SHARE[field]) != 1 for share in shares)
    return f"{out_of(own, len(shares), 'songs')} with {field} other than 1"


def check_prompts(job: Job, dataset: Preprocessed) -> str | None:
    """Whether tensors have the other prompts that samples are drawn from; None where none is.

    Raises BadSpecError where the index says that they lack one, Skipped where there is no index.
    """
    needed = job.spec.train.alternates
    if not needed:
        return None
    try:
        index = dataset.index
    except SideStepError as error:  # which is said of the tensors
        raise Skipped("not looked at, as the tensors' index cannot be read") from error
    if index is None:
        raise Skipped(
            f"{', '.join(needed)}: not known, as no index.json says what the tensors have; they are read "
            "before the first step"
        )
    dataset.check_alternates(needed)
    return f"{', '.join(needed)}, beside the songs' own"


def _shares(job: Job, dataset: Preprocessed, train: TrainSpec) -> list[Share]:
    try:
        files = None if job.spec.task == "pipeline" else dataset.files(wait=AT_ONCE)
        songs = job.read_songs() if files is None else []
    except SideStepError as error:  # which is said of these places
        raise Skipped("not looked at, as songs cannot be listed") from error
    if files is None:
        return as_set([[song.place] for song in songs], [song.share for song in songs], train)
    return shares_of(dataset.index, [file.path for file in files], train)
