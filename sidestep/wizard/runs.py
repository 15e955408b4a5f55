"""The runs that there have been: those that the wizard remembers, and those below a folder or bucket."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from sidestep.config.schema import StorageSpec
from sidestep.lifecycle.status import FILE, Status
from sidestep.runtime.errors import SideStepError
from sidestep.runtime.words import counted, duration
from sidestep.storage.open import open_store
from sidestep.wizard.ask import Back, ask, say
from sidestep.wizard.settings import Settings

Runs = Mapping[str, Status | str]
"""Runs by their outputs: how each stands, or why that cannot be read."""

ELSEWHERE = "elsewhere"
STATES = {"done": "finished", "preempted": "interrupted", "failed": "failed", "running": "running"}
TASKS = {"train": "training", "preprocess": "preprocessing"}


def known_runs(settings: Settings, storage: StorageSpec) -> Runs:
    """Those that the wizard remembers, and others in the folder for results."""
    remembered = {short(place): _read(place, storage) for place in settings.runs}
    try:
        return remembered | dict(runs_below(settings.output_dir, storage))
    except SideStepError as error:
        say(str(error))
        return remembered


def runs_below(place: str, storage: StorageSpec) -> Runs:
    """The runs whose outputs are `place` or lie below it. Raises what its store raises."""
    store = open_store(place, storage)
    paths = [file.path for file in store.list_files() if file.path.rpartition("/")[2] == FILE]
    outputs = [f"{store.place}/{path}".removesuffix(f"/{FILE}") for path in paths]
    return {short(output): _read(output, storage) for output in outputs}


def pick_run(
    known: Runs, storage: StorageSpec, default: str, is_offered: Callable[[Status | str], bool]
) -> tuple[str, Status | str]:
    """Ask which run, of the known ones or of those below a place that is asked for: the newest first.

    Returns its output, and how it stands. Raises Back.
    """
    runs = known
    while True:
        offered = {place: run for place, run in sorted(runs.items(), key=_age) if is_offered(run)}
        words = {place: standing(run) for place, run in offered.items()}
        which = ask(
            "\nRun:",
            next(iter(words), ELSEWHERE),
            choices=words | {ELSEWHERE: "look in another folder or bucket"},
        )
        if which != ELSEWHERE:
            return which, offered[which]
        try:
            place = ask("Where to look:", default, hint="a run's output, or a folder or bucket above it")
            say(f"Looking in {place} …")
            runs = runs_below(place, storage)
            if not any(map(is_offered, runs.values())):
                say("Nothing to choose from there.")
        except Back:
            continue
        except SideStepError as error:
            say(str(error))


def standing(run: Status | str) -> str:
    """How it stands, in a few words: its state, step, age and name."""
    if isinstance(run, str):
        return run
    parts = [TASKS.get(run.task, run.task), "no sign of life" if run.is_stale() else STATES[run.state]]
    if run.step is not None:
        is_done = run.state == "done"
        parts.append(counted(run.step, "steps") if is_done else f"step {run.step} of {run.steps}")
    return f"{run.name}: {', '.join(parts)}, {duration(max(run.silence(), 0))} ago"


def short(place: str) -> str:
    """A folder below the working one, as seen from there."""
    here = Path.cwd()
    inside = Path(place).is_relative_to(here) and Path(place) != here
    return str(Path(place).relative_to(here)) if inside else place


def _age(found: tuple[str, Status | str]) -> float:
    """For sorting: what cannot be read comes last."""
    return math.inf if isinstance(found[1], str) else found[1].silence()


def _read(output: str, storage: StorageSpec) -> Status | str:
    try:
        return Status.read(open_store(output, storage).read_small(FILE), f"{output}/{FILE}")
    except SideStepError as error:
        return str(error).partition("\n")[0].partition(". ")[0]
