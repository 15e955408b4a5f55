"""A comparison of runs for people: a table in the terminal, and a page as report.html is one."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sidestep.report.charts import Chart, Line, chart
from sidestep.report.comparison import Judgement, Run, differing_settings, judge_runs
from sidestep.report.html import template
from sidestep.runtime.words import as_typed, duration
from sidestep.training.history import running_mean

COLOURS, DASHES = 6, 4  # of lines, in compare.html: no two of twelve runs look the same
UNKNOWN = "–"
LONGEST = 60  # characters of a setting's value


def _loss_at(run: Run, step: int | None) -> str:
    return UNKNOWN if step is None or step not in run.held_out else f"{run.held_out[step]:.4f} (step {step})"


def _on_fixed_draws(run: Run) -> str:
    found = run.progress.evaluations
    if not found:
        return UNKNOWN
    first, last = found[min(found)], found[max(found)]
    return f"{first:.4f}" if len(found) == 1 else f"{first:.4f} → {last:.4f}"


COLUMNS: Mapping[str, Callable[[Run], str]] = {
    "run": lambda run: run.label,
    "held-out loss of its adapter": lambda run: _loss_at(run, run.measured),
    "best": lambda run: _loss_at(run, run.verdict.best),
    "last": lambda run: _loss_at(run, max(run.held_out, default=None)),
    "base model": lambda run: f"{run.held_out[0]:.4f}" if 0 in run.held_out else UNKNOWN,
    "its own songs": _on_fixed_draws,
    "songs held out": lambda run: str(len(run.songs)) if run.held_out else "none",
    "steps": lambda run: f"{run.progress.step:,}",
    "state": lambda run: run.state,
    "time": lambda run: UNKNOWN if run.seconds is None else duration(run.seconds),
    "cost": lambda run: UNKNOWN if run.cost is None else f"{run.cost:.2f}",
}
"""What is said of each run. `its own songs` is the loss on fixed draws of trained songs, at start and end."""


def settings_in_words(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings that differ, each with its value in each run."""
    return {name: [_value(value) for value in values] for name, values in differing_settings(runs).items()}


def _value(value: Any) -> str:
    text = as_typed(value) or UNKNOWN
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def as_text(runs: Sequence[Run], judgement: Judgement) -> str:
    """The table for a terminal: a row for each measure, a column for each run."""
    rows = [[name, *(say(run) for run in runs)] for name, say in COLUMNS.items()]
    settings = [[name, *values] for name, values in settings_in_words(runs).items()]
    lines = [judgement.headline, *(f"  {remark}" for remark in judgement.remarks), ""]
    lines += _aligned([*rows, *([["settings that differ"]] if settings else []), *settings])
    return "\n".join(lines) + "\n"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    whole = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    ]


def as_data(runs: Sequence[Run], judgement: Judgement) -> dict[str, Any]:
    """The same for programs. What is not finite is null."""
    return {
        "best": judgement.best.place if judgement.best else None,
        "is_sure": judgement.is_sure,
        "remarks": judgement.remarks,
        "settings": differing_settings(runs),
        "runs": [
            {
                "place": run.place,
                "state": run.state,
                "steps": run.progress.step,
                "adapter_step": run.adapter_step,
                "best_step": run.verdict.best,
                "held_out": {str(step): _number(loss) for step, loss in run.held_out.items()},
                "seconds": run.seconds,
                "cost": run.cost,
            }
            for run in runs
        ],
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def comparison_page(runs: Sequence[Run], left_out: Sequence[str] = ()) -> str:
    """The HTML, with nothing outside of it. `left_out` says which outputs are not shown, and why."""
    return template("compare").render(
        judgement=judge_runs(runs),
        runs=runs,
        columns={name: [say(run) for run in runs] for name, say in COLUMNS.items() if name != "run"},
        settings=settings_in_words(runs),
        charts=_charts(runs),
        left_out=left_out,
        styles=[_style(number) for number in range(len(runs))],
    )


def _charts(runs: Sequence[Run]) -> list[Chart]:
    held_out = [
        Line(_style(number), run.label, {step: _number(loss) for step, loss in run.held_out.items()})
        for number, run in enumerate(runs)
        if run.held_out
    ]
    marks = [
        Line(f"{_style(number)} mark", "", {run.measured: run.loss})
        for number, run in enumerate(runs)
        if run.measured is not None
    ]
    trained = [
        Line(_style(number), run.label, [_number(loss) for loss in running_mean(run.progress.losses)])
        for number, run in enumerate(runs)
        if run.progress.losses
    ]
    made = [
        chart("Loss on held-out songs: lower is better", [*held_out, *marks]),
        chart("Loss in training, running mean", trained),
    ]
    return [one for one in made if one]


def _style(number: int) -> str:
    """The CSS classes of a run's lines: a colour and a dash, as not everybody tells colours apart."""
    return f"colour-{number % COLOURS} dash-{number % DASHES}"
