"""How long does a checkpoint hold the training up?    make bench

A state of 500 MB goes to this disk, and to a store that takes 100 MB a second. Beside it: `torch.save` of the
same state to this disk, as a training does that saves between two steps. The same steps are timed without a
checkpoint, and with one as the training makes it; the difference is what it holds them up.
"""

import tempfile
import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from sidestep import adapters
from sidestep.commitlog.lease import Lease
from sidestep.commitlog.writer import take_over
from sidestep.config.adapter import AdapterSpec
from sidestep.config.job import JobSpec
from sidestep.config.training import TrainSpec
from sidestep.lifecycle.best import Best
from sidestep.lifecycle.events import EventsToSend
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.policy import CheckpointPolicy
from sidestep.lifecycle.reporter import Reporter
from sidestep.lifecycle.saver import Saver
from sidestep.storage.local import LocalStore
from sidestep.storage.store import ProgressCallback, Store, no_progress
from sidestep.training.numbers import Progress
from sidestep.training.optimizer import build_optimizer
from sidestep.training.schedule import Schedule
from sidestep.training.snapshot import Snapshot
from tests.bench.rivals import decoder
from tests.bench.rows import Row, table_of

BYTES_PER_SECOND = 100e6
STEPS, STEP_SECONDS, ROUNDS = 60, 0.1, 3
RANK = 970  # with AdamW's two moments and the published copy, about 500 MB


class SlowStore(LocalStore):
    """A folder that takes as long as a network would."""

    def upload(self, source: Path, path: str, progress: ProgressCallback = no_progress) -> None:
        time.sleep(source.stat().st_size / BYTES_PER_SECOND)
        super().upload(source, path, progress)


class SlowJob(Job):
    @cached_property
    def output_store(self) -> Store:
        return SlowStore(Path(self.spec.output_place), self.spec.storage)


def rows(rounds: int = ROUNDS) -> list[Row]:
    """How long a checkpoint holds the steps up, and how long `torch.save` of the same state does."""
    found = []
    for where, kind in (("this disk", Job), ("a store of 100 MB/s", SlowJob)):
        ours, theirs = [], []
        with tempfile.TemporaryDirectory() as folder:
            saver, snapshot, size = _saver(Path(folder), kind)
            for number in range(1, rounds + 1):
                begin = time.monotonic()
                torch.save(_state(snapshot), Path(folder, "plain.pt"))
                theirs.append(time.monotonic() - begin)
                name, progress = f"checkpoint-step-{number}0", Progress(10 * number)
                plain = _steps(lambda: None)  # just before: other work on the machine changes
                ours.append(max(_steps(partial(saver.save, name, progress)) - plain, 1e-3))
                saver.finish()
        found.append(Row.of(f"{size / 1e6:.0f} MB to {where}", ours, theirs))
    return found


def main() -> None:
    Console().print(table_of("A checkpoint holds up the steps", "torch.save, waited for", rows()))


def _state(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "adapter": snapshot._live.parameters(),
        "optimizer": list(snapshot._live_optimizer.state.values()),
    }


def _steps(save: Callable[[], object]) -> float:
    """The time of all steps, with a save among them. A step is as the CPU sees a GPU's: it waits."""
    started = time.monotonic()
    for step in range(STEPS):
        time.sleep(STEP_SECONDS)
        if step == 10:
            save()
    return time.monotonic() - started


def _saver(folder: Path, kind: type[Job]) -> tuple[Saver, Snapshot, int]:
    """A saver of a state that has been through a step, and the size of a checkpoint."""
    train = TrainSpec(adapter=AdapterSpec(rank=RANK, dropout=0))
    adapter = adapters.inject(decoder(torch.device("cpu"), layers=4), train.adapter, seed=1)
    optimizer = build_optimizer(adapter, train)
    for parameter in adapter.parameters().values():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    snapshot = Snapshot(adapter, optimizer, train, fingerprint={}, machine={})
    snapshot.take(Progress(1))
    size = sum(memoryview(part).nbytes for parts in snapshot.files().values() for part in parts)
    places: dict[str, Any] = {"output_dir": folder / "output", "runtime": {"workspace": folder / "workspace"}}
    job = kind(JobSpec.load(None, task="train", **places))
    saver = Saver(
        job,
        Reporter(job),
        take_over(job.commits, Lease(60), None, {}),
        snapshot,
        CheckpointPolicy(train.checkpoint, Schedule.of(train, samples=1)),
        EventsToSend(job.output, newest=0, now=0),
        Best(train),
    )
    return saver, snapshot, size


if __name__ == "__main__":
    main()
