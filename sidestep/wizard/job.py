"""From answers to a job: it is shown in a few lines before it starts, or it becomes a file."""

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from sidestep.config.job import JobSpec, resolve
from sidestep.config.presets import preset_fields, write_file
from sidestep.config.resolved import as_yaml
from sidestep.config.sources import Given
from sidestep.platforms.render import PLATFORMS
from sidestep.runtime.console import write
from sidestep.runtime.errors import ExitCode, SideStepError
from sidestep.wizard.ask import Back, ask, yes
from sidestep.wizard.flow import Step, walk, word
from sidestep.wizard.places import completer, while_typing
from sidestep.wizard.questions import steps_of
from sidestep.wizard.review import review
from sidestep.wizard.settings import load_settings, remember_run
from sidestep.wizard.state import WizardState

Run = Callable[[Sequence[str]], int]
"""Runs a command by its words, and returns its exit code."""


class Change(Exception):
    """The questions are to be gone through again."""


def set_up(task: str, state: WizardState, run: Run, *, is_known: bool = False) -> None:
    """Ask about a job, show it, and do with it what is wanted. `is_known`: all is answered already."""
    steps = [*steps_of(task, load_settings()), Step(lambda state: _review(task, state, run))]
    start = len(steps) - 1 if is_known else 0
    while True:
        try:
            walk(steps, state, start)
        except Change:
            start = 0
        else:
            return


def _review(task: str, state: WizardState, run: Run) -> None:
    """The last step of a job's flow: Back asks the questions again, answers kept."""
    try:
        spec, origins = _resolved(task, state)
    except SideStepError as error:
        write(f"{error}\n")
        raise Back from None
    width = os.get_terminal_size().columns - 1
    write(f"\n{review(task, spec, origins, width)}\n")
    choices = {name: says for name, (says, _) in WISHES.items()}
    while True:
        wish = ask("\nNext:", "start", choices=choices)
        try:
            WISHES[wish][1](task, state, run)
        except Back:
            continue
        if wish == "menu" or state.exit_code in (ExitCode.DONE, ExitCode.AGAIN):
            return


def _resolved(task: str, state: WizardState) -> tuple[JobSpec, dict[str, str]]:
    return resolve(flags=[*state.given(), Given(("task",), task, "answer")], preset=state.preset)


def _words(task: str, state: WizardState) -> list[str]:
    """The command that runs the job."""
    return [*(["run", "--task", "pipeline"] if task == "pipeline" else [task]), *state.flags()]


def _start(task: str, state: WizardState, run: Run) -> None:
    words = _words(task, state)
    if place := state.answers.get(("output_dir",)):
        remember_run(place)
    write(f"\nsidestep {shlex.join(words)}\n")
    state.exit_code = run(words)


def _show_all(task: str, state: WizardState, run: Run) -> None:
    words = _words(task, state)
    run([*words, "--dry-run"])
    write(f"\nsidestep {shlex.join(words)}\n")


def _plan(task: str, state: WizardState, run: Run) -> None:
    run(["plan", "--task", task, *state.flags()])


def _save(task: str, state: WizardState, run: Run) -> None:
    file = Path(_ask_file("job.yaml")).expanduser()
    if file.exists() and not yes(f"Replace {file}?", default=False):
        return
    write_file(file, as_yaml(*_resolved(task, state)), replace=True)
    write(f"Saved. To run it: sidestep run {shlex.quote(str(file))}\n")


def _ask_file(default: str) -> str:
    return ask(
        "Save as:",
        default,
        completer=completer((Path(default).suffix,)),
        hint=lambda text: while_typing(text, is_file=True, is_made=True),
    )


def _render(task: str, state: WizardState, run: Run) -> None:
    place, file = "Platform:", "Save as:"

    def ask_file(state: WizardState) -> None:
        state.words[file] = _ask_file(f"my-lora{PLATFORMS[state.words[place]].suffix}")

    walk([word(place, load_settings().place, dict.fromkeys(PLATFORMS, "")), Step(ask_file)], state)
    run(["render", state.words[place], "--task", task, *state.flags(), "--output", state.words[file]])


def _keep_as_preset(task: str, state: WizardState, run: Run) -> None:
    name = ask("Name of the preset:", "mine")
    kept = {path: text for path, text in state.answers.items() if path in preset_fields()}
    run(["presets", "save", name, *WizardState(kept, preset=state.preset).flags()])


def _change(task: str, state: WizardState, run: Run) -> None:
    raise Change


def _leave(task: str, state: WizardState, run: Run) -> None:
    """The job is not wanted."""


# What can be done with a job: a word on it, and who does it.
WISHES: dict[str, tuple[str, Callable[[str, WizardState, Run], object]]] = {
    "start": ("run it here, now", _start),
    "plan": ("check it first: memory, time and cost", _plan),
    "all": ("show every setting, and the command", _show_all),
    "change": ("go through the questions again", _change),
    "save": ("write it to a YAML file", _save),
    "render": ("write it for Kubernetes, Slurm, … with the command to submit it", _render),
    "preset": ("keep the training settings as a preset", _keep_as_preset),
    "menu": ("back to the menu", _leave),
}
