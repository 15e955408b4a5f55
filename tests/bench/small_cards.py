"""What small cards cost: loss and gradients on a rounded base, and the seconds of a step.

    python -m tests.bench.small_cards

A decoder of a quarter of the released width, 4 layers, random weights, and a LoRA of rank 64 that has been
trained a little; 30 s of sound, fp32. Each way of saving is held against the plain step of the same weights,
over seeds; steps are made in turn, so that a busy machine slows all alike. bitsandbytes' own layers are what
PEFT's users have; its 8-bit ones round the activations, too.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import bitsandbytes
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sidestep import adapters
from sidestep.acestep.attention import WindowedAttnProcessor
from sidestep.acestep.quantized import Quantizing
from sidestep.acestep.recompute import recompute_layers
from sidestep.acestep.swap import swap_layers
from sidestep.acestep.vae import LATENTS_PER_SECOND
from sidestep.acestep.weights import load_exactly
from sidestep.config.adapter import AdapterSpec
from sidestep.config.memory import Quantization
from sidestep.training.flow import Batch, flow_loss
from sidestep.training.offload import Offload
from tests.bench.rivals import decoder

SECONDS, TOKENS, SEEDS = 30, 260, 5
CPU = torch.device("cpu")
THEIRS: Any = bitsandbytes.nn  # which has no types


@dataclass
class Side:
    """A decoder with its adapter, and where its activations wait."""

    model: nn.Module
    kept: AbstractContextManager[object] = field(default_factory=nullcontext)

    def step(self, batch: Batch) -> tuple[float, Tensor, float]:
        """Loss, all gradients in a row, and seconds."""
        started = time.perf_counter()
        with self.kept:
            loss = flow_loss(self.model, batch)
        loss.backward()
        taken = time.perf_counter() - started
        found = (parameter.grad for parameter in self.model.parameters())
        gradients = torch.cat([gradient.flatten() for gradient in found if gradient is not None])
        self.model.zero_grad()
        return float(loss.detach()), gradients, taken


def main() -> None:
    sides: dict[str, Callable[[int], Side]] = {
        "plain": with_adapter,
        "8bit": lambda seed: with_adapter(seed, quantize("8bit")),
        "bitsandbytes, 8-bit": lambda seed: with_adapter(seed, theirs(_in_8_bits)),
        "nf4": lambda seed: with_adapter(seed, quantize("nf4")),
        "bitsandbytes, NF4": lambda seed: with_adapter(seed, theirs(_in_4_bits)),
        "block_swap: 4": swapped,
        "offload_activations": offloaded,
    }
    table = Table("", "loss", "gradients", "their direction", "seconds / plain (range)", "weights")
    table.title = f"Against the plain step, {SEEDS} seeds: relative difference of the loss, of the gradients "
    table.title += "(norm), their cosine; medians, and the largest"
    found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in sides}
    sizes = {}
    for seed in range(SEEDS):
        batch = song(seed)
        made = {name: make(seed) for name, make in sides.items()}
        for side in made.values():
            side.step(batch)
        steps = {name: side.step(batch) for name, side in made.items()}
        loss, gradients, seconds = steps["plain"]
        for name, (own, rough, taken) in steps.items():
            apart = float((rough - gradients).norm() / gradients.norm())
            cosine = float(torch.cosine_similarity(rough.double(), gradients.double(), dim=0))
            found[name].append((abs(own - loss) / loss, apart, 1 - cosine, taken / seconds))
            sizes[name] = sum(held.nbytes for held in made[name].model.state_dict().values())
    for name, rows in found.items():
        losses, aparts, cosines, times = zip(*rows, strict=True)
        table.add_row(
            name,
            *(f"{statistics.median(row):.1e}, {max(row):.1e}" for row in (losses, aparts, cosines)),
            f"{statistics.median(times):.2f} ({min(times):.2f}–{max(times):.2f})",
            f"{sizes[name] / 1e6:.0f} MB",
        )
    Console(width=130).print(table)


def song(seed: int) -> Batch:
    torch.manual_seed(100 + seed)
    frames = SECONDS * LATENTS_PER_SECOND
    latents, context, noise = (torch.randn(1, frames, width) for width in (64, 128, 64))
    return Batch(latents, context, torch.randn(1, TOKENS, 512), torch.rand(1), noise)


def with_adapter(seed: int, change: Callable[[nn.Module], object] = lambda model: None) -> Side:
    torch.manual_seed(seed)
    model = decoder(torch.device("cpu"), layers=4, seed=seed)
    model.set_attn_processor(WindowedAttnProcessor())
    change(model)
    adapter = adapters.inject(model, AdapterSpec(rank=64, alpha=128, dropout=0), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapter.parameters().items():
            if ".lora_B." in name:
                parameter.copy_(0.01 * torch.randn(parameter.shape, generator=generator))
    recompute_layers(model, 1.0)
    return Side(model.train())


def quantize(kind: Quantization) -> Callable[[nn.Module], object]:
    def change(model: nn.Module) -> None:
        rounding = Quantizing(kind, torch.float32)
        load_exactly(model, model.state_dict().items(), "cpu", torch.float32, "it", rounding)

    return change


def theirs(layer_of: Callable[[nn.Linear], nn.Module]) -> Callable[[nn.Module], object]:
    def change(model: nn.Module) -> None:
        for name, module in Quantizing("8bit", torch.float32).of(model).items():
            above, _, last = name.rpartition(".")
            setattr(model.get_submodule(above), last, layer_of(module))

    return change


def _in_8_bits(plain: nn.Linear) -> nn.Module:
    made = THEIRS.Linear8bitLt(
        plain.in_features, plain.out_features, bias=False, has_fp16_weights=False, threshold=6.0
    )
    made.load_state_dict(plain.state_dict())
    quantized: nn.Module = made.to("cpu").requires_grad_(False)  # which rounds
    return quantized


def _in_4_bits(plain: nn.Linear) -> nn.Module:
    made = THEIRS.Linear4bit(
        *(plain.in_features, plain.out_features), bias=False, compress_statistics=False, quant_type="nf4"
    )
    made.load_state_dict(plain.state_dict())
    quantized: nn.Module = made.to("cpu").requires_grad_(False)  # which rounds
    return quantized


def swapped(seed: int) -> Side:
    side = with_adapter(seed)
    swap_layers(side.model, 4, CPU)
    return side


def offloaded(seed: int) -> Side:
    side = with_adapter(seed)
    return Side(side.model, Offload(side.model))


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="bitsandbytes")
    main()
