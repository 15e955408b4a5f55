"""Whether songs can be held out as the job says, before any is read."""

from sidestep.data.preprocessed import Preprocessed
from sidestep.lifecycle.held_out import (
    frozen_sides,
    outlook,
    settings_that_count,
    sound_to_split,
    tensors_to_split,
)
from sidestep.lifecycle.job import Job
from sidestep.preflight.checks import Skipped
from sidestep.preflight.tensors import AT_ONCE
from sidestep.runtime.errors import SideStepError
from sidestep.runtime.words import out_of, some


def check_held_out(job: Job, dataset: Preprocessed) -> str | None:
    """The songs that will be held out; None where the job asks for none.

    Raises BadSpecError for what training would refuse, Skipped where the songs' content has to be read first.
    """
    if not job.spec.train.validation.is_on:
        return None
    try:
        frozen = frozen_sides(job)
        if job.spec.task == "pipeline":
            songs = sound_to_split(job, job.read_songs())
        else:
            songs = tensors_to_split(dataset, dataset.files(wait=AT_ONCE))
    except SideStepError as error:  # which is said of these places
        raise Skipped("not looked at, as songs or adapter cannot be read") from error
    found = outlook(songs, settings_that_count(job, songs), frozen)
    said = f"{out_of(found.count, len(songs), 'songs')} held out"
    if found.is_known:
        names = [song.name for song, is_out in zip(songs, found.held_out, strict=True) if is_out]
        return f"{said}: {some(names)}"
    names_too = "" if all(song.name for song in songs) else " and their names"
    raise Skipped(f"about {said}: their content{names_too} will decide, and nobody has read that yet")
