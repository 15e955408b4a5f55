"""A job in a few lines, before it starts: what was answered, and what else is not as usual."""

import textwrap
from collections.abc import Mapping
from functools import reduce

from sidestep.config.fields import spec_fields
from sidestep.config.job import JobSpec
from sidestep.runtime.words import as_typed
from sidestep.wizard.labels import label
from sidestep.wizard.questions import QUESTIONS

TITLES = {
    "pipeline": "From songs to an adapter",
    "preprocess": "Songs to tensors",
    "estimate": "Ranking of modules",
    "train": "Training",
}


def review(task: str, spec: JobSpec, origins: Mapping[str, str], width: int) -> str:
    """The task's settings by their labels: those that are asked for, and those that somebody has set.

    What comes from a preset, a variable or a file says so. `width` in columns.
    """
    names = [name for name in QUESTIONS[task] if name in origins]
    names += [
        name for name, origin in origins.items() if origin != "default" and name not in (*names, "task")
    ]
    rows = []
    for name in names:
        value = as_typed(reduce(getattr, name.split("."), spec))
        if not value:
            continue
        field = spec_fields()[tuple(name.split("."))]
        value = {"true": "yes", "false": "no"}.get(value, value) if "boolean" in field.types else value
        origin = origins[name]
        rows.append((label(name), value + ("" if origin in ("default", "answer") else f"  ({origin})")))
    column = max(len(name) for name, _ in rows) + 2
    lines = [
        textwrap.fill(
            value,
            width,
            initial_indent=f"    {name:{column}}",
            subsequent_indent=" " * (4 + column),
            break_on_hyphens=False,
        )
        for name, value in rows
    ]
    return "\n".join([f"  {TITLES[task]}", "", *lines])
