"""A training step of ours beside the plain one of diffusers and PEFT, and what it is made of.    make bench

The same weights and songs, fp32: a decoder of a quarter of the released width and a third of its depth, a
LoRA of rank 64 with dropout 0.1, AdamW. Steps are made in turn, so that a busy machine slows both alike, and
the ratio is the median of the pairs'. The plain step's conditions are padded to 769 tokens, as other trainers
store them; ours has as many as prompt and lyrics come to. Less than five minutes on two idle cores.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel
from peft import LoraConfig, inject_adapter_in_model
from rich.console import Console
from torch import Tensor, nn

from sidestep import adapters
from sidestep.acestep.attention import WindowedAttnProcessor
from sidestep.acestep.norms import fuse_norms
from sidestep.acestep.recompute import recompute_layers
from sidestep.acestep.vae import LATENTS_PER_SECOND
from sidestep.config.adapter import AdapterSpec
from sidestep.config.schema import RuntimeSpec
from sidestep.planning.meter import Meter
from sidestep.training.dropout import Masks
from sidestep.training.flow import Batch, flow_loss
from sidestep.training.machine import choose_machine
from tests.bench.rows import Row, table_of

PADDED, SHORT = 769, 260  # condition tokens: as others store them; of a prompt with a verse
REPEATS = {10: 7, 60: 5, 240: 2}  # by seconds of a song
WIDTH, LAYERS, HEADS, HEAD_WIDTH, WINDOW = 512, 8, 4, 128, 128
RATE = 0.1


class Calls(Meter):
    """Also counts the calls that compute something or move it: on a GPU, about one kernel each."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__([*model.parameters(), *model.buffers()], threading.Event())
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += not (func.is_view or func is torch.ops.aten.detach.default)
        return super().__torch_dispatch__(func, types, args, kwargs)


@dataclass(frozen=True)
class Side:
    """A model to be trained, and what its step does before the forward pass."""

    model: nn.Module
    begin: Callable[[int], object]
    deterministic: bool
    loss: Callable[[Any, Batch], Tensor] = flow_loss

    def __post_init__(self) -> None:
        self.model.train()

    @property
    def trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


def main() -> None:
    device = choose_machine(RuntimeSpec(deterministic=False)).device
    title = f"A training step on {device}, {torch.get_num_threads()} threads"
    Console(width=130).print(table_of(title, "diffusers + PEFT", rows(device)))


def rows(device: torch.device) -> Iterator[Row]:
    """What a step takes; and, where nothing is recomputed and ours trims, what it is made of."""
    for seconds, repeats in REPEATS.items():
        for tokens, recompute in ((SHORT, False), (PADDED, False), (SHORT, True)):
            name = f"{seconds} s, {PADDED} / {tokens} tokens{', recompute' if recompute else ''}"
            sides = {"diffusers + PEFT": plain(device, recompute), "ours": ours(device, recompute)}
            batches = dict(zip(sides, songs(seconds, tokens, device), strict=True))
            check_same(sides, batches)
            theirs, own = in_turn(sides, batches, repeats).values()
            row = Row.of(name, own, theirs)
            yield row
            if tokens == SHORT and not recompute:
                yield from contents(f"{seconds} s: ", sides, batches, (row.ours, row.rival), seconds)


def contents(
    name: str,
    sides: dict[str, Side],
    batches: dict[str, Batch],
    medians: tuple[float, float],
    seconds: int,
) -> Iterator[Row]:
    """Of a forward and a backward pass: calls (ours with a layer's masks together, as on a GPU), FLOPs over
    the least, share of matmul's rate, bytes that the one keeps for the other, and bytes at the most."""
    device = batches["ours"].latents.device
    least = least_flops(seconds, batches["ours"].conditions.shape[1], device)
    rate = matmul_rate(seconds, device)
    found = []
    for side, taken in zip(("ours", "diffusers + PEFT"), medians, strict=True):
        meter, kept = measured(sides[side], batches[side])
        calls = meter.calls
        if side == "ours":
            calls = measured(ours(device, False, by_layer=True), batches[side])[0].calls
        flops = meter.flops.total()
        found.append(
            (calls, flops / least, flops / taken / rate, kept / 1e6, max(meter.peaks.values()) / 1e6)
        )
    units = ("calls", "× FLOPs of the least", "of matmul's rate", "MB kept for backward", "MB at the peak")
    for unit, own, theirs in zip(units, *found, strict=True):
        yield Row(f"{name}{unit}", own, theirs, theirs / own, "")


def plain(device: torch.device, recompute: bool) -> Side:
    """As diffusers and PEFT have it."""
    model = decoder(device)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    config = LoraConfig(r=64, lora_alpha=128, lora_dropout=RATE, target_modules=targets)
    inject_adapter_in_model(config, model)
    if recompute:
        model.enable_gradient_checkpointing()
    return Side(model, torch.manual_seed, deterministic=False)


def ours(device: torch.device, recompute: bool, by_layer: bool | None = None) -> Side:
    """As a run computes it; for `by_layer`, see `Masks`."""
    model = decoder(device)
    model.set_attn_processor(WindowedAttnProcessor())
    adapter = adapters.inject(model, AdapterSpec(rank=64, alpha=128, dropout=RATE), seed=1)
    masks = Masks(adapter, seed=1, by_layer=by_layer)
    if device.type == "cuda":
        fuse_norms(model)
    if recompute:
        recompute_layers(model, 1.0)
    return Side(model, lambda number: masks.begin([number], device), deterministic=True)


def decoder(device: torch.device, layers: int = LAYERS, seed: int = 0) -> AceStepTransformer1DModel:
    torch.manual_seed(seed)
    model = AceStepTransformer1DModel(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        head_dim=HEAD_WIDTH,
        sliding_window=WINDOW,
        encoder_hidden_size=WIDTH,
    )
    return model.requires_grad_(False).to(device)


def songs(seconds: int, tokens: int, device: torch.device) -> tuple[Batch, Batch]:
    """The same one, with its conditions padded and without."""
    torch.manual_seed(seconds)
    frames = seconds * LATENTS_PER_SECOND
    latents, context, noise = (torch.randn(1, frames, width) for width in (64, 128, 64))
    conditions = torch.randn(1, tokens, WIDTH)
    own = Batch(latents, context, conditions, torch.full((1,), 0.5), noise).to(device)
    return replace(own, conditions=nn.functional.pad(own.conditions, (0, 0, 0, PADDED - tokens))), own


def check_same(sides: dict[str, Side], batches: dict[str, Batch]) -> None:
    """Without dropout and on the same conditions, the first loss is the same."""
    with torch.no_grad():
        first, second = (float(side.loss(side.model.eval(), batches["ours"])) for side in sides.values())
    assert abs(first - second) < 1e-5 * first, (first, second)
    for side in sides.values():
        side.model.train()


def in_turn(sides: dict[str, Side], batches: dict[str, Batch], repeats: int) -> dict[str, list[float]]:
    """The seconds of each side's steps, but for the first."""
    fuses = torch.cuda.is_available()
    optimizers = {
        name: torch.optim.AdamW(side.trained, lr=1e-4, fused=fuses and side.deterministic)
        for name, side in sides.items()
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats + 1):
        for name, side in sides.items():
            with determinism(side):
                started = time.perf_counter()
                side.begin(number)
                side.loss(side.model, batches[name]).backward()
                nn.utils.clip_grad_norm_(side.trained, 1.0)
                optimizers[name].step()
                optimizers[name].zero_grad()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                times[name].append(time.perf_counter() - started)
    return {name: row[1:] for name, row in times.items()}


def measured(side: Side, batch: Batch) -> tuple[Calls, int]:
    """Of a forward and a backward pass, not the first; and the bytes that the one keeps for the other."""
    side.begin(0)
    with torch.no_grad():
        side.loss(side.model, batch)
    side.begin(1)
    with determinism(side), Calls(side.model) as meter:
        loss = side.loss(side.model, batch)
        kept = meter.held.total()
        loss.backward()
    side.model.zero_grad()
    return meter, kept


def least_flops(seconds: int, tokens: int, device: torch.device) -> int:
    """Without recomputing, without padding, and where a layer slides within its window alone."""
    _, song = songs(seconds, tokens, device)
    flops = measured(ours(device, recompute=False), song)[0].flops.total()
    length = seconds * LATENTS_PER_SECOND // 2  # patches of two
    if length <= WINDOW + 1:
        return flops
    computed = -(-length // WINDOW) * WINDOW * 3 * WINDOW
    seen = sum(min(length, at + WINDOW + 1) - max(0, at - WINDOW) for at in range(length))
    return flops - LAYERS // 2 * (computed - seen) * HEADS * HEAD_WIDTH * (4 + 10)  # forward and backward


def matmul_rate(seconds: int, device: torch.device) -> float:
    """FLOPs a second of the MLP's multiplication, the largest of the step."""
    length = seconds * LATENTS_PER_SECOND // 2
    left, right = torch.randn(length, WIDTH, device=device), torch.randn(WIDTH, 3 * WIDTH, device=device)
    return 2 * length * WIDTH * 3 * WIDTH / min(_seconds(partial(torch.mm, left, right)) for _ in range(9))


def _seconds(work: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


@contextmanager
def determinism(side: Side) -> Iterator[None]:
    """Inside, torch repeats itself where the side asks for it: ours does by default."""
    torch.use_deterministic_algorithms(side.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # as `choose_machine` has it
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


if __name__ == "__main__":
    main()
