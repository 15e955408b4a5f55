"""The traced step against real ones: what autograd keeps, what a step of all layers needs, what it counts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep import adapters
from sidestep.acestep import load_model
from sidestep.acestep.recompute import recompute_layers
from sidestep.acestep.tiny import tiny_config
from sidestep.planning.trace import Trace, trace_step
from sidestep.spec.training import AdapterSpec
from sidestep.training.flow import Batch, flow_loss
from sidestep.training.machine import Machine

FRAMES, CONDITIONS = 100, 20
LORA = AdapterSpec(rank=8, alpha=16)
LOKR = AdapterSpec(type="lokr", rank=4, dropout=0.1)


def traced(adapter: AdapterSpec = LORA, variant: str = "base", **changes: Any) -> Trace:
    settings = {"recomputed": 1.0, "precision": "fp32", "frames": FRAMES, "conditions": CONDITIONS}
    return trace_step(tiny_config(variant), adapter, **{**settings, **changes})


def really_kept(
    checkpoints: Path, adapter: AdapterSpec, variant: str, recomputed: float, precision: str
) -> int:
    """Bytes of the storages that autograd keeps after a real forward pass, beside the weights'."""
    machine = Machine(torch.device("cpu"), precision)
    model = load_model(checkpoints, variant, dtype=machine.dtype, parts=("transformer",))
    transformer = model.transformer
    adapters.inject(transformer, adapter, seed=0)
    recompute_layers(transformer, recomputed)
    module = machine.fabric().setup_module(transformer)
    module.train()
    width = transformer.condition_embedder.in_features
    batch = Batch(
        *(torch.randn(1, FRAMES, 64), torch.randn(1, FRAMES, 128), torch.randn(1, CONDITIONS, width)),
        *(torch.rand(1), torch.randn(1, FRAMES, 64)),
    )
    given = (*transformer.parameters(), *transformer.buffers(), *vars(batch).values())
    ignored = {tensor.untyped_storage()._cdata for tensor in given}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = flow_loss(module, batch)
    assert loss.requires_grad
    return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in ignored)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recomputed", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("adapter", "variant"), [(LORA, "base"), (LOKR, "base"), (LORA, "xl-base")])
def test_activations_are_those_of_a_real_step(
    tiny_checkpoints: Path, adapter: AdapterSpec, variant: str, recomputed: float, precision: str
) -> None:
    found = traced(adapter, variant, recomputed=recomputed, precision=precision).kept
    real = really_kept(tiny_checkpoints, adapter, variant, recomputed, precision)
    assert found == pytest.approx(real, rel=0.1), f"{found} traced, {real} kept {found / real}"
