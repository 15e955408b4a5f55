"""A job: its spec, and all that its tasks work with. Each is opened where it is first asked for, and once.

Nothing here needs torch: whether a job is finished, or what is wrong with it, is known before that is loaded.
"""

import posixpath
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sidestep.acestep.layout import open_checkpoints
from sidestep.commitlog.log import CommitLog
from sidestep.config.job import JobSpec
from sidestep.config.shards import Shard
from sidestep.data.dataset import Song, read_songs
from sidestep.lifecycle.output import LOGS, Output
from sidestep.lifecycle.pending import PendingCheckpoints
from sidestep.lifecycle.status import FILE as STATUS
from sidestep.runtime.preemption import Preemption
from sidestep.runtime.workspace import Workspace, open_workspace
from sidestep.storage.open import open_store
from sidestep.storage.store import Store


@dataclass(frozen=True, eq=False)
class Job:
    """What every task of a job is given. What opening a place raises, asking for it raises.

    Attributes:
        may_go_back: whether --resume-from was typed, so that it may name an older checkpoint of this output.
        shard: whose songs it preprocesses; None: all of them.
    """

    spec: JobSpec
    preemption: Preemption = field(default_factory=Preemption)
    may_go_back: bool = False
    shard: Shard | None = None

    @cached_property
    def workspace(self) -> Workspace:
        """The local folder for downloads and unfinished work."""
        return open_workspace(self.spec.runtime.workspace)

    @cached_property
    def output_store(self) -> Store:
        """Where the results go, and all state is."""
        return self._open(self.spec.output_place)

    @cached_property
    def output(self) -> Output:
        """The same with its local folder, where files are made for it."""
        return Output(self.output_store, self.workspace, self._own(LOGS))

    @cached_property
    def commits(self) -> CommitLog:
        """The output's commit log."""
        return CommitLog(self.output_store)

    @cached_property
    def pending(self) -> PendingCheckpoints:
        """Checkpoints on their way to the output, on this machine's disk."""
        return PendingCheckpoints(self.workspace, self.output_store.place)

    @cached_property
    def tensors(self) -> Store:
        """Where the preprocessed songs are: a place of their own, or a folder of the output."""
        if self.spec.dataset_dir or not self.spec.output_dir:
            return self._open(self.spec.tensors_place)
        return self.output_store.child("tensors")

    @cached_property
    def beside_tensors(self) -> Store:
        """Where its index, its report and its unfinished work are: the tensors' place, or the shard's folder
        there."""
        return self.tensors.child(self.shard.folder) if self.shard else self.tensors

    @property
    def status_file(self) -> str:
        """Where it says in its output what it is doing."""
        return self._own(STATUS)

    @cached_property
    def checkpoints(self) -> Store:
        """Where the models are."""
        return open_checkpoints(self.spec.checkpoint_dir, self.spec.storage)

    @cached_property
    def songs(self) -> Store | None:
        """The folder of the songs; None where only a dataset JSON says where they are."""
        return self._open(self.spec.audio_dir) if self.spec.audio_dir else None

    @cached_property
    def dataset_json(self) -> tuple[Store, str] | None:
        """The folder that the dataset JSON is in, and its name there; None where there is no such file."""
        if not self.spec.dataset_json:
            return None
        folder, name = posixpath.split(self.spec.dataset_json)
        return self._open(folder or "."), name

    def read_songs(self) -> list[Song]:
        """The songs of the dataset, with their texts. Raises what `data.dataset.read_songs` raises."""
        return list(self._dataset)

    @cached_property
    def _dataset(self) -> list[Song]:
        return read_songs(
            *(self.songs, self.dataset_json),
            bare_text=self.spec.preprocess.bare_text,
            own=self.own_places,
            alternates=self.spec.alternates,
        )

    @cached_property
    def own_places(self) -> tuple[str, ...]:
        """The places of the job's results and of its workspace, in which no song is looked for."""
        workspace = self.spec.runtime.workspace
        return (
            *(self.output_store.place, self.tensors.place),
            *((str(Path(workspace).expanduser().absolute()),) if workspace else ()),
        )

    def _own(self, name: str) -> str:
        return f"{self.shard.folder}/{name}" if self.shard else name

    def _open(self, place: str) -> Store:
        return open_store(place, self.spec.storage)
