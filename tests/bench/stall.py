"""How long does a checkpoint hold the training up?    make bench

A state of 500 MB goes to a store that takes 100 MB a second. The same steps are timed three times in one
process: without a checkpoint, with one as the training makes it, and with one that is waited for.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from sidestep import adapters
from sidestep.commitlog.lease import Lease
from sidestep.commitlog.log import CommitLog
from sidestep.commitlog.writer import take_over
from sidestep.config.schema import StorageSpec
from sidestep.config.training import AdapterSpec, TrainSpec
from sidestep.lifecycle.pending import PendingCheckpoints
from sidestep.lifecycle.saver import Saver
from sidestep.runtime.preemption import Preemption
from sidestep.runtime.workspace import Workspace
from sidestep.storage.local import LocalStore
from sidestep.storage.store import ProgressCallback, no_advance
from sidestep.training.numbers import Progress
from sidestep.training.optimizer import build_optimizer
from sidestep.training.snapshot import Snapshot
from tests.bench.run import decoder

BYTES_PER_SECOND = 100e6
STEPS, STEP_SECONDS = 150, 0.1
RANK = 970  # with AdamW's two moments and the published copy, about 500 MB


class SlowStore(LocalStore):
    """A folder that takes as long as a network would."""

    def upload(self, source: Path, path: str, advance: ProgressCallback = no_advance) -> None:
        time.sleep(source.stat().st_size / BYTES_PER_SECOND)
        super().upload(source, path, advance)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        saver, size = _saver(Path(folder))
        plain = _steps(lambda: None)
        preemption = Preemption()
        background = _steps(lambda: saver.save("checkpoint-step-10", Progress(10), preemption)) - plain
        saver.finish(preemption)

        def save_and_wait() -> None:
            saver.save("checkpoint-step-20", Progress(20), preemption)
            saver.finish(preemption)

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
    train = TrainSpec(adapter=AdapterSpec(rank=RANK, dropout=0))
    adapter = adapters.inject(decoder(banded=True), train.adapter, seed=1)
    optimizer = build_optimizer(adapter, train)
    for parameter in adapter.parameters().values():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    snapshot = Snapshot(adapter, optimizer, lambda copy: build_optimizer(copy, train))
    snapshot.take(Progress(1))
    size = sum(memoryview(part).nbytes for parts in snapshot.files({}, {}).values() for part in parts)
    store = SlowStore(folder / "output", StorageSpec())
    outbox = PendingCheckpoints(Workspace(folder / "workspace"), store.place)
    saver = Saver(
        take_over(CommitLog(store), Lease(60), None, {}),
        outbox,
        snapshot,
        files=lambda: snapshot.files({}, {}),
        send_before=lambda: None,
        keep=list,
        committed=lambda record: None,
        failed=print,
    )
    return saver, size


if __name__ == "__main__":
    main()
