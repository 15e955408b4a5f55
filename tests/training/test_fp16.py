"""fp16 with its gradient scaler, which is state. No GPU is at hand: torch computes fp16 on a CPU as well."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision

from sidestep.config.job import JobSpec
from sidestep.runtime.workspace import open_workspace
from sidestep.tasks import setup
from sidestep.tasks.setup import prepare_setup
from sidestep.tasks.train import build_trainer
from sidestep.training.checkpoint import checkpoint_files, restore
from sidestep.training.loop import Trainer
from sidestep.training.machine import Machine
from sidestep.training.metrics import Metrics
from sidestep.training.numbers import Progress
from tests.songs import MakeSpec

TOO_HIGH = 2.0**40  # a scale with which every gradient overflows


@dataclass(frozen=True)
class HalfPrecisionCpu(Machine):
    """What Fabric makes of "16-mixed" on a GPU."""

    scale: float = 2.0**10

    def fabric(self) -> Fabric:
        scaler = torch.amp.GradScaler("cpu", init_scale=self.scale, growth_interval=3)
        return Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler))


def trainer_of(spec: JobSpec, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> Trainer:
    monkeypatch.setattr(setup, "choose_machine", lambda *_: machine)
    return build_trainer(spec, prepare_setup(spec, open_workspace(spec.runtime.workspace)))


def half(scale: float = 2.0**10) -> Machine:
    return HalfPrecisionCpu(torch.device("cpu"), "fp16", scale=scale)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.adapter.parameters().items()}


def run(trainer: Trainer, progress: Progress) -> None:
    with Metrics(Path("runs"), 1) as metrics:
        trainer.run(progress, metrics, 1, 50, after_step=lambda *_: None)


def test_loss_and_gradient_are_those_of_fp32(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = trainer_of(make_spec(), monkeypatch, Machine(torch.device("cpu"), "fp32"))
    rough = trainer_of(make_spec(), monkeypatch, half())
    assert {p.dtype for n, p in rough.model.named_parameters() if "lora" not in n} == {torch.float16}
    assert {p.dtype for p in rough.adapter.parameters().values()} == {torch.float32}
    group = exact.schedule.group(0)
    assert rough.step(group, lr=1e-3)[:2] == pytest.approx(exact.step(group, lr=1e-3)[:2], rel=2e-2)


def test_a_scale_that_is_too_high_is_halved_until_it_fits(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(make_spec(), monkeypatch, half(TOO_HIGH))
    before = weights(trainer)
    trainer.step(trainer.schedule.group(0), lr=1e-2)
    assert all(torch.equal(p, before[name]) for name, p in trainer.adapter.parameters().items())
    assert trainer.fabric.strategy.precision.state_dict()["scale"] == TOO_HIGH / 2


def test_a_resumed_run_has_the_scale_of_the_uninterrupted_one(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = make_spec(epochs=4)
    whole = trainer_of(spec, monkeypatch, half())
    run(whole, Progress())

    first = trainer_of(spec, monkeypatch, half())
    progress = Progress()

    class Stopped(Exception):
        pass

    def stop(progress: Progress, _: object) -> None:
        if progress.step == 5:  # the scale has grown, and is on its way to grow again
            for name, data in checkpoint_files(first.adapter, first.optimizer, progress, {}, {}).items():
                (tmp_path / name).write_bytes(b"".join(data))
            raise Stopped

    with Metrics(Path("runs"), 1) as metrics, pytest.raises(Stopped):
        first.run(progress, metrics, 1, 50, after_step=stop)

    second = trainer_of(spec, monkeypatch, half())
    restored = restore(tmp_path, second.adapter, second.optimizer)
    assert restored.loss_scale["scale"] == 2.0**11
    run(second, restored)
    scales = [trainer.fabric.strategy.precision.state_dict() for trainer in (whole, second)]
    assert scales[0] == scales[1]
    assert all(torch.equal(p, weights(whole)[name]) for name, p in second.adapter.parameters().items())
