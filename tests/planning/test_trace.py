"""The traced step against real ones: what autograd keeps, what all layers need, and what is counted."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from sidestep import adapters
from sidestep.acestep import load_model
from sidestep.acestep.recompute import recompute_layers
from sidestep.acestep.releases import released_config
from sidestep.acestep.shapes import decoder_bytes
from sidestep.acestep.tiny import tiny_config
from sidestep.config.adapter import AdapterSpec
from sidestep.config.memory import Quantization
from sidestep.planning import trace
from sidestep.planning.meter import Meter
from sidestep.planning.trace import Trace, trace_step
from sidestep.training import offload
from sidestep.training.flow import Batch, flow_loss
from sidestep.training.machine import Machine

aten = torch.ops.aten
FRAMES, CONDITIONS = 100, 20
LORA = AdapterSpec(rank=8, alpha=16)
LOKR = AdapterSpec(type="lokr", rank=4, dropout=0.1)


ATTENTION = {  # torch's counter has none of a CPU's
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: (
        sdpa_backward_flop_count(g, q, k, v)
    ),
}


def traced(adapter: AdapterSpec = LORA, variant: str = "base", **changes: Any) -> Trace:
    settings: dict[str, Any] = {
        "recomputed": 1.0,
        "precision": "fp32",
        "frames": FRAMES,
        "conditions": CONDITIONS,
    }
    return trace_step(tiny_config(variant), adapter, **{**settings, **changes})


class RealStep:
    """A step on real tensors: bytes of the storages that autograd keeps beside the weights, and FLOPs."""

    def __init__(
        self, checkpoints: Path, adapter: AdapterSpec, variant: str, recomputed: float, precision: str
    ) -> None:
        machine = Machine(torch.device("cpu"), precision)
        model = load_model(checkpoints, variant, dtype=machine.dtype, parts=("transformer",))
        transformer = model.transformer
        adapters.inject(transformer, adapter, seed=0)
        recompute_layers(transformer, recomputed)
        fabric = machine.fabric()
        module = fabric.setup_module(transformer)
        module.train()
        width = transformer.condition_embedder.in_features
        batch = Batch(
            *(torch.randn(1, FRAMES, 64), torch.randn(1, FRAMES, 128), torch.randn(1, CONDITIONS, width)),
            *(torch.rand(1), torch.randn(1, FRAMES, 64)),
        )
        given = (
            *transformer.parameters(),
            *transformer.buffers(),
            *(part for part in vars(batch).values() if part is not None),
        )
        ignored = {tensor.untyped_storage()._cdata for tensor in given}
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept.setdefault(tensor.untyped_storage()._cdata, tensor)
            return tensor

        with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = flow_loss(module, batch)
            fabric.backward(loss)
        self.kept = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in ignored)
        self.flops = counter.get_total_flops()


@pytest.mark.parametrize(
    ("adapter", "variant", "recomputed", "precision"),
    [
        (LORA, "base", 0.0, "fp32"),
        (LORA, "base", 1.0, "fp32"),
        pytest.param(LORA, "base", 0.5, "bf16", marks=pytest.mark.slow),
        (LOKR, "base", 0.0, "bf16"),
        pytest.param(LORA, "xl-base", 0.5, "fp32", marks=pytest.mark.slow),
    ],
)
def test_activations_and_flops_are_those_of_a_real_step(
    tiny_checkpoints: Path, adapter: AdapterSpec, variant: str, recomputed: float, precision: str
) -> None:
    real = RealStep(tiny_checkpoints, adapter, variant, recomputed, precision)
    found = traced(adapter, variant, recomputed=recomputed, precision=precision)
    assert found.kept == pytest.approx(real.kept, rel=0.1)
    assert found.peak > found.kept
    assert found.flops == real.flops


@pytest.mark.slow
def test_a_few_layers_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten layers the same, to the byte and the FLOP, as when every layer is a kind of its own."""
    layers = {"num_hidden_layers": 10, "layer_types": 5 * ["sliding_attention", "full_attention"]}

    def of_ten() -> Trace:
        settings: dict[str, Any] = {"recomputed": 0.5, "precision": "fp32", "frames": 20, "conditions": 4}
        return trace_step(tiny_config("base") | layers, LORA, **settings)

    few = of_ten()
    kinds = trace._kinds

    def each_its_own(*args: Any) -> list[tuple[Any, ...]]:
        assert len(set(kinds(*args))) == 5  # the first one, and sliding and full ones, recomputed or not
        return [(index, *kind) for index, kind in enumerate(kinds(*args))]

    monkeypatch.setattr(trace, "_trace", trace._trace.__wrapped__)  # not from the cache
    monkeypatch.setattr(trace, "_kinds", each_its_own)
    assert of_ten() == few


def test_layers_that_differ_are_told_apart() -> None:
    """Targets in one layer alone: those before it have no gradient, and those after it no adapter."""
    only_third = LORA.model_copy(update={"target_modules": ("layers.2.self_attn.q_proj",)})
    third, all_layers = traced(only_third, recomputed=0.0), traced(recomputed=0.0)
    assert third.adapter_tensors == 2
    assert 0.2 * all_layers.kept < third.kept < 0.6 * all_layers.kept
    assert third.flops < all_layers.flops


def test_the_peak_is_what_is_alive_at_a_time() -> None:
    """A made step: three tensors of 400 bytes kept, one of 4000 for a moment."""
    weight = nn.Parameter(torch.ones(100))
    with Meter([weight], threading.Event()) as meter:
        kept = [weight * factor for factor in (1.0, 2.0, 3.0)]
        view = weight.view(10, 10)
        torch.ones(1000)
    assert view.shape == (10, 10)
    assert meter.held.total() == 400 * len(kept)
    assert max(meter.peaks.values()) == 400 * len(kept) + 4000


@pytest.mark.slow
def test_fp16_is_as_wide_as_bf16_and_half_of_fp32() -> None:
    half, single = traced(precision="fp16"), traced(precision="fp32")
    assert half.weights * 2 == single.weights
    assert half == traced(precision="bf16")
    assert half.kept < single.kept


@pytest.mark.parametrize(
    ("rank", "parameters"), [pytest.param(8, 5_505_024, marks=pytest.mark.slow), (64, 44_040_192)]
)
def test_the_parameters_of_the_2b_model(rank: int, parameters: int) -> None:
    """q, k, v and o of self- and cross-attention in 24 layers, two matrices each.

    q and o map 2048 to 2048, k and v map 2048 to 8 heads of 128.
    """
    found = trace_step(
        released_config("base"),
        AdapterSpec(rank=rank),
        recomputed=1.0,
        precision="bf16",
        frames=25,
        conditions=8,
    )
    assert (found.adapter_parameters, found.adapter_tensors) == (parameters, 384)
    assert parameters == 24 * 2 * (2 * (2048 + 2048) + 2 * (2048 + 1024)) * rank
    assert found.weights / 2 == pytest.approx(1.58e9, rel=0.005)


def test_control_c_ends_it_where_a_tensor_is_just_being_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python drops what is raised in there."""
    forget, calls = Meter._forget, []

    def interrupted(self: Any, key: int) -> None:
        calls.append(key)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        forget(self, key)

    monkeypatch.setattr(Meter, "_forget", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        traced(frames=FRAMES + 1)  # not one that is known already
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("quantize", ["8bit", "nf4"])
def test_quantized_weights_are_counted_as_they_are_held(quantize: Quantization) -> None:
    """And what is worked out of them for a moment counts among what a step takes."""
    plain, rough = traced(), traced(quantize=quantize)
    saved = decoder_bytes(tiny_config("base"), 4)
    assert plain.weights - rough.weights == saved["none"] - saved[quantize]
    assert (rough.kept, rough.flops) == (plain.kept, plain.flops) and rough.peak > plain.peak


@pytest.mark.slow
def test_offloaded_activations_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "LEAST", 4096)
    for recomputed in (0.0, 1.0):
        plain, away = traced(recomputed=recomputed), traced(recomputed=recomputed, offload=True)
        assert away.kept < 0.5 * plain.kept and away.peak < plain.peak and away.weights == plain.weights
