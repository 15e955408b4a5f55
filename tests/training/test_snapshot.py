"""A snapshot is the live state at one step, whatever happens to that afterwards."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep.config.job import JobSpec
from sidestep.runtime.canonical import Parts
from sidestep.training.checkpoint import checkpoint_files, restore
from sidestep.training.loop import Trainer
from sidestep.training.numbers import Progress
from sidestep.training.snapshot import Snapshot
from tests.songs import MakeSpec
from tests.training.trainers import trainer_of

LOKR = {"type": "lokr", "rank": 2, "factor": 8, "use_scalar": True, "weight_decompose": True}
CELLS = [
    ("adamw", {"dropout": 0.1}),
    ("prodigy", {"weight_decompose": True, "rank_pattern": {"v_proj": 2}}),
    ("adamw8bit", {"rank": 65}),
    ("adafactor", {"rank_pattern": {"v_proj": 2}}),
    ("prodigy", LOKR),
    ("adamw", {"type": "lokr", "rank": 2}),
]


def snapshot_of(trainer: Trainer, spec: JobSpec) -> Snapshot:
    return Snapshot(trainer.adapter, trainer.optimizer, spec.train, {"lr": 1}, {"threads": 1})


def joined(files: dict[str, Parts]) -> dict[str, bytes]:
    return {name: b"".join(parts) for name, parts in files.items()}


@pytest.mark.parametrize(("optimizer", "adapter"), CELLS)
def test_its_files_are_those_of_the_live_state(
    make_spec: MakeSpec, optimizer: str, adapter: dict[str, Any]
) -> None:
    spec = make_spec(optimizer_type=optimizer, adapter=adapter, epochs=3)
    trainer = trainer_of(spec)
    snapshot = snapshot_of(trainer, spec)
    progress = Progress(2, losses=[2.0, 1.0])
    for number in range(2):
        trainer.step(number)
    live = joined(checkpoint_files(trainer.adapter, trainer.optimizer, progress, {"lr": 1}, {"threads": 1}))
    snapshot.take(progress)
    trainer.step(2)
    progress.losses.append(0.5)
    assert joined(snapshot.files()) == live
    later = joined(checkpoint_files(trainer.adapter, trainer.optimizer, progress, {}, {}))
    assert later["training_state.safetensors"] != live["training_state.safetensors"]


def test_it_changes_no_number(make_spec: MakeSpec) -> None:
    spec = make_spec(epochs=3)
    plain, watched = trainer_of(spec), trainer_of(spec)
    snapshot = snapshot_of(watched, spec)
    for number in range(3):
        plain.step(number)
        snapshot.take(Progress(number))
        snapshot.files()
        watched.step(number)
    states = [joined(checkpoint_files(t.adapter, t.optimizer, Progress(3), {}, {})) for t in (plain, watched)]
    assert states[0] == states[1]


def test_before_the_first_step_there_is_no_optimizer_state(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    trainer = trainer_of(spec)
    snapshot = snapshot_of(trainer, spec)
    snapshot.take(Progress())
    for name, data in snapshot.files().items():
        (tmp_path / name).write_bytes(b"".join(data))
    fresh = trainer_of(spec)
    restore(tmp_path, fresh.adapter, fresh.optimizer)
    assert not fresh.optimizer.state


def test_everything_is_allocated_before_the_first_step(
    make_spec: MakeSpec, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="sidestep")
    for optimizer, adapter in CELLS:
        spec = make_spec(optimizer_type=optimizer, adapter=adapter)
        trainer = trainer_of(spec)
        snapshot = snapshot_of(trainer, spec)
        addresses = {id(buffer): buffer.data_ptr() for buffer in snapshot._buffers.values()}
        trainer.step(0)
        snapshot.take(Progress(1))
        assert {id(buffer): buffer.data_ptr() for buffer in snapshot._buffers.values()} == addresses
    assert "No memory was set aside" not in caplog.text


def test_the_frozen_model_is_not_copied(make_spec: MakeSpec) -> None:
    spec = make_spec(adapter={"type": "lokr", "rank": 2})
    trainer = trainer_of(spec)
    own = {p.data_ptr() for p in trainer.adapter.parameters().values()}
    snapshot = snapshot_of(trainer, spec)
    copies = {p.data_ptr() for p in snapshot._copy.parameters().values()}
    assert not own & copies
    frozen = {p.data_ptr() for p in trainer.adapter.transformer.parameters()} - own
    held = {t.data_ptr() for layer in snapshot._copy.layers.values() for t in layer.state_dict().values()}
    assert not (held & own)
    assert all(isinstance(p, torch.nn.Parameter) for p in snapshot._copy.parameters().values())
    assert frozen
