"""The songs of a run as the loop sees them: a sequence of samples, read when they are needed.

Each file is compared with its digest once in an attempt, before it is used, and again where it has changed
since. Those that preprocessing writes are in the index; of others, a run keeps what it was begun with in its
checkpoints. A start reads only files of which it is not known that they are sound: see `data.checked`.
"""

import logging
import posixpath
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor

from sidestep.acestep.vae import LATENTS_PER_SECOND
from sidestep.config.training import Alternate
from sidestep.data.checked import FILE as CHECKED
from sidestep.data.checked import Checked, Context
from sidestep.data.index import FileRecord, content_digest, without_alternates
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.sides import Song
from sidestep.data.tensors import Sample, Silence, checked_of, read_sample
from sidestep.runtime.errors import BadDataError, BadSpecError, MissingInputError
from sidestep.runtime.progress import track
from sidestep.runtime.words import out_of
from sidestep.runtime.workspace import Workspace
from sidestep.storage.store import FileInfo, Store
from sidestep.training.files import Content, Files, Seen
from sidestep.training.history import SongFacts
from sidestep.training.numbers import Numbers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Known:
    """What is known of a file, and by what it is known again.

    Attributes:
        seen: when it was compared with its digest in this attempt; None: it was not.
    """

    checked: Checked
    record: FileRecord
    seen: Seen | None


@dataclass(frozen=True)
class _Check:
    """Finds out what tensors of a store are, and reads those that are not known to be sound.

    Attributes:
        written: file → sha256, of what preprocessing has written.
        begun_with: file → what it was when the run began; one of another size or time may hold the same.
        sound: sha256 → what is known of a file that was found sound.
        alternates: prompts whose conditions are read, too.
        silence: with which contexts are compared; None: nobody asks.
    """

    store: Store
    files: Files
    written: Mapping[str, str]
    begun_with: Mapping[str, FileRecord]
    sound: Mapping[str, Checked]
    alternates: Collection[Alternate] = ()
    silence: Silence | None = None

    def known(self, file: FileInfo) -> _Known | None:
        """What a file is, by what is listed and known; None: it has to be read.

        Raises BadDataError where it is not what was written.
        """
        expected = self._expected(file)
        if expected and (checked := self.sound.get(expected)):
            if checked.size != file.size:
                raise self._damaged(file)
            if checked.answers(self.alternates, self.silence and self.silence.digest):
                return _Known(checked, FileRecord(file.size, file.version, expected), None)
        return None

    def read(self, number: int, file: FileInfo) -> _Known:
        """What a file is, by its content.

        Raises BadDataError where it is not what was written, and what `read_sample` does.
        """
        expected = self._expected(file)
        if expected is None and not self.files.is_as_pulled(number):
            self.files.forget(number)
        content = self.files.read(number, lambda content: expected in (None, content.sha256()))
        found = content.sha256()
        if expected not in (None, found):
            raise self._damaged(file)
        sample = read_sample(content.data, str(self.files.paths[number]), self.alternates)
        checked = checked_of(sample, file.size, self.alternates, self.silence)
        return _Known(checked, FileRecord(file.size, file.version, found), content.seen)

    def _expected(self, file: FileInfo) -> str | None:
        if digest := self.written.get(file.path):
            return digest
        then = self.begun_with.get(file.path)
        is_same = then and (then.size, then.version) == (file.size, file.version)
        return then.sha256 if then and is_same else None

    def _damaged(self, file: FileInfo) -> BadDataError:
        return BadDataError(f"{self.store.place}/{file.path} is damaged: it is not what was written")


class Samples(Sequence[Sample]):
    """Preprocessed songs in the order of their names. Reading one costs some megabytes for a moment.

    It may be read by several threads at a time.

    Attributes:
        facts: of each song, once `pull` has looked at them.
        frames: the latents of each, likewise.
        records: file → its size, version and digest, likewise; of the files whose digest no index has.
        songs: what each is known by, likewise, where `pull` was asked for it; see `data.sides`.
        checked: sha256 → what is known of each file, likewise.
        width: of the conditions, likewise.
    """

    def __init__(self, place: str, files: Files, alternates: Collection[Alternate] = ()) -> None:
        self.place = place
        self._alternates = alternates
        self._lack: dict[Alternate, list[str]] = {alternate: [] for alternate in alternates}  # it, by file
        self.facts: list[SongFacts] = []
        self.frames: list[int] = []
        self.records: dict[str, FileRecord] = {}
        self.songs: list[Song] = []
        self.checked: dict[str, Checked] = {}
        self.width = 0
        self._digests: dict[str, str] = {}  # of all files, by name
        self._names: list[str] = []
        self._files = files
        self._seen: dict[int, Seen] = {}  # by its number, of each file that was compared with its digest
        self._contexts: dict[str, Context] = {}

    @classmethod
    def pull(
        cls,
        dataset: Preprocessed,
        workspace: Workspace,
        before: Numbers | None = None,
        silence: Tensor | None = None,
        alternates: Collection[Alternate] = (),
        *,
        known: bool = False,
        sound: Mapping[str, Checked] | None = None,
    ) -> "Samples":
        """Look at each of a dataset's tensors: no step shall meet a bad one. Of what is known, and is not on
        this machine, nothing is fetched before a step needs it.

        `before` is the run to go on with, which keeps to the files that it was begun with. `silence` is the
        model's, [1, 15000, 64], with which contexts are compared. `alternates` are the prompts that samples
        are drawn from, beside each song's own. `known`: whether `songs` is asked for. `sound` is what is
        known of files by their digests: such a file is read when it is needed, and all others here.

        Raises MissingInputError where there are none, BadDataError with all that cannot be trained on, and
        BadSpecError where the run was begun with others, or an alternate was never encoded.
        """
        store, files = dataset.store, dataset.files(before.dataset if before else "")
        begun_with = before.dataset_files if before else {}
        here = Files(store, workspace, files)
        samples = cls(store.place, here, alternates)
        compared = None if silence is None else Silence.of(silence)
        check = _Check(store, here, dataset.written, begun_with, sound or {}, alternates, compared)
        problems = samples._problems(check, files)
        if known:
            audio, names = dataset.audio, dataset.names
            samples.songs = [
                samples._song(file, audio.get(file, ""), names.get(file, ())) for file in samples.names
            ]
        if problems:
            report = "\n  ".join(
                [f"{out_of(len(problems), len(samples), 'tensor files')} cannot be used:", *problems]
            )
            raise BadDataError(
                f"{report}\n  delete them in {store.place}: `sidestep preprocess` with the same settings "
                "makes those anew that it had made"
            )
        samples._names = samples.names
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

    def _problems(self, check: _Check, files: Sequence[FileInfo]) -> list[str]:
        problems: list[str] = []
        with track("Checking tensors", len(self), "songs") as bar:
            for number, (file, known) in enumerate(zip(files, self._looks(check, files), strict=True)):
                bar.advance(1)
                if isinstance(known, Exception):
                    problems.append(str(known).splitlines()[0])
                    continue
                checked, digest = known.checked, known.record.sha256
                self.checked[digest], self._digests[file.path] = checked, digest
                # What an index says is known without a time, which is another one in every copy.
                if file.path not in check.written:
                    self.records[file.path] = known.record
                if known.seen:
                    self._seen[number] = known.seen
                self.facts.append(_facts(checked, file.path))
                self.frames.append(checked.frames)
                for alternate in self._alternates:
                    if alternate not in checked.alternates:
                        self._lack[alternate].append(file.path)
                if check.silence and checked.context:
                    self._contexts[file.path] = checked.context
                found, width = checked.width, self.width or checked.width
                self.width = width
                if found != width:
                    problems.append(
                        f"{self._files.paths[number]} has conditions {found} wide, those before it {width}"
                    )
        return problems

    def _looks(
        self, check: _Check, files: Sequence[FileInfo]
    ) -> Iterator[_Known | BadDataError | MissingInputError]:
        """What is found of each file, or what is wrong with it, in their order."""

        def known(file: FileInfo) -> _Known | BadDataError | None:
            try:
                return check.known(file)
            except BadDataError as error:
                return error

        def read(number: int) -> _Known | BadDataError | MissingInputError:
            try:
                return check.read(number, files[number])
            except (BadDataError, MissingInputError) as error:
                return error

        found = [known(file) for file in files]
        pool = ThreadPoolExecutor(self._files.at_a_time, "checking")
        try:
            others = pool.map(read, [number for number, one in enumerate(found) if one is None])
            for one in found:
                yield one or next(others)
        finally:
            pool.shutdown(cancel_futures=True)

    def _song(self, file: str, audio: str, also: tuple[str, ...]) -> Song:
        checked = self.checked[self._digests[file]]
        return Song(
            checked.filename or posixpath.basename(file), checked.latents, checked.audio or audio, also
        )

    def _refuse_others(self, begun_with: Mapping[str, FileRecord]) -> None:
        then = {name: record.sha256 for name, record in begun_with.items()}
        others = [name for name, now in self._digests.items() if then.get(name, now) != now]
        if others:
            raise BadSpecError(
                f"this run was begun with another content of {', '.join(others)} in {self.place}\n"
                "  put back what was there, or start anew with another output_dir"
            )

    def __len__(self) -> int:
        return len(self._files.paths)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # nobody asks for a slice
        path, name = self._files.paths[index], self._names[index]
        digest, seen = self._digests[name], self._seen.get(index)

        def is_sound(content: Content) -> bool:
            return content.seen == seen or content.sha256() == digest

        content = self._files.read(index, is_sound)
        if not is_sound(content):
            raise BadDataError(
                f"{path} has changed since this run began to read it\n"
                "  once it is as it was, the same command goes on from the last checkpoint"
                if seen and self._files.cache is None
                else f"{self.place}/{name} is damaged: it is not what was written\n"
                "  delete it: `sidestep preprocess` with the same settings makes it anew, if it had made it; "
                "the same command then goes on from the last checkpoint"
            )
        self._seen[index] = content.seen
        sample = read_sample(content.data, str(path), self._alternates, is_sound=True)
        if not self._is_as_said(sample, self.checked[digest]):
            raise BadDataError(
                f"{self.place}/{name} is not what {CHECKED} says of it, which is damaged\n"
                f"  delete {CHECKED} there and in the output: the same command reads the tensors anew"
            )
        return sample

    def _is_as_said(self, sample: Sample, checked: Checked) -> bool:
        """Whether a sample has the sizes and prompts by which steps were planned before it was read."""
        found = len(sample.target_latents), sample.encoder_hidden_states.shape[1], set(sample.alternates)
        return found == (checked.frames, checked.width, {*checked.alternates} & {*self._alternates})

    def ahead(self, order: Iterable[int]) -> AbstractContextManager[None]:
        """Inside the block, songs that are not on this machine are fetched before they are read, which is in
        this order."""
        return self._files.cache.ahead(order) if self._files.cache else nullcontext()


def _facts(checked: Checked, file: str) -> SongFacts:
    return SongFacts(
        name=checked.filename or posixpath.basename(file),
        seconds=round(checked.frames / LATENTS_PER_SECOND, 2),
        caption=checked.caption,
        trigger=checked.trigger,
    )


def song_of(sample: Sample, file: str, audio: str = "", also: tuple[str, ...] = ()) -> Song:
    """What a song is known by. Its own file says what it was made of since version 0.2, an index always.

    Args:
        file: that it is in.
        audio: its digest, by the index.
        also: its names there: a file keeps the one that the song had when it was made.
    """
    checked = checked_of(sample, 0, ())
    return Song(checked.filename or posixpath.basename(file), checked.latents, checked.audio or audio, also)


class Chosen(Sequence[Sample]):
    """Some of the samples, by their numbers, in that order."""

    def __init__(self, samples: Sequence[Sample], numbers: Sequence[int]) -> None:
        self._samples, self._numbers = samples, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # nobody asks for a slice
        return self._samples[self._numbers[index]]

    def ahead(self, order: Iterable[int]) -> AbstractContextManager[None]:
        """See `Samples.ahead`."""
        return fetching(self._samples, (self._numbers[index] for index in order))


def fetching(samples: Sequence[Sample], order: Iterable[int]) -> AbstractContextManager[None]:
    """`Samples.ahead` of whatever holds songs."""
    return samples.ahead(order) if isinstance(samples, Samples | Chosen) else nullcontext()
