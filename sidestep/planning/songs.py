"""The number and length of a job's songs and their condition tokens: read where that is cheap, else assumed.

Files on this machine say it in their headers. From a bucket nothing is pulled for a plan: sizes, which its
listing gives, stand for durations.
"""

import math
import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import file_digest
from itertools import compress
from pathlib import Path

from sidestep.acestep.vae import LATENTS_PER_SECOND
from sidestep.config.judging import ValidationSpec
from sidestep.config.schema import PreprocessSpec
from sidestep.config.training import TrainSpec
from sidestep.data.audio import seconds_by_header
from sidestep.data.dataset import Song as SoundFile
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.probe import problem_of, without_bad
from sidestep.data.shares import as_set, shares_of
from sidestep.data.sides import Song, split
from sidestep.data.survey import Heard, Survey, survey_of
from sidestep.data.tensors import read_sample
from sidestep.lifecycle.held_out import (
    Outlook,
    frozen_sides,
    outlook,
    settings_that_count,
    sound_to_split,
    tensors_to_split,
)
from sidestep.lifecycle.job import Job
from sidestep.planning.figures import Basis
from sidestep.runtime.diskerrors import local_errors
from sidestep.runtime.tensorfiles import load_torch
from sidestep.storage.store import FileInfo
from sidestep.training.dataset import song_of

TOKENS = 512
"""Condition tokens of a song with some verses of lyrics: a prompt of 100 to 256, the lyrics, and timbre."""

WIDTH = 2048
"""Numbers in a condition token, in all released models."""

_KILOBITS = {
    **dict.fromkeys((".wav", ".wave", ".w64", ".aiff", ".aif", ".aifc"), 1411),
    ".flac": 900,
    ".mp3": 256,
    ".opus": 128,
    ".webm": 128,
}
"""Per second of sound, as music is usually stored; 192 in other kinds."""

_FRAME_BYTES = 4 * (64 + 128 + 1)  # in a tensor file: latents, context and mask
TOKEN_BYTES = 4 * (WIDTH + 1)  # a condition token and its mask


@dataclass(frozen=True)
class Songs:
    """The songs of a job. `basis` says how the seconds were found, `tokens_basis` the tokens."""

    seconds: tuple[float, ...]  # of each song, as far as it is used
    basis: Basis
    tokens: int  # condition tokens of the song with the most
    tokens_basis: Basis
    source: str  # where the seconds were found, in words
    repeats: tuple[int, ...]  # how often each comes in an epoch
    dataset: Survey | None = None  # of sound files: what can be said of them without decoding any
    outlook: Outlook | None = None  # which of them are held out of the training; None: none is

    @property
    def longest(self) -> float:
        return max(self.seconds)

    @property
    def trained(self) -> "Songs":
        """Those that are trained on."""
        return self._those(False)

    @property
    def validated(self) -> "Songs":
        """Those that a validation goes over: all that are held out, and as many of the trained."""
        held_out, trained = self._those(True), self.trained
        seconds = (*held_out.seconds, *trained.seconds[: len(held_out.seconds)])
        return replace(held_out, seconds=seconds, repeats=(1,) * len(seconds))

    def _those(self, held_out: bool) -> "Songs":
        if self.outlook is None:
            return self if not held_out else replace(self, seconds=(), repeats=())
        chosen = [side == held_out for side in self.outlook.held_out]
        return replace(
            self,
            seconds=tuple(compress(self.seconds, chosen)),
            repeats=tuple(compress(self.repeats, chosen)),
            outlook=None,
        )

    def frames(self, seconds: float, chunk: float | None) -> int:
        """The latents of a song of this length that a step sees."""
        return max(math.ceil(min(seconds, chunk or seconds) * LATENTS_PER_SECOND), 1)


def assumed_songs(count: int, seconds: float, validation: ValidationSpec | None = None) -> Songs:
    """`count` songs of one length, for a plan without access to any.

    Raises BadSpecError where `validation` cannot hold any of so many out.
    """
    unread = [Song("", str(number)) for number in range(count)]
    held_out = outlook(unread, validation, None) if validation and validation.is_on else None
    return Songs(
        *((seconds,) * count, "assumed", TOKENS, "assumed", "not looked at", (1,) * count), outlook=held_out
    )


def find_songs(job: Job) -> Songs:
    """The job's songs: its tensors, where it trains on tensors that are there, else the sound files.

    Raises what reading the dataset raises: MissingInputError, BadDataError; BadSpecError where what is to be
    held out cannot be.
    """
    if job.spec.task in ("train", "estimate"):
        dataset = Preprocessed(job.tensors)
        files = dataset.files()
        return replace(_of_tensors(dataset, files, job.spec.train), outlook=_of_read(job, dataset, files))
    sound = job.read_songs()
    found, readable = _of_sound(sound, job.spec.preprocess, job.spec.train)
    if job.spec.task == "preprocess":
        return found
    return replace(found, outlook=_outlook(job, sound_to_split(job, readable)))


def _outlook(job: Job, songs: Sequence[Song]) -> Outlook | None:
    frozen = frozen_sides(job)
    settings = settings_that_count(job, songs)
    return outlook(songs, settings, frozen) if settings.is_on or frozen else None


def _of_read(job: Job, dataset: Preprocessed, files: Sequence[FileInfo]) -> Outlook | None:
    """Tensors on this machine are read where nothing else says what is in them."""
    root, found = job.tensors.local_root, _outlook(job, tensors_to_split(dataset, files))
    if found is None or found.is_known or root is None:
        return found
    audio, names = dataset.audio, dataset.names
    songs = [
        song_of(read_sample(root / path), path, audio.get(path, ""), names.get(path, ()))
        for path in (file.path for file in files)
    ]
    sides = split(songs, settings_that_count(job, songs), frozen_sides(job))
    return Outlook(tuple(sides.are_held_out(songs)), True)


def _of_tensors(dataset: Preprocessed, files: Sequence[FileInfo], train: TrainSpec) -> Songs:
    shares = shares_of(dataset.index, [file.path for file in files], train)
    store, repeats = dataset.store, tuple(share.repeats for share in shares)
    if store.local_root is None:
        frames = [max(file.size - TOKENS * TOKEN_BYTES, _FRAME_BYTES) / _FRAME_BYTES for file in files]
        seconds = tuple(count / LATENTS_PER_SECOND for count in frames)
        return Songs(
            seconds, "assumed", TOKENS, "assumed", f"from the tensors' sizes in {store.place}", repeats
        )
    sizes = [_tensor_sizes(store.local_root / file.path) for file in files]
    seconds = tuple(frames / LATENTS_PER_SECOND for frames, _ in sizes)
    tokens = max(tokens for _, tokens in sizes)
    return Songs(seconds, "measured", tokens, "measured", f"the tensors in {store.place}", repeats)


def _tensor_sizes(path: Path) -> tuple[int, int]:
    """Frames and condition tokens of a tensor file. It is mapped: its masks are read, and little else."""
    try:
        data = load_torch(path, str(path), mapped=True)
        return int((data["attention_mask"] != 0).sum()), int((data["encoder_attention_mask"] != 0).sum())
    except Exception:  # noqa: BLE001 - a file of another form: the reader reads it, or says what is wrong
        sample = read_sample(path)
        return len(sample.target_latents), len(sample.encoder_hidden_states)


def _of_sound(
    songs: Sequence[SoundFile], settings: PreprocessSpec, train: TrainSpec
) -> tuple[Songs, Sequence[SoundFile]]:
    """What they are, and those that it is of: without what cannot be opened."""
    limit = settings.max_duration
    heard: dict[str, Heard] = {}
    if all(song.store.local_root for song in songs):
        songs = _readable(songs, settings)
        for song in songs:
            if found := seconds_by_header(Path(song.store.place) / song.path):
                heard[song.place] = Heard(seconds=min(found, limit))
    dataset = survey_of(songs, heard, _digests(songs), settings)
    shares = as_set([[song.place] for song in songs], [song.share for song in songs], train)
    repeats = tuple(share.repeats for share in shares)
    if len(heard) == len(songs):
        seconds = tuple(heard[song.place].seconds for song in songs)
        measured = Songs(seconds, "measured", TOKENS, "assumed", "the songs' headers", repeats, dataset)
        return measured, songs
    seconds = tuple(min(_seconds_by_size(song.file), limit) for song in songs)
    by_size = "from the songs' sizes at usual bit rates"
    return Songs(seconds, "assumed", TOKENS, "assumed", by_size, repeats, dataset), songs


def _readable(songs: Sequence[SoundFile], settings: PreprocessSpec) -> list[SoundFile]:
    """The songs that can be opened as sound. Whether they are whole shows when they are decoded.

    Raises BadDataError as preprocessing will: where one cannot and on_bad_file is fail, or none is left.
    """
    problems: dict[str, str] = {}
    for song in songs:
        path = Path(song.store.place) / song.path
        if seconds_by_header(path) is not None:
            continue
        # Some kinds have no length there: decoding tells, as it will for all.
        if problem := problem_of(path, settings.max_duration, settings.float_scale):
            problems[song.place] = problem
    return without_bad(list(songs), problems, settings)


def _digests(songs: Sequence[SoundFile]) -> dict[str, str]:
    """By place, what tells songs that may be the same file: of one size, and then of one content.

    In a bucket the version is a digest of the content; local files of one size are read.
    """
    counts = Counter(song.file.size for song in songs)
    digests = {}
    for song in songs:
        if counts[song.file.size] == 1:
            continue
        content = f"{song.store.place} {song.file.version}"
        if song.store.local_root:
            path = song.store.local_root / song.path
            with local_errors(path), path.open("rb") as file:
                content = file_digest(file, "sha256").hexdigest()
        digests[song.place] = f"{song.file.size} {content}"
    return digests


def _seconds_by_size(file: FileInfo) -> float:
    suffix = posixpath.splitext(file.path)[1].lower()
    return file.size * 8 / (_KILOBITS.get(suffix, 192) * 1000)
