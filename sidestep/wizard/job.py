"""From answers to a job: its spec and its plan are shown before it starts, or it becomes a file."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from sidestep.config.fields import spec_fields
from sidestep.config.job import resolve
from sidestep.config.presets import preset_fields, write_file
from sidestep.config.resolved import as_yaml
from sidestep.config.sources import Given
from sidestep.platforms.render import PLATFORMS
from sidestep.runtime.errors import ExitCode
from sidestep.wizard.ask import Back, ask, yes
from sidestep.wizard.flow import Step, Talk, walk, word
from sidestep.wizard.settings import load_settings, remember_run
from sidestep.wizard.steps import given_by

Run = Callable[[Sequence[str]], int]

WISHES = {
    "start": "its plan, then run it here",
    "plan": "check it; its memory, time and cost",
    "save": "write it as a YAML file",
    "render": "write it for a place, with the command that submits it",
    "preset": "keep how it trains as a preset",
    "menu": "back to the menu",
}


def set_up(command: str, steps: Sequence[Step], talk: Talk, run: Run) -> bool:
    """Ask about a job, show it whole, and do with it what is wanted; whether it was run to its end."""
    code: list[int] = []
    walk([*steps, Step(lambda talk: _review(command, talk, run, code))], talk)
    return code == [ExitCode.DONE]


def _review(command: str, talk: Talk, run: Run, code: list[int]) -> None:
    """The last step of a job's flow: Back asks the questions again, answers kept."""
    words = command_words(command, talk)
    if run([*words, "--dry-run"]) != ExitCode.DONE:
        raise Back  # what is wrong was said
    while True:
        talk.write(f"\n  sidestep {shlex.join(words)}\n")
        wish = ask("\nThis is the job.", "start", choices=WISHES)
        if wish == "menu":
            return
        try:
            if wish != "start":
                _FILES[wish](command, talk, run)
            elif _plan(command, talk, run) == ExitCode.DONE and yes("Start it?"):
                _remember(talk)
                code.append(run(words))
                return
        except Back:
            continue


def _plan(command: str, talk: Talk, run: Run) -> int:
    return run(["plan", "--task", command, *_flags(command, talk)])


def _remember(talk: Talk) -> None:
    if place := talk.answers.get(("output_dir",)):
        remember_run(place if "://" in place else str(Path(place).resolve()))


def _render(command: str, talk: Talk, run: Run) -> None:
    place = word("The place.", load_settings().place, lambda talk: dict.fromkeys(PLATFORMS, ""))
    walk([place, Step(_ask_target)], talk)
    target = talk.words["The file to write."]
    run(["render", talk.words["The place."], "--task", command, *_flags(command, talk), "--output", target])


def _ask_target(talk: Talk) -> None:
    talk.words["The file to write."] = ask(
        "The file to write.", f"my-lora{PLATFORMS[talk.words['The place.']].suffix}"
    )


def _keep_as_preset(command: str, talk: Talk, run: Run) -> None:
    name = ask("The preset's name.", "mine")
    kept = {path: text for path, text in talk.answers.items() if path in preset_fields()}
    run(["presets", "save", name, *_flags(command, Talk(talk.write, kept, preset=talk.preset))])


def _save(command: str, talk: Talk, run: Run) -> None:
    file = Path(ask("The file to write.", "job.yaml"))
    if file.exists() and not yes(f"Replace {file}?"):
        return
    spec, origins = resolve(
        flags=[*given_by(talk), Given(("task",), command, "answer")], preset=talk.preset_or_none
    )
    write_file(file, as_yaml(spec, origins), replace=True)
    talk.write(f"Wrote {file}; run it with: sidestep run {file}\n")


def command_words(command: str, talk: Talk) -> list[str]:
    """The command that does what was answered, as its words."""
    words = [command] + (["--preset", talk.preset] if talk.preset_or_none else [])
    for path, text in talk.answers.items():
        field = spec_fields()[path]
        flag = field.flags[0]
        if "boolean" in field.types:
            words.append(flag if text == "true" else flag.replace("--", "--no-", 1))
        else:
            words += [flag, *(text.split() if field.types & {"array", "object"} else [text])]
    return words


def _flags(command: str, talk: Talk) -> list[str]:
    return command_words(command, talk)[1:]


_FILES: dict[str, Callable[[str, Talk, Run], object]] = {
    "plan": _plan,
    "save": _save,
    "render": _render,
    "preset": _keep_as_preset,
}
