"""All that is measured beside what people would use instead, in one run.    make bench

`--write` puts it into docs/performance.md, with its picture; on a GPU (`make bench-gpu`) only the step is
measured, as all else runs on the processor.
"""

import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console

from sidestep.config.schema import RuntimeSpec
from sidestep.runtime.canonical import png_bytes
from sidestep.training.machine import choose_machine
from tests.bench import first_step, preprocessing, rivals, stall, transfers, upstream
from tests.bench.rows import Row, table_of

PAGE = Path(__file__).parents[2] / "docs/performance.md"
PICTURE = PAGE.with_name("performance.png")
BEGIN, END = "<!-- made by python -m tests.bench.table --write -->", "<!-- until here -->"


@dataclass(frozen=True)
class Section:
    """What is measured, beside whom."""

    title: str
    rival: str
    rows: Callable[[], Iterable[Row]]


def main() -> None:
    console, device = Console(width=150), choose_machine(RuntimeSpec(deterministic=False)).device
    sections = [Section(f"A training step on {device.type}", "diffusers + PEFT", lambda: rivals.rows(device))]
    if upstream.is_there():
        sections.append(
            Section(f"The same on {device.type}", "upstream Side-Step", lambda: upstream.rows(device))
        )
    if device.type == "cpu":
        sections += [
            Section("The start of the process", first_step.FLOOR_NAME, lambda: first_step.rows(rounds=3)),
            Section("Preprocessing", "one song after the other", preprocessing.rows),
            Section("A checkpoint, as the steps notice it", "torch.save, waited for", lambda: stall.rows(2)),
            Section("Files of a bucket", "boto3 or rclone", lambda: transfers.rows(rounds=2)),
        ]
    started, found = time.monotonic(), {}
    for section in sections:
        found[section] = list(section.rows())
        console.print(table_of(section.title, section.rival, found[section]))
    console.print(f"{(time.monotonic() - started) / 60:.0f} minutes, on {machine()}")
    if "--write" in sys.argv[1:]:
        write(found)


def machine() -> str:
    """The processor, how many of it, and torch."""
    named = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    name = named[1] if named else platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores of {name}, torch {torch.__version__.split('+')[0]}, fp32"


def write(found: dict[Section, list[Row]]) -> None:
    """Put tables and picture in place of those of the run before."""
    lines = [BEGIN, "", f"On {machine()}:"]
    for section, rows in found.items():
        lines += [
            "",
            f"| {section.title} | ours | {section.rival} | theirs / ours (range) |",
            "|---|---|---|---|",
        ]
        lines += [f"| {' | '.join(row.cells)} |" for row in rows]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    lines += ["", f"![The same as bars]({PICTURE.name})", "", END]
    PAGE.write_text(before + "\n".join(lines) + rest.partition(END)[2])
    PICTURE.write_bytes(png_bytes(picture(found)))


def picture(found: dict[Section, list[Row]]) -> Figure:
    """A bar for each comparison of times: to the right of 1, ours is faster."""
    bars = [
        (row.name if section.rival == "boto3 or rclone" else f"{section.rival}: {row.name}", row.ratio)
        for section, rows in found.items()
        for row in rows
        if row.unit == "s"
    ]
    figure = Figure(figsize=(9, 0.22 * len(bars) + 0.8), layout="constrained")
    axes = figure.add_subplot()
    names, ratios = zip(*reversed(bars), strict=True)
    colors = ["#3b7dd8" if ratio >= 1 else "#c98a3b" for ratio in ratios]
    axes.barh(names, [ratio - 1 for ratio in ratios], left=1, color=colors)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda ratio, _: f"{ratio:g}")
    axes.set_xlabel("theirs / ours: above 1, Side-Step is faster")
    axes.tick_params(labelsize=7)
    axes.margins(y=0.01)
    return figure


if __name__ == "__main__":
    main()
