"""The songs of a run as the loop sees them: a sequence of samples, read from disk when they are needed.

Each file is compared with its digest once in an attempt, and again where it has changed since. Those that
preprocessing writes are in the index; of others, a run keeps what it was begun with in its checkpoints.
"""

import logging
import os
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from torch import Tensor

from sidestep.acestep.vae import LATENTS_PER_SECOND
from sidestep.data.index import FileRecord, content_digest, dataset_files, written_digests
from sidestep.data.tensors import Context, Sample, context_kind, read_sample
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
        hashing: goes on beside the reading of the same bytes.
    """

    store: Store
    written: Mapping[str, str]
    begun_with: Mapping[str, FileRecord]
    hashing: Executor

    def read(self, path: Path, file: FileInfo) -> _Checked:
        """A file whose copy on this machine is at `path`: what was pulled, as `pull` has seen to that.

        Raises BadDataError where it is not what was written, and what `read_sample` does.
        """
        content = _Content.of(path)
        digest = self.hashing.submit(content.sha256)
        sample = read_sample(content.data, str(path))
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
        records: file → its size, version and digest, likewise; of the files whose digest no index has.
    """

    def __init__(self, place: str, files: Sequence[Path]) -> None:
        self.place = place
        self.facts: list[SongFacts] = []
        self.records: dict[str, FileRecord] = {}
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
    ) -> "Samples":
        """Bring a dataset's tensors to this machine, and read each once: no step shall meet a bad one.

        `before` is the run to go on with, which keeps to the files that it was begun with. `silence` is the
        model's, [1, 15000, 64], with which contexts are compared.

        Raises MissingInputError where there are none, BadDataError with all that cannot be trained on, and
        BadSpecError where the run was begun with others.
        """
        files = dataset_files(store, before.dataset if before else "")
        begun_with = before.dataset_files if before else {}
        folder = pull(store, files, workspace, title="Pulling tensors")
        samples = cls(store.place, [copy_of(store, folder, file.path) for file in files])
        with ThreadPoolExecutor(1) as hashing:
            check = _Check(store, written_digests(store), begun_with, hashing)
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
        samples._judge_contexts()
        return samples

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
        return read_sample(content.data, str(path))


def _facts(sample: Sample, file: str) -> SongFacts:
    name, caption = sample.metadata.get("filename"), sample.metadata.get("caption")
    return SongFacts(
        name=name if isinstance(name, str) and name else file,
        seconds=round(len(sample.target_latents) / LATENTS_PER_SECOND, 2),
        caption=caption if isinstance(caption, str) else "",
    )
