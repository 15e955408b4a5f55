"""Compiled blocks: the plain ones' loss and gradients, or the plain ones."""

import logging
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import TorchDynamoException
from torch._functorch._aot_autograd.utils import make_boxed_func

from sidestep.training import compiled, rng
from sidestep.training.compiled import compile_checked, difference
from sidestep.training.loop import Trainer
from sidestep.training.machine import Machine
from sidestep.training.numbers import Progress
from tests.facts import tells
from tests.songs import MakeSpec, song, write_songs
from tests.training.test_fp16 import half
from tests.training.trainers import run, trainer_of

pytestmark = pytest.mark.usefixtures("fresh")


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


KILLED = """CppCompileError: C++ compile error

Command:
g++ -O3 x.cpp

Output:
x.cpp:1: note: something
fatal error: error writing to /tmp/x.s: No space left on device

Set TORCHDYNAMO_VERBOSE=1 for the internal stack trace"""


@pytest.fixture
def ends_at_another_length(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[Trainer, Trainer]:
    """A trainer, and one whose compiler fails at whatever length the check has not seen."""

    def compile_one_length(transformer: Any, backend: str) -> None:
        seen: set[torch.Size] = set()

        def forward(layer: Any, hidden_states: Tensor, *others: Any, **named: Any) -> Tensor:
            if hidden_states.shape not in seen and seen:
                raise TorchDynamoException(KILLED)
            seen.add(hidden_states.shape)
            found: Tensor = type(layer).forward(layer, hidden_states, *others, **named)
            return found

        for layer in transformer.layers:
            layer.forward = partial(forward, layer)

    songs = write_songs(tmp_path / "lengths", [song(0, 24), song(1, 40)])
    monkeypatch.setattr(compiled, "compile_blocks", compile_one_length)
    plain, other = (trainer_of(make_spec(name, dataset_dir=songs, epochs=2)) for name in ("a", "b"))
    assert compile_checked(other, 2, "fp32") is None and other.compiles
    return plain, other


def test_what_fails_to_compile_later_is_computed_plainly(
    ends_at_another_length: tuple[Trainer, Trainer], caplog: pytest.LogCaptureFixture
) -> None:
    """A disk has become full, or a compiler's process was killed: said once, and the numbers are the same."""
    plain, other = ends_at_another_length
    with caplog.at_level(logging.INFO):
        assert run(other, Progress()) == run(plain, Progress())
    assert tells(other.why_plain, "compile error", "No space left on device")
    assert "TORCHDYNAMO" not in caplog.text and "note: something" not in caplog.text
    said = [
        record.getMessage() for record in caplog.records if "could not be compiled" in record.getMessage()
    ]
    assert len(said) == 1 and tells(said[0], "runtime.compile", "computed without")
    assert "Compiling the blocks to evaluate with a batch of 1 × " in caplog.text


def test_what_fails_to_compile_as_notice_comes_gives_the_step_up(
    ends_at_another_length: tuple[Trainer, Trainer],
) -> None:
    """A signal to all processes of a group ends a compiler, too: the next attempt compiles it."""
    _, other = ends_at_another_length
    threading.Timer(0.2, other.preemption.request).start()  # a moment after the compiler has got it
    assert other.step(0) is None or other.step(1) is None
    assert not other.why_plain


@pytest.mark.slow
def test_a_backward_pass_that_cannot_be_compiled_fails_in_the_forward_pass() -> None:
    """Where the plain block can still take its place. By itself, torch compiles it as late as it can."""
    ends: list[bool] = []

    def compiler(graph: Any, inputs: list[Tensor]) -> Any:
        ends.append(True)
        if len(ends) > 1:
            raise RuntimeError("no backward pass")
        return make_boxed_func(graph.forward)

    layers = torch.nn.ModuleList([torch.nn.Linear(3, 3)])
    compiled.compile_blocks(SimpleNamespace(layers=layers), aot_autograd(fw_compiler=compiler))
    with pytest.raises(TorchDynamoException, match="no backward pass"):
        layers[0](torch.ones(2, 3))


def test_a_run_after_one_that_stopped_compiling_compiles() -> None:
    layers, calls = torch.nn.ModuleList([torch.nn.Linear(3, 3)]), []

    def backend(graph: Any, inputs: list[Tensor]) -> Any:
        calls.append(graph)
        return graph.forward

    torch.compiler.set_stance("eager_on_recompile")
    compiled.compile_blocks(SimpleNamespace(layers=layers), backend)
    layers[0](torch.ones(2, 3))
    assert calls


def test_law_one_is_not_compiled(make_spec: MakeSpec) -> None:
    why = compile_checked(small(make_spec), 1, "fp32")
    assert why is not None and "law 1" in why


def test_what_is_not_finite_differs_and_what_is_zero_on_both_sides_does_not() -> None:
    zeros, nan = torch.zeros(2), torch.tensor([0.0, float("nan")])
    assert difference({"x": zeros}, {"x": zeros.clone()}, 1e-3) is None
    assert difference({"x": zeros}, {"x": torch.ones(2)}, 1e-3)
    assert difference({"x": torch.ones(2)}, {"x": nan}, 1e-3)
    both = {"x": torch.ones(2), "y": torch.ones(2)}
    assert difference(both, both | {"y": nan}, 1e-3)  # behind one that is right
    assert difference({"x": torch.ones(2)}, {}, 1e-3)  # a gradient that only the plain path has


def test_a_mask_as_one_operation_is_the_law_s() -> None:
    keys = torch.tensor([rng.key(1, "a"), rng.key(1, "b")])
    found = torch.ops.sidestep.dropped(keys, 1001, 6554)
    assert torch.equal(found, rng.is_dropped(keys, 1001, 6554))
