"""Which songs a job will hold out, as far as that is known before its tensors are read.

A song's content decides its side. The index beside tensors has the digests of the songs that they were made
of; where there is none, as many as are likely stand for them. Nothing here needs torch.
"""

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from sidestep.config.judging import ValidationSpec
from sidestep.data.dataset import Song as SoundFile
from sidestep.data.index import Index, read_index
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.shares import as_set
from sidestep.data.sides import Sides, Song, guess, named_in, sides_in, split
from sidestep.lifecycle.adapter_files import find_adapter, header_of
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.resume import sides_of_run
from sidestep.storage.store import FileInfo


@dataclass(frozen=True)
class Outlook:
    """What will be held out.

    Attributes:
        held_out: of each song in its order, whether it is.
        is_known: whether it is these songs; else they stand for as many, which their content will decide.
    """

    held_out: tuple[bool, ...]
    is_known: bool

    @property
    def count(self) -> int:
        return sum(self.held_out)


def outlook(songs: Sequence[Song], validation: ValidationSpec, frozen: Sides | None) -> Outlook:
    """By the rules of `data.sides`. A song without a digest of its audio counts as one nobody has read.

    Raises BadSpecError for what training would refuse, as far as it is known.
    """
    if not validation.is_on and frozen is None:
        return Outlook((False,) * len(songs), True)
    digests = [song.audio for song in songs] + [song.audio for song in (frozen.songs if frozen else ())]
    if all(digests):
        return Outlook(tuple(split(songs, validation, frozen).are_held_out(songs)), True)
    return Outlook(tuple(guess(songs, validation, frozen)), False)


def frozen_sides(job: Job) -> Sides | None:
    """The sides that are taken already: the run's own, or those of the adapter that a new run begins with.

    Raises what finding that adapter raises, and BadDataError where its list cannot be read.
    """
    place = job.spec.train.init_from
    if job.commits.newest_commit(job.commits.tail()):
        return sides_of_run(job.commits)
    if not place:
        return None
    found = find_adapter(place, job.spec.storage)
    return sides_in(header_of(found), found.place)


def tensors_to_split(dataset: Preprocessed, files: Sequence[FileInfo]) -> list[Song]:
    """The songs of tensors, by the index beside them; without one, their names are unknown, too ("")."""
    audio, names = dataset.audio, dataset.names
    return [
        Song(next(iter(also), ""), file.path, audio.get(file.path, ""), also)
        for file in files
        for also in (names.get(file.path, ()),)
    ]


def sound_to_split(job: Job, songs: Sequence[SoundFile], index: Index | None = None) -> list[Song]:
    """The same of sound files that are to be preprocessed; an index knows those that have been before.

    Args:
        index: the one to go by, in place of the one beside the tensors.
    """
    index = index or read_index(job.tensors) or Index()
    return [
        Song(posixpath.basename(song.path), song.place, index.sha256(song.store, song.file) or "")
        for song in songs
    ]


def check_to_be_trained(job: Job, songs: Sequence[SoundFile], index: Index) -> None:
    """Whether the training that follows can be as set, on the songs that are left once all have been probed.

    Args:
        songs: sound files, of which `index` knows the content.

    Raises BadSpecError for what training would refuse after all of them have been encoded, and what
    `frozen_sides` does.
    """
    as_set([[song.place] for song in songs], [song.share for song in songs], job.spec.train)
    if job.spec.train.validation.is_on:
        read = sound_to_split(job, songs, index)
        outlook(read, settings_that_count(job, read), frozen_sides(job))


def settings_that_count(job: Job, songs: Sequence[Song]) -> ValidationSpec:
    """The job's, without names that an own checkpoint has settled: a file may be called otherwise by now."""
    validation = job.spec.train.validation
    if not job.commits.newest_commit(job.commits.tail()):
        return validation
    fitting = tuple(pattern for pattern in validation.songs if named_in(songs, pattern))
    return validation.model_copy(update={"songs": fitting})
