"""fp16 with its gradient scaler, which is state. No GPU is at hand: torch computes fp16 on a CPU as well."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from sidestep.training.checkpoint import checkpoint_files, restore
from sidestep.training.loop import Trainer
from sidestep.training.machine import Machine
from sidestep.training.numbers import Progress
from tests.songs import MakeSpec
from tests.training.trainers import run, trainer_of

TOO_HIGH = 2.0**40  # a scale with which every gradient overflows


@dataclass(frozen=True)
class HalfPrecisionCpu(Machine):
    """What Fabric makes of "16-mixed" on a GPU."""

    scale: float = 2.0**10

    def fabric(self) -> Fabric:
        scaler = torch.amp.GradScaler("cpu", init_scale=self.scale, growth_interval=3)
        return Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler))


def half(scale: float = 2.0**10) -> Machine:
    return HalfPrecisionCpu(torch.device("cpu"), "fp16", scale=scale)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.adapter.parameters().items()}


def test_loss_and_gradient_are_those_of_fp32(make_spec: MakeSpec) -> None:
    exact = trainer_of(make_spec(), Machine(torch.device("cpu"), "fp32"))
    rough = trainer_of(make_spec(), half())
    assert {p.dtype for n, p in rough.model.named_parameters() if "lora" not in n} == {torch.float16}
    assert {p.dtype for p in rough.adapter.parameters().values()} == {torch.float32}
    (loss, norm), wanted = (
        (result.loss, result.grad_norm) for result in (rough.step(0), exact.step(0)) if result
    )
    assert (loss, norm) == pytest.approx(wanted, rel=2e-2)


def test_a_scale_that_is_too_high_is_halved_until_it_fits(make_spec: MakeSpec) -> None:
    trainer = trainer_of(make_spec(), half(TOO_HIGH))
    before = weights(trainer)
    trainer.step(0)
    assert all(torch.equal(p, before[name]) for name, p in trainer.adapter.parameters().items())
    assert trainer.fabric.strategy.precision.state_dict()["scale"] == TOO_HIGH / 2


def test_a_resumed_run_has_the_scale_of_the_uninterrupted_one(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(epochs=4)
    whole = trainer_of(spec, half())
    run(whole, Progress())

    first = trainer_of(spec, half())
    progress = Progress()
    for result in first.steps(progress):
        if result.step == 5:  # the scale has grown, and is on its way to grow again
            break
    for name, data in checkpoint_files(first.adapter, first.optimizer, progress, {}, {}).items():
        (tmp_path / name).write_bytes(b"".join(data))

    second = trainer_of(spec, half())
    restored = restore(tmp_path, second.adapter, second.optimizer)
    assert restored.loss_scale["scale"] == 2.0**11
    run(second, restored)
    scales = [trainer.fabric.strategy.precision.state_dict() for trainer in (whole, second)]
    assert scales[0] == scales[1]
    assert all(torch.equal(p, weights(whole)[name]) for name, p in second.adapter.parameters().items())
