"""Compiled blocks: the plain ones' loss and gradients, or the plain ones."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep.training import compiled, rng
from sidestep.training.compiled import compile_checked, difference
from sidestep.training.loop import Trainer
from tests.facts import tells
from tests.songs import MakeSpec
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


@pytest.mark.slow
def test_compiled_steps_are_the_plain_ones(make_spec: MakeSpec) -> None:
    """With dropout, recomputation, several micro-batches a step and songs of several lengths, but for
    the last bits: the backend traces as inductor's does, and computes what it has traced as torch does."""
    plain, other = small(make_spec, "plain"), small(make_spec, "compiled")
    before = {name: each.detach().clone() for name, each in other.adapter.parameters().items()}
    assert compile_checked(other, 2, "fp32", "aot_eager") is None
    assert all(torch.equal(each, before[name]) for name, each in other.adapter.parameters().items())
    assert has_compiled(other)
    results = [[trainer.step(step) for step in range(3)] for trainer in (plain, other)]
    for one, same in zip(*results, strict=True):
        assert one is not None and same is not None and one.group == same.group
        assert [*same.losses, same.grad_norm] == pytest.approx([*one.losses, one.grad_norm], rel=1e-5)


@pytest.mark.slow
def test_what_cannot_be_compiled_is_trained_plainly(make_spec: MakeSpec) -> None:
    def broken(graph: Any, inputs: list[Tensor]) -> Any:
        raise RuntimeError("no compiler here")

    trainer = small(make_spec)
    why = compile_checked(trainer, 2, "fp32", broken)
    assert why is not None and tells(why, "cannot be compiled", "no compiler here")
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


def test_a_mask_as_one_operation_is_the_law_s() -> None:
    keys = torch.tensor([rng.key(1, "a"), rng.key(1, "b")])
    found = torch.ops.sidestep.dropped(keys, 1001, 6554)
    assert torch.equal(found, rng.is_dropped(keys, 1001, 6554))
