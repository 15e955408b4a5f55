"""Compiled blocks: the plain ones' loss and gradients, or the plain ones."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep.training import compiled, rng
from sidestep.training.compiled import compile_checked, difference
from sidestep.training.loop import Trainer
from sidestep.training.machine import Machine
from tests.facts import tells
from tests.songs import MakeSpec
from tests.training.test_fp16 import half
from tests.training.trainers import trainer_of


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def small(make_spec: MakeSpec, name: str = "out") -> Trainer:
    settings = {"gradient_checkpointing": True, "accumulation": 3, "batch_size": 2, "epochs": 3}
    return trainer_of(make_spec(name, **settings, adapter={"dropout": 0.5}))


def has_compiled(trainer: Trainer) -> bool:
    """Whether a block's forward pass is another than its class's."""
    return any("forward" in vars(module) for module in trainer.adapter.transformer.modules())


@pytest.mark.parametrize(
    "machine", [Machine(torch.device("cpu"), "bf16"), half(2.0**16)], ids=["bf16", "fp16"]
)
def test_the_check_changes_nothing_in_half_precision(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> None:
    """Where Fabric wants the backward pass to be its own; in fp16 with the scale that it begins with."""
    monkeypatch.setattr(compiled, "compile_blocks", lambda transformer, backend: None)
    trainer = trainer_of(make_spec(accumulation=1), machine)
    before = {name: each.detach().clone() for name, each in trainer.adapter.parameters().items()}
    assert compile_checked(trainer, 2, machine.precision) is None
    for name, each in trainer.adapter.parameters().items():
        assert torch.equal(each, before[name]) and each.grad is None
    assert trainer.step(0) == trainer_of(make_spec("other", accumulation=1), machine).step(0)


@pytest.mark.slow
def test_what_cannot_be_compiled_is_trained_plainly(make_spec: MakeSpec) -> None:
    def broken(graph: Any, inputs: list[Tensor]) -> Any:
        raise RuntimeError("no compiler here")

    trainer = small(make_spec)
    why = compile_checked(trainer, 2, "fp32", broken)
    assert why is not None and tells(why, "cannot be compiled", "no compiler here")
    assert not has_compiled(trainer)


def test_without_a_compiler_a_run_trains_plainly(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where torch cannot even load it, after some of the blocks or before."""

    def wanting(transformer: Any, backend: str) -> None:
        transformer.layers[0].forward = transformer.layers[0].forward
        raise RuntimeError("no inductor here")

    monkeypatch.setattr(compiled, "compile_blocks", wanting)
    trainer = small(make_spec)
    why = compile_checked(trainer, 2, "fp32")
    assert why is not None and tells(why, "cannot be compiled", "no inductor here")
    assert not has_compiled(trainer)


def test_a_wrong_gradient_is_found_and_the_loss_does_not_show_it(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one tensor, that a new LoRA would not even have a gradient for: its B is zero."""

    def wrongly(transformer: Any, backend: str) -> None:
        for layer in transformer.layers:
            layer.forward = layer.forward
            layer.self_attn.to_q.lora_A["default"].weight.register_hook(lambda gradient: gradient * 1.2)

    trainer = small(make_spec)
    monkeypatch.setattr(compiled, "compile_blocks", wrongly)
    why = compile_checked(trainer, 2, "fp32")
    assert why is not None and "lora_A" in why and "20.0%" in why
    assert not has_compiled(trainer)


def test_law_one_is_not_compiled(make_spec: MakeSpec) -> None:
    why = compile_checked(small(make_spec), 1, "fp32")
    assert why is not None and "law 1" in why


def test_what_is_not_finite_differs_and_what_is_zero_on_both_sides_does_not() -> None:
    zeros, nan = torch.zeros(2), torch.tensor([0.0, float("nan")])
    assert difference({"x": zeros}, {"x": zeros.clone()}, 1e-3) is None
    assert difference({"x": zeros}, {"x": torch.ones(2)}, 1e-3)
    assert difference({"x": torch.ones(2)}, {"x": nan}, 1e-3)
    assert difference({"x": torch.ones(2)}, {}, 1e-3)  # a gradient that only the plain path has


def test_a_mask_as_one_operation_is_the_law_s() -> None:
    keys = torch.tensor([rng.key(1, "a"), rng.key(1, "b")])
    found = torch.ops.sidestep.dropped(keys, 1001, 6554)
    assert torch.equal(found, rng.is_dropped(keys, 1001, 6554))
