"""Kernels that a GPU alone gains by: where they are chosen, and that a CPU computes the same by them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sidestep.acestep.norms import FusedRMSNorm
from sidestep.config.schema import RuntimeSpec
from sidestep.training.checkpoint import checkpoint_files, restore
from sidestep.training.loop import Trainer
from sidestep.training.machine import Machine, choose_machine
from sidestep.training.numbers import Progress
from tests.songs import MakeSpec
from tests.training.trainers import trainer_of

CPU = Machine(torch.device("cpu"), "fp32", threads=1, deterministic=False)
FUSED = replace(CPU, kernels="fused")


def test_a_gpu_fuses_and_a_run_keeps_what_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(device: str, before: dict[str, object] | None = None) -> str:
        return choose_machine(RuntimeSpec(device=device, deterministic=False), before).kernels

    assert chosen("cpu") == "plain"
    for name, answer in {"is_available": True, "device_count": 1, "get_device_capability": (8, 0)}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "pretended")
    assert chosen("cuda") == "fused"
    assert chosen("cuda", {"precision": "bf16", "kernels": "fused"}) == "fused"
    assert chosen("cuda", {"precision": "bf16"}) == "plain"  # begun by an older version, or on a CPU
    assert chosen("cpu", {"precision": "fp32", "kernels": "fused"}) == "plain"


def test_fused_kernels_are_another_kind_of_machine_and_plain_ones_the_one_of_old() -> None:
    assert FUSED.kind()["kernels"] == "fused" and "kernels" not in CPU.kind()
    assert replace(CPU, compile="blocks").kind()["compile"] == "blocks" and "compile" not in CPU.kind()


def test_in_fp16_gradients_are_clipped_after_they_are_unscaled() -> None:
    """Lightning clips none of an optimizer that unscales by itself, as a fused one does."""
    assert FUSED.fuses_optimizer and replace(FUSED, precision="bf16").fuses_optimizer
    assert not replace(FUSED, precision="fp16").fuses_optimizer and not CPU.fuses_optimizer


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in trainer.adapter.parameters().values()])


@pytest.mark.slow
def test_fused_steps_are_the_plain_ones_and_resume_to_the_bit(make_spec: MakeSpec, tmp_path: Path) -> None:
    settings = {"optimizer_type": "adamw", "epochs": 4, "accumulation": 1}
    plain, fused, resumed = (
        trainer_of(make_spec(f"out-{number}", **settings), machine)
        for number, machine in enumerate((CPU, FUSED, FUSED))
    )
    assert fused.optimizer.defaults["fused"] and not plain.optimizer.defaults["fused"]
    assert any(isinstance(module, FusedRMSNorm) for module in fused.adapter.transformer.modules())
    before = weights(plain)
    for trainer in (plain, fused):
        for step in range(2):
            trainer.step(step)
    error = torch.linalg.vector_norm(weights(fused) - weights(plain))
    assert float(error / torch.linalg.vector_norm(weights(plain) - before)) < 1e-3
    for name, parts in checkpoint_files(fused.adapter, fused.optimizer, Progress(step=2), {}, {}).items():
        (tmp_path / name).write_bytes(b"".join(parts))
    restore(tmp_path, resumed.adapter, resumed.optimizer)
    for trainer in (fused, resumed):
        for step in range(2, 4):
            trainer.step(step)
    assert torch.equal(weights(fused), weights(resumed))
