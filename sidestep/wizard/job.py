"""From answers to a job: its spec and its plan are shown before it starts, or it becomes a file."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from sidestep.config.job import resolve
from sidestep.config.presets import preset_fields, write_file
from sidestep.config.resolved import as_yaml
from sidestep.config.sources import Given
from sidestep.platforms.render import PLATFORMS
from sidestep.runtime.console import write
from sidestep.runtime.errors import ExitCode
from sidestep.wizard.ask import Back, ask, yes
from sidestep.wizard.flow import Step, walk, word
from sidestep.wizard.questions import steps_of
from sidestep.wizard.settings import load_settings, remember_run
from sidestep.wizard.state import WizardState

Run = Callable[[Sequence[str]], int]
"""Runs a command by its words, and returns its exit code."""


def set_up(task: str, state: WizardState, run: Run) -> None:
    """Ask about a job, show it whole, and do with it what is wanted."""
    walk([*steps_of(task, load_settings()), Step(lambda state: _review(task, state, run))], state)


def _review(task: str, state: WizardState, run: Run) -> None:
    """The last step of a job's flow: Back asks the questions again, answers kept."""
    words = [task, *state.flags()]
    if run([*words, "--dry-run"]) != ExitCode.DONE:
        raise Back  # what is wrong was said
    choices = {name: says for name, (says, _) in WISHES.items()}
    while True:
        write(f"\n  sidestep {shlex.join(words)}\n")
        wish = ask("\nThis is the job.", "start", choices=choices)
        try:
            WISHES[wish][1](task, state, run)
        except Back:
            continue
        if wish == "menu" or state.exit_code is not None:
            return


def _start(task: str, state: WizardState, run: Run) -> None:
    if _plan(task, state, run) == ExitCode.DONE and yes("Start it?"):
        if place := state.answers.get(("output_dir",)):
            remember_run(place if "://" in place else str(Path(place).resolve()))
        state.exit_code = run([task, *state.flags()])


def _plan(task: str, state: WizardState, run: Run) -> int:
    return run(["plan", "--task", task, *state.flags()])


def _save(task: str, state: WizardState, run: Run) -> None:
    file = Path(ask("The file to write.", "job.yaml"))
    if file.exists() and not yes(f"Replace {file}?"):
        return
    spec, origins = resolve(flags=[*state.given(), Given(("task",), task, "answer")], preset=state.preset)
    write_file(file, as_yaml(spec, origins), replace=True)
    write(f"Wrote {file}; run it with: sidestep run {file}\n")


def _render(task: str, state: WizardState, run: Run) -> None:
    place, file = "The place.", "The file to write."

    def ask_file(state: WizardState) -> None:
        state.words[file] = ask(file, f"my-lora{PLATFORMS[state.words[place]].suffix}")

    walk([word(place, load_settings().place, dict.fromkeys(PLATFORMS, "")), Step(ask_file)], state)
    run(["render", state.words[place], "--task", task, *state.flags(), "--output", state.words[file]])


def _keep_as_preset(task: str, state: WizardState, run: Run) -> None:
    name = ask("The preset's name.", "mine")
    kept = {path: text for path, text in state.answers.items() if path in preset_fields()}
    run(["presets", "save", name, *WizardState(kept, preset=state.preset).flags()])


def _leave(task: str, state: WizardState, run: Run) -> None:
    """The job is not wanted."""


# What can be done with a job: a word on it, and who does it.
WISHES: dict[str, tuple[str, Callable[[str, WizardState, Run], object]]] = {
    "start": ("its plan, then run it here", _start),
    "plan": ("check it; its memory, time and cost", _plan),
    "save": ("write it as a YAML file", _save),
    "render": ("write it for a place, with the command that submits it", _render),
    "preset": ("keep how it trains as a preset", _keep_as_preset),
    "menu": ("back to the menu", _leave),
}
