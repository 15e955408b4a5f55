"""The songs of a run as the loop sees them: a sequence of samples, read from disk when they are needed.

Each file is compared with its digest once in an attempt, and again where it has changed since. Those that
preprocessing writes are in the index; of others, a run keeps what it was begun with in its checkpoints.
"""

import logging
import os
import posixpath
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from torch import Tensor

from sidestep.acestep.vae import LATENTS_PER_SECOND
from sidestep.config.training import Alternate
from sidestep.data.index import (
    FileRecord,
    audio_digests,
    content_digest,
    dataset_files,
    song_names,
    without_alternates,
    written_digests,
)
from sidestep.data.sides import Song
from sidestep.data.tensors import AUDIO, Context, Sample, context_kind, read_sample
from sidestep.runtime.diskerrors import local_errors
from sidestep.runtime.errors import BadDataError, BadSpecError, MissingInputError
from sidestep.runtime.progress import track
from sidestep.runtime.words import out_of
from sidestep.runtime.workspace import Workspace
from sidestep.storage.store import FileInfo, Store
from sidestep.storage.transfer import copy_of, pull
from sidestep.training.history import SongFacts
from sidestep.training.numbers import Numbers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Content:
    """What a file on this machine holds, and its size and time when it was read."""

    data: bytes
    seen: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> "_Content":
        with local_errors(path), path.open("rb") as file:
            status = os.fstat(file.fileno())
            return cls(file.read(), (status.st_size, status.st_mtime_ns))

    def sha256(self) -> str:
        return sha256(self.data).hexdigest()


@dataclass(frozen=True)
class _Checked:
    """A sample that holds what was written, and by what its file is known again."""

    sample: Sample
    record: FileRecord
    seen: tuple[int, int]


@dataclass(frozen=True)
class _Check:
    """Reads tensors of a store, and compares each file with the digest that is known of it.

    Attributes:
        written: file → sha256, of what preprocessing has written.
        begun_with: file → what it was when the run began; one of another size or time may hold the same.
        audio: file → sha256 of the song that it was made of, as far as the index says; None: nobody asks.
        names: file → what songs it was made of, likewise.
        hashing: goes on beside the reading of the same bytes.
        alternates: prompts whose conditions are read, too.
    """

    store: Store
    written: Mapping[str, str]
    begun_with: Mapping[str, FileRecord]
    audio: Mapping[str, str] | None
    names: Mapping[str, tuple[str, ...]]
    hashing: Executor
    alternates: Collection[Alternate] = ()

    def read(self, path: Path, file: FileInfo) -> _Checked:
        """A file whose copy on this machine is at `path`: what was pulled, as `pull` has seen to that.

        Raises BadDataError where it is not what was written, and what `read_sample` does.
        """
        content = _Content.of(path)
        digest = self.hashing.submit(content.sha256)
        sample = read_sample(content.data, str(path), self.alternates)
        found, expected = digest.result(), self._expected(file)
        if expected not in (None, found):
            raise BadDataError(f"{self.store.place}/{file.path} is damaged: it is not what was written")
        return _Checked(sample, FileRecord(file.size, file.version, found), content.seen)

    def _expected(self, file: FileInfo) -> str | None:
        if digest := self.written.get(file.path):
            return digest
        then = self.begun_with.get(file.path)
        is_same = then and (then.size, then.version) == (file.size, file.version)
        return then.sha256 if then and is_same else None


class Samples(Sequence[Sample]):
    """Preprocessed songs in the order of their names. Reading one costs some megabytes for a moment.

    Attributes:
        facts: of each song, once `pull` has read them.
        frames: the latents of each, likewise.
        records: file → its size, version and digest, likewise; of the files whose digest no index has.
        songs: what each is known by, likewise, where `pull` was asked for it; see `data.sides`.
    """

    def __init__(self, place: str, files: Sequence[Path], alternates: Collection[Alternate] = ()) -> None:
        self.place = place
        self._alternates = alternates
        self._lack: dict[Alternate, list[str]] = {alternate: [] for alternate in alternates}  # it, by file
        self.facts: list[SongFacts] = []
        self.frames: list[int] = []
        self.records: dict[str, FileRecord] = {}
        self.songs: list[Song] = []
        self._digests: dict[str, str] = {}  # of all files, by name
        self._files = files
        self._known: dict[Path, tuple[tuple[int, int], str]] = {}
        self._contexts: dict[str, Context] = {}

    @classmethod
    def pull(
        cls,
        store: Store,
        workspace: Workspace,
        before: Numbers | None = None,
        silence: Tensor | None = None,
        alternates: Collection[Alternate] = (),
        *,
        known: bool = False,
    ) -> "Samples":
        """Bring a dataset's tensors to this machine, and read each once: no step shall meet a bad one.

        `before` is the run to go on with, which keeps to the files that it was begun with. `silence` is the
        model's, [1, 15000, 64], with which contexts are compared. `alternates` are the prompts that samples
        are drawn from, beside each song's own. `known`: whether `songs` is asked for.

        Raises MissingInputError where there are none, BadDataError with all that cannot be trained on, and
        BadSpecError where the run was begun with others, or an alternate was never encoded.
        """
        files = dataset_files(store, before.dataset if before else "")
        begun_with = before.dataset_files if before else {}
        folder = pull(store, files, workspace, title="Pulling tensors")
        samples = cls(store.place, [copy_of(store, folder, file.path) for file in files], alternates)
        with ThreadPoolExecutor(1) as hashing:
            audio, song = (audio_digests(store), song_names(store)) if known else (None, {})
            check = _Check(store, written_digests(store), begun_with, audio, song, hashing, alternates)
            problems = samples._problems(check, files, silence)
        if problems:
            report = "\n  ".join(
                [f"{out_of(len(problems), len(samples), 'tensor files')} cannot be used:", *problems]
            )
            raise BadDataError(
                f"{report}\n  `sidestep preprocess` with the same settings makes those anew that it had made;"
                f" others can be taken out of {store.place}"
            )
        samples._refuse_others(begun_with)
        samples._judge_alternates()
        samples._judge_contexts()
        return samples

    @property
    def names(self) -> list[str]:
        """Of the files, once `pull` has read them."""
        return list(self._digests)

    @property
    def content(self) -> str:
        """A digest of all that the files hold."""
        return content_digest(self._digests)

    def _judge_contexts(self) -> None:
        """Refuse songs that hold their own answer; say how many have a context of something else."""
        count = Counter(self._contexts.values())
        if answers := [name for name, kind in self._contexts.items() if kind == "answer"]:
            raise BadDataError(
                f"{out_of(len(answers), len(self), 'songs')} in {self.place} hold their own answer:"
                f" context_latents is target_latents, first in {answers[0]}\n"
                "  the ACE-Step app makes such files with preprocess_mode lokr, and an adapter would learn to"
                " copy what it is shown: preprocess the songs here, or there with preprocess_mode lora"
            )
        if count["other"]:
            log.warning(
                "%s in %s have another context than this model's silence, which is what it is"
                " given when it makes a song: they were made with another model, or for another task",
                *(out_of(count["other"], len(self), "songs"), self.place),
            )

    def _judge_alternates(self) -> None:
        """Refuse songs without a trigger word's conditions; say how many have no genre's, if one has."""
        for alternate, lack in self._lack.items():
            if len(lack) == len(self) or (lack and alternate == "trigger"):
                said = f"{out_of(len(lack), len(self), 'songs')} in {self.place} have none, first {lack[0]}"
                raise without_alternates([alternate], said)
            if lack:
                log.warning(
                    "%s have no conditions of a %s, and keep their own in all samples",
                    *(out_of(len(lack), len(self), "songs"), alternate),
                )

    def _problems(self, check: _Check, files: Sequence[FileInfo], silence: Tensor | None) -> list[str]:
        problems: list[str] = []
        width: int | None = None
        with track("Checking tensors", len(self), "songs") as bar:
            for path, file in zip(self._files, files, strict=True):
                try:
                    checked = check.read(path, file)
                    self._digests[file.path] = checked.record.sha256
                    # What an index says is known without a time, which is another one in every copy.
                    if file.path not in check.written:
                        self.records[file.path] = checked.record
                    self._known[path] = (checked.seen, checked.record.sha256)
                    self.facts.append(_facts(checked.sample, posixpath.basename(file.path)))
                    self.frames.append(len(checked.sample.target_latents))
                    if check.audio is not None:
                        audio, also = check.audio.get(file.path, ""), check.names.get(file.path, ())
                        self.songs.append(song_of(checked.sample, file.path, audio, also))
                    for alternate in self._alternates:
                        if alternate not in checked.sample.alternates:
                            self._lack[alternate].append(file.path)
                    if silence is not None:
                        self._contexts[file.path] = context_kind(checked.sample, silence)
                    found = checked.sample.encoder_hidden_states.shape[1]
                    width = width or found
                    if found != width:
                        problems.append(f"{path} has conditions {found} wide, those before it {width}")
                except (BadDataError, MissingInputError) as error:
                    problems.append(str(error).splitlines()[0])
                bar.advance(1)
        return problems

    def _refuse_others(self, begun_with: Mapping[str, FileRecord]) -> None:
        then = {name: record.sha256 for name, record in begun_with.items()}
        others = [name for name, now in self._digests.items() if then.get(name, now) != now]
        if others:
            raise BadSpecError(
                f"this run was begun with another content of {', '.join(others)} in {self.place}\n"
                "  put back what was there, or start anew with another output_dir"
            )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # nobody asks for a slice
        path = self._files[index]
        content, (seen, digest) = _Content.of(path), self._known[path]
        if content.seen != seen and content.sha256() != digest:
            raise BadDataError(
                f"{path} has changed since this run began to read it\n"
                "  once it is as it was, the same command goes on from the last checkpoint"
            )
        return read_sample(content.data, str(path), self._alternates)


def _facts(sample: Sample, file: str) -> SongFacts:
    caption, trigger = sample.metadata.get("caption"), sample.metadata.get("custom_tag")
    return SongFacts(
        name=_name(sample, file),
        seconds=round(len(sample.target_latents) / LATENTS_PER_SECOND, 2),
        caption=caption if isinstance(caption, str) else "",
        trigger=trigger if isinstance(trigger, str) else "",
    )


def _name(sample: Sample, file: str) -> str:
    name = sample.metadata.get("filename")
    return name if isinstance(name, str) and name else posixpath.basename(file)


def song_of(sample: Sample, file: str, audio: str = "", also: tuple[str, ...] = ()) -> Song:
    """What a song is known by. Its own file says what it was made of since version 0.2, an index always.

    Args:
        file: that it is in.
        audio: its digest, by the index.
        also: its names there: a file keeps the one that the song had when it was made.
    """
    said = sample.metadata.get(AUDIO)
    latents = sha256(sample.target_latents.contiguous().numpy().tobytes()).hexdigest()
    return Song(_name(sample, file), latents, said if isinstance(said, str) and said else audio, also)


class Chosen(Sequence[Sample]):
    """Some of the samples, by their numbers, in that order."""

    def __init__(self, samples: Sequence[Sample], numbers: Sequence[int]) -> None:
        self._samples, self._numbers = samples, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # nobody asks for a slice
        return self._samples[self._numbers[index]]
