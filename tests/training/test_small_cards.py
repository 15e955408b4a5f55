"""Block swap and activation offload change no bit of what is trained; a quantized base changes little."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep.acestep import swap
from sidestep.acestep.quantized import QuantizedLinear
from sidestep.adapters import publish
from sidestep.training import offload
from sidestep.training.loop import Trainer
from sidestep.training.machine import Machine
from tests.songs import MakeSpec
from tests.training.trainers import trainer_of

STEPS = 3
LORA, LOKR = {"type": "lora"}, {"type": "lokr", "factor": 4}
DORA = {**LORA, "weight_decompose": True}


def trained(trainer: Trainer) -> list[Tensor]:
    """Gradients and weights after each of some steps, of two micro-batches each."""
    found = []
    for step in range(STEPS):
        assert trainer.step(step)
        for parameter in trainer.adapter.parameters().values():
            assert parameter.grad is not None
            found += [parameter.grad.clone(), parameter.detach().clone()]
    return found


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given up is NaN from then on, instead of gone: whatever used it would show."""

    def give_up(held: Any) -> None:
        for storage in held.storages:
            torch.empty(0, dtype=torch.uint8).set_(storage).fill_(0xFF)
        held.is_here = False

    monkeypatch.setattr(swap.Held, "give_up", give_up)


@pytest.mark.parametrize(
    ("adapter", "recomputed"),
    [(LORA, 0), (LORA, 0.5), (LORA, 1), (LOKR, 1), pytest.param(LOKR, 0, marks=pytest.mark.slow)],
    ids=str,
)
@pytest.mark.usefixtures("poisoned")
def test_block_swap_changes_no_bit(make_spec: MakeSpec, adapter: dict[str, Any], recomputed: float) -> None:
    settings = {"gradient_checkpointing_ratio": recomputed, "adapter": adapter}
    plain = trained(trainer_of(make_spec(**settings)))
    swapped = trained(trainer_of(make_spec(**settings, block_swap=3)))
    assert all(torch.equal(found, wanted) for found, wanted in zip(swapped, plain, strict=True))


@pytest.mark.parametrize("quantize", ["8bit", "nf4"])
@pytest.mark.usefixtures("poisoned")
def test_quantized_layers_are_swapped(make_spec: MakeSpec, quantize: str) -> None:
    plain = trained(trainer_of(make_spec(quantize=quantize)))
    swapped = trained(trainer_of(make_spec(quantize=quantize, block_swap=4)))
    assert all(torch.equal(found, wanted) for found, wanted in zip(swapped, plain, strict=True))


@pytest.mark.parametrize("recomputed", [0, 1])
def test_activation_offload_changes_no_bit(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, recomputed: float
) -> None:
    settings = {"gradient_checkpointing_ratio": recomputed}
    plain = trained(trainer_of(make_spec(**settings)))
    monkeypatch.setattr(offload, "LEAST", 1)
    trainer = trainer_of(make_spec(**settings, offload_activations=True))
    left = []
    leave = offload.Offload.leave

    def counted(self: Any, tensor: Tensor) -> Any:
        left.append(tensor.stride())
        return leave(self, tensor)

    monkeypatch.setattr(offload.Offload, "leave", counted)
    found = trained(trainer)
    assert len(left) > 20 and all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


def test_what_waits_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large tensors as they were, in copies of their own with their strides; weights never."""
    monkeypatch.setattr(offload, "LEAST", 64)
    model = torch.nn.Linear(8, 8)
    away = offload.Offload(model)
    large = torch.randn(8, 4).t()
    kept = away._pack(large)
    assert isinstance(kept, offload.Away) and kept.content.data_ptr() != large.data_ptr()
    wanted = large.clone()
    large.fill_(torch.nan)
    back = away._unpack(kept)
    assert torch.equal(back, wanted) and back.stride() == large.stride()
    stay = (model.weight, model.weight.t(), torch.zeros(15), torch.zeros(1, 1).expand(8, 8))
    assert not any(isinstance(away._pack(tensor), offload.Away) for tensor in stay)


@pytest.mark.parametrize(
    ("adapter", "quantize", "apart"),
    [
        (LORA, "8bit", 0.05),
        (DORA, "nf4", 0.6),
        (LOKR, "nf4", 0.6),
        *(pytest.param(*row, marks=pytest.mark.slow) for row in ((LORA, "nf4", 0.6), (LOKR, "8bit", 0.05))),
    ],
    ids=str,
)
def test_a_quantized_base_is_trained_on(
    make_spec: MakeSpec, adapter: dict[str, Any], quantize: str, apart: float
) -> None:
    """Its gradients are near those of the plain one, and every tensor of the adapter is trained."""
    plain, rough = (trainer_of(make_spec(adapter=adapter, quantize=q)) for q in ("none", quantize))
    begun = {name: tensor.detach().clone() for name, tensor in rough.adapter.parameters().items()}
    first = [trainer.step(0) for trainer in (plain, rough)]
    assert first[0] and first[1] and first[1].loss == pytest.approx(first[0].loss, rel=apart)
    wanted, found = (
        torch.cat([p.grad.flatten() for p in t.adapter.parameters().values() if p.grad is not None])
        for t in (plain, rough)
    )
    assert 0 < float((found - wanted).norm() / wanted.norm()) < apart
    rough.step(1)
    for name, tensor in rough.adapter.parameters().items():
        assert tensor.dtype == torch.float32 and not torch.equal(tensor, begun[name]), name


@pytest.mark.parametrize(
    ("adapter", "precision", "quantize"),
    [
        (LORA, "fp32", "8bit"),
        (DORA, "fp32", "8bit"),
        (LOKR, "fp32", "nf4"),
        (LORA, "bf16", "nf4"),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in ((DORA, "fp32", "nf4"), (LORA, "bf16", "8bit"))
        ),
    ],
    ids=str,
)
def test_it_is_trained_as_on_the_rounded_weights(
    make_spec: MakeSpec, adapter: dict[str, Any], precision: str, quantize: str
) -> None:
    """Bit for bit, as a plain decoder whose weights are those that the quantized layers compute with."""
    machine = Machine(torch.device("cpu"), precision)
    plain, rough = (trainer_of(make_spec(adapter=adapter, quantize=q), machine) for q in ("none", quantize))
    layers = {n: m for n, m in rough.adapter.transformer.named_modules() if isinstance(m, QuantizedLinear)}
    assert len(layers) == 4 * 11
    for name, layer in layers.items():
        linear = plain.adapter.transformer.get_submodule(name)
        linear.get_parameter("weight").data.copy_(layer.weight)
    with torch.no_grad():
        for name, parameter in rough.adapter.parameters().items():  # of a DoRA, lengths of the base
            plain.adapter.parameters()[name].copy_(parameter)
    pairs = zip(trained(rough), trained(plain), strict=True)
    assert all(torch.equal(found, wanted) for found, wanted in pairs)


def test_published_adapters_have_the_same_form(make_spec: MakeSpec) -> None:
    """Of a DoRA, which is made of the base's weights, wherever they are at the moment."""
    plain, rough = (
        publish(trainer_of(make_spec(adapter=DORA, **changes)).adapter)
        for changes in ({}, {"quantize": "8bit", "block_swap": 4})
    )
    sizes = [{name: len(data) for name, data in files.items()} for files in (plain, rough)]
    assert sizes[0] == sizes[1]
    swapped = publish(trainer_of(make_spec(adapter=DORA, block_swap=4)).adapter)
    assert swapped == plain
