"""How fast is a training step?    make bench

A decoder of a quarter of the released width and a sixth of its depth; one step is forward and backward at
batch 1. Banded attention against diffusers' own dense masks, by length of song.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from diffusers import AceStepTransformer1DModel
from rich.console import Console
from rich.table import Table

from sidestep.acestep.attention import WindowedAttnProcessor

FRAMES_PER_SECOND = 25
REPEATS = 3


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    Console().print(training_step(device))


def training_step(device: torch.device) -> Table:
    table = Table("song", "banded", "dense", title=f"One training step, median of {REPEATS}, on {device}")
    for seconds in (30, 60, 120):
        row = []
        for banded in (True, False):
            model = decoder(banded).to(device)
            row.append(f"{1000 * median(partial(step, model, seconds, device)):.0f} ms")
        table.add_row(f"{seconds} s", *row)
    return table


def decoder(banded: bool, seed: int = 0) -> AceStepTransformer1DModel:
    torch.manual_seed(seed)
    model = AceStepTransformer1DModel(
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=128,
        sliding_window=128,
        encoder_hidden_size=512,
    )
    if banded:
        model.set_attn_processor(WindowedAttnProcessor())
    return model


def step(model: AceStepTransformer1DModel, seconds: int, device: torch.device) -> None:
    frames = seconds * FRAMES_PER_SECOND
    output = model(
        hidden_states=torch.randn(1, frames, 64, device=device),
        context_latents=torch.randn(1, frames, 128, device=device),
        encoder_hidden_states=torch.randn(1, 300, 512, device=device),
        timestep=torch.full((1,), 0.5, device=device),
        timestep_r=torch.full((1,), 0.5, device=device),
        return_dict=False,
    )[0]
    output.square().mean().backward()
    model.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()


def median(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
