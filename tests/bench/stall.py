"""How long does a checkpoint hold the training up?    make bench

A state of 500 MB goes to a store that takes 100 MB a second. The same steps are timed three times in one
process: without a checkpoint, with one as the training makes it, and with one that is waited for.
"""

import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

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
from tests.bench.run import decoder

BYTES_PER_SECOND = 100e6
STEPS, STEP_SECONDS = 150, 0.1
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


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        saver, size = _saver(Path(folder))
        plain = _steps(lambda: None)
        background = _steps(lambda: saver.save("checkpoint-step-10", Progress(10))) - plain
        saver.finish()

        def save_and_wait() -> None:
            saver.save("checkpoint-step-20", Progress(20))
            saver.finish()

        waited_for = _steps(save_and_wait) - plain
    table = Table("checkpoint", "holds up", title=f"A checkpoint of {size / 1e6:.0f} MB at 100 MB/s")
    table.add_row("in the background", f"{background:.3f} s")
    table.add_row("waited for", f"{waited_for:.3f} s")
    table.add_row("ratio", f"{background / waited_for:.1%}")
    Console().print(table)


def _steps(save: Callable[[], object]) -> float:
    """The time of all steps, with a save among them. A step is as the CPU sees a GPU's: it waits."""
    started = time.monotonic()
    for step in range(STEPS):
        time.sleep(STEP_SECONDS)
        if step == 10:
            save()
    return time.monotonic() - started


def _saver(folder: Path) -> tuple[Saver, int]:
    """A saver of a state that has been through a step, and the size of a checkpoint."""
    train = TrainSpec(adapter=AdapterSpec(rank=RANK, dropout=0))
    adapter = adapters.inject(decoder(banded=True), train.adapter, seed=1)
    optimizer = build_optimizer(adapter, train)
    for parameter in adapter.parameters().values():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    snapshot = Snapshot(adapter, optimizer, train, fingerprint={}, machine={})
    snapshot.take(Progress(1))
    size = sum(memoryview(part).nbytes for parts in snapshot.files().values() for part in parts)
    places: dict[str, Any] = {"output_dir": folder / "output", "runtime": {"workspace": folder / "workspace"}}
    job = SlowJob(JobSpec.load(None, task="train", **places))
    saver = Saver(
        job,
        Reporter(job),
        take_over(job.commits, Lease(60), None, {}),
        snapshot,
        CheckpointPolicy(train.checkpoint, Schedule.of(train, samples=1)),
        EventsToSend(job.output, newest=0, now=0),
        Best(train),
    )
    return saver, size


if __name__ == "__main__":
    main()
