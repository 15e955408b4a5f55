"""The wizard: a menu, flows of questions, and the commands that come of them.

Each flow ends in the words of a command, which is shown and run as if it had been typed. So a run that was
set up here is one that a script or a cluster can do again.
"""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from sidestep.places.render import PLACES
from sidestep.runtime.errors import ExitCode, SideStepError
from sidestep.spec.fields import spec_fields
from sidestep.spec.presets import preset_fields, write_file
from sidestep.spec.resolved import as_yaml
from sidestep.spec.sources import Given, resolve
from sidestep.wizard.ask import Back, ask
from sidestep.wizard.flow import Answers, Step, Talk, walk
from sidestep.wizard.settings import Settings, load_settings, save_settings
from sidestep.wizard.steps import estimate_steps, given_by, preprocess_steps, train_steps

Run = Callable[[Sequence[str]], int]
Write = Callable[[str], None]

MENU = {
    "train": "tensors to an adapter",
    "preprocess": "songs to tensors",
    "estimate": "which modules a dataset moves most",
    "plan": "memory, time and cost of a job's file",
    "render": "the file that runs a job's file at a place",
    "export": "an adapter for one reader",
    "status": "what a run is doing, or has done",
    "presets": "named settings",
    "settings": "checkpoint folder, output folder, vanilla mode",
    "quit": "leave",
}


_STAYS = {("checkpoint_dir",), ("model_variant",), ("dataset_dir",)}  # from preprocessing to training


def wizard(run: Run, write: Write) -> None:
    """Ask what to do, again and again, until that is to quit. `run` runs a command by its words."""
    write("\nSide-Step. Type a part of what you want, or choose it with the arrow keys.\n")
    while True:
        try:
            action = ask("\nWhat is to be done?", "train", choices=MENU)
        except (Back, KeyboardInterrupt):
            return
        if action == "quit":
            return
        try:
            _ACTIONS[action](run, write)
        except Back:
            continue
        except KeyboardInterrupt:
            write("\n")
        except SideStepError as error:
            write(f"{error}\n")


def _train(run: Run, write: Write, known: Answers | None = None) -> None:
    _job("train", train_steps(load_settings()), Talk(write, known or {}), run)


def _preprocess(run: Run, write: Write) -> None:
    talk = Talk(write)
    made = _job("preprocess", preprocess_steps(load_settings()), talk, run)
    if made and _yes("Train on these tensors now?"):
        _train(run, write, {path: text for path, text in talk.answers.items() if path in _STAYS})


def _estimate(run: Run, write: Write) -> None:
    _job("estimate", estimate_steps(load_settings()), Talk(write), run)


def _job(command: str, steps: Sequence[Step], talk: Talk, run: Run) -> bool:
    """Ask about a job, show it whole, and do with it what is wanted; whether it was run to its end."""
    code: list[int] = []
    walk([*steps, Step(lambda talk: _review(command, talk, run, code))], talk)
    return code == [ExitCode.DONE]


def _review(command: str, talk: Talk, run: Run, code: list[int]) -> None:
    """The last step of a job's flow: Back asks the questions again, answers kept."""
    words = command_words(command, talk)
    if run([*words, "--dry-run"]) != ExitCode.DONE:
        raise Back  # what is wrong was said
    wishes = {
        "start": "run it here and now",
        "plan": "check it; its memory, time and cost",
        "save": "write it as a YAML file",
        "render": "write it for a place, with the command that submits it",
        "preset": "keep how it trains as a preset",
        "menu": "back to the menu",
    }
    while True:
        talk.write(f"\n  sidestep {shlex.join(words)}\n")
        wish = ask("\nThis is the job.", "start", choices=wishes)
        if wish == "start":
            code.append(run(words))
            return
        if wish == "menu":
            return
        try:
            _do_with(wish, command, talk, run)
        except Back:
            continue


def _do_with(wish: str, command: str, talk: Talk, run: Run) -> None:
    flags = command_words(command, talk)[1:]
    if wish == "plan":
        run(["plan", "--task", command, *flags])
    elif wish == "render":
        place = ask("The place.", "kubernetes", choices=dict.fromkeys(PLACES, ""))
        target = ask("The file to write.", f"my-lora{PLACES[place].suffix}")
        run(["render", place, "--task", command, *flags, "--output", target])
    elif wish == "preset":
        name = ask("The preset's name.", "mine")
        kept = {path: text for path, text in talk.answers.items() if path in preset_fields()}
        run(["presets", "save", name, *command_words(command, Talk(talk.write, kept, talk.preset))[1:]])
    else:
        file = Path(ask("The file to write.", "job.yaml"))
        if file.exists() and not _yes(f"Replace {file}?"):
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


def _plan(run: Run, write: Write) -> None:
    run(["plan", ask("The job's file.", "job.yaml")])


def _render(run: Run, write: Write) -> None:
    file = ask("The job's file.", "job.yaml")
    run(["render", ask("The place.", "kubernetes", choices=dict.fromkeys(PLACES, "")), file])


def _export(run: Run, write: Write) -> None:
    settings = load_settings()
    adapter = ask("The adapter's place.", f"{settings.output_dir}/my-lora/adapter")
    formats = {"app": "the ACE-Step app", "diffusers": "", "comfyui": "one file"}
    format_ = ask("Who is to read it?", "app", choices=formats)
    model = ask("The model it was trained on.", "base")
    checkpoints = ["--checkpoint-dir", settings.checkpoint_dir, "--model-variant", model]
    run(["export", adapter, "--format", format_, *checkpoints])


def _status(run: Run, write: Write) -> None:
    run(["status", ask("The run's output_dir.", f"{load_settings().output_dir}/my-lora")])


def _presets(run: Run, write: Write) -> None:
    action = ask(
        "Presets.",
        "list",
        choices={
            "list": "all",
            "show": "one",
            "delete": "one of yours",
            "import": "from a file",
            "export": "to a file",
        },
    )
    wanted = {"list": [], "import": ["The file."]}.get(action, ["The preset's name."])
    run(["presets", action, *(ask(question) for question in wanted)])


def _settings(run: Run, write: Write) -> None:
    settings = load_settings()
    checkpoints = ask("The checkpoint folder, or bucket.", settings.checkpoint_dir)
    output = ask("The folder, or bucket, for results.", settings.output_dir)
    vanilla = _yes("Offer vanilla mode?", settings.vanilla)
    save_settings(Settings(checkpoint_dir=checkpoints, output_dir=output, vanilla=vanilla))


def _yes(question: str, default: bool = True) -> bool:
    return ask(question, "yes" if default else "no", choices={"yes": "", "no": ""}) == "yes"


_ACTIONS: dict[str, Callable[[Run, Write], None]] = {
    "train": _train,
    "preprocess": _preprocess,
    "estimate": _estimate,
    "plan": _plan,
    "render": _render,
    "export": _export,
    "status": _status,
    "presets": _presets,
    "settings": _settings,
}
