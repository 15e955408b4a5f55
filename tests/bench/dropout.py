"""What does the adapter's dropout cost, by law 1 (torch's own) and by law 2?    make bench

Steps of a LoRA of rank 64 on the decoder of `run.py`, in turn, so that a busy machine slows all alike.
"""

import statistics
import time

import torch
from diffusers import AceStepTransformer1DModel
from rich.console import Console
from rich.table import Table

from sidestep import adapters
from sidestep.config.adapter import AdapterSpec
from sidestep.training.dropout import Masks
from tests.bench.run import decoder, step

REPEATS = 7
Side = tuple[AceStepTransformer1DModel, Masks]


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sides = {"none": _side(device, 2, 0.0), "law 1": _side(device, 1), "law 2": _side(device, 2)}
    table = Table("song", *sides, title=f"A step of a LoRA, median of {REPEATS} and to none, on {device}")
    for seconds in (10, 60, 240):
        times = _times(sides, seconds, device)
        ratios = {
            name: statistics.median(one / bare for one, bare in zip(row, times["none"], strict=True))
            for name, row in times.items()
        }
        medians = {name: 1000 * statistics.median(row) for name, row in times.items()}
        cells = [f"{medians[name]:.0f} ms ({ratios[name]:.2f})" for name in times]
        table.add_row(f"{seconds} s", *cells)
    Console().print(table)


def _side(device: torch.device, law: int, rate: float = 0.1) -> Side:
    model = decoder(banded=True).to(device)
    masks = Masks(adapters.inject(model, AdapterSpec(dropout=rate), seed=1), seed=1)
    masks.law = law
    return model.train(), masks


def _times(sides: dict[str, Side], seconds: int, device: torch.device) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(REPEATS + 1):
        for name, (model, masks) in sides.items():
            masks.begin([number], device)
            started = time.perf_counter()
            step(model, seconds, device)
            times[name].append(time.perf_counter() - started)
    return {name: row[1:] for name, row in times.items()}


if __name__ == "__main__":
    main()
