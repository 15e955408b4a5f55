"""The wizard's menu, the flows of questions that it leads to, and the commands that come of them.

Each flow ends in the words of a command, which is shown and run as if it had been typed. So a run that was
set up here is one that a script or a cluster can do again.
"""

from collections.abc import Callable

from sidestep.config.job import resolve
from sidestep.config.presets import all_presets
from sidestep.lifecycle.status import Status
from sidestep.platforms.render import PLATFORMS
from sidestep.runtime.console import write
from sidestep.runtime.errors import ExitCode, SideStepError
from sidestep.wizard.ask import Back, ask, check_terminal, say, yes
from sidestep.wizard.flow import Step, walk, word
from sidestep.wizard.job import Run, set_up
from sidestep.wizard.places import completer, while_typing
from sidestep.wizard.questions import ask_model
from sidestep.wizard.resume import resume
from sidestep.wizard.runs import known_runs, pick_run, short
from sidestep.wizard.settings import from_anywhere, load_settings, save_settings
from sidestep.wizard.state import Answers, WizardState

_STAYS = {("checkpoint_dir",), ("model_variant",), ("dataset_dir",)}  # from preprocessing to training


def wizard(run: Run) -> None:
    """Ask what to do, again and again, until that is to quit.

    Raises UsageError for a terminal that cannot show the questions.
    """
    check_terminal()
    write("\nSide-Step. Type part of an answer, or choose one with the arrow keys.\n")
    choices = {name: says for name, (says, _) in MENU.items()} | {"quit": "leave the wizard"}
    while True:
        try:
            action = ask("\nWhat would you like to do?", "pipeline", choices=choices)
        except (Back, KeyboardInterrupt):
            return
        if action == "quit":
            return
        try:
            MENU[action][1](run)
        except Back:
            continue
        except KeyboardInterrupt:
            write("\n")
        except SideStepError as error:
            write(f"{error}\n")


def _pipeline(run: Run) -> None:
    set_up("pipeline", WizardState(), run)


def _train(run: Run, known: Answers | None = None) -> None:
    set_up("train", WizardState(known or {}), run)


def _preprocess(run: Run) -> None:
    state = WizardState()
    set_up("preprocess", state, run)
    if state.exit_code == ExitCode.DONE and yes("Train on these tensors now?"):
        _train(run, {path: text for path, text in state.answers.items() if path in _STAYS})


def _estimate(run: Run) -> None:
    set_up("estimate", WizardState(), run)


def _plan(run: Run) -> None:
    run(["plan", *_answers(_place("Job file:", "job.yaml", ".yaml", ".yml"))])


def _render(run: Run) -> None:
    file, platform = _answers(
        _place("Job file:", "job.yaml", ".yaml", ".yml"),
        word("Platform:", load_settings().place, dict.fromkeys(PLATFORMS, "")),
    )
    run(["render", platform, file])


def _export(run: Run) -> None:
    settings = load_settings()
    formats = {"app": "the ACE-Step app", "diffusers": "diffusers, in Python", "comfyui": "ComfyUI: one file"}
    adapter, format_ = "Adapter:", "Made for:"
    state = WizardState({("checkpoint_dir",): short(settings.checkpoint_dir)})
    walk(
        [
            _place(adapter, f"{short(settings.output_dir)}/my-lora/adapter"),
            word(format_, "app", formats),
            Step(ask_model),
        ],
        state,
    )
    run(["export", state.words[adapter], "--format", state.words[format_], *state.flags()])


def _status(run: Run) -> None:
    """One of the known runs, or another."""
    settings, storage = load_settings(), resolve(needs_places=False)[0].storage
    output, _ = pick_run(known_runs(settings, storage), storage, settings.output_dir, lambda run: True)
    run(["status", output])


def _publish(run: Run) -> None:
    """A run that was stopped where it was good enough."""
    settings, storage = load_settings(), resolve(needs_places=False)[0].storage
    output, _ = pick_run(known_runs(settings, storage), storage, settings.output_dir, _has_checkpoint)
    run(["publish", output])


def _has_checkpoint(run: Status | str) -> bool:
    return isinstance(run, Status) and run.last_commit is not None


def _presets(run: Run) -> None:
    what, file, name = "Presets:", "Preset file:", "Preset:"
    new, job = "Name of the preset:", "Job file:"
    actions = {
        "list": "all presets, and what they are for",
        "show": "the settings of one",
        "save": "the settings of a job file as a preset of your own",
        "delete": "one of your own",
        "import": "one from a file",
        "export": "one to a file",
    }
    wanted = {"show": [name], "save": [new, job], "delete": [name], "import": [file], "export": [name]}
    known = {preset.name: preset.description for preset in all_presets().values()}
    own = {preset.name: preset.description for preset in all_presets().values() if not preset.is_built_in}

    def asks(question: str) -> Callable[[WizardState], bool]:
        return lambda state: question in wanted.get(state.words[what], [])

    def named(state: WizardState) -> dict[str, str]:
        if state.words[what] == "delete" and not own:
            say("You have no presets of your own.")
            raise Back
        return own if state.words[what] == "delete" else known

    state = WizardState()
    walk(
        [
            word(what, "list", actions),
            word(name, choices=named, applies=asks(name)),
            word(new, "mine", applies=asks(new)),
            _place(job, "job.yaml", ".yaml", ".yml", applies=asks(job)),
            _place(file, "preset.yaml", ".yaml", ".yml", applies=asks(file)),
        ],
        state,
    )
    action = state.words[what]
    run(["presets", action, *(state.words[question] for question in wanted.get(action, []))])


def _settings(run: Run) -> None:
    """Folders are kept as absolute paths: the wizard may be started from another folder next time."""
    old = load_settings()
    checkpoints, tensors, output, platform, vanilla = _answers(
        _place("Folder or bucket with the models:", short(old.checkpoint_dir)),
        _place("Folder or bucket for tensors:", short(old.dataset_dir), is_made=True),
        _place("Folder or bucket for results:", short(old.output_dir), is_made=True),
        word("Platform you render jobs for:", old.place, dict.fromkeys(PLATFORMS, "")),
        word("Offer vanilla mode:", "yes" if old.vanilla else "no", {"yes": "", "no": ""}),
    )
    changed = {
        "checkpoint_dir": from_anywhere(checkpoints),
        "dataset_dir": from_anywhere(tensors),
        "output_dir": from_anywhere(output),
        "place": platform,
        "vanilla": vanilla == "yes",
    }
    save_settings(old.model_copy(update=changed))
    write("Saved.\n")


def _place(
    question: str,
    default: str,
    *suffixes: str,
    is_made: bool = False,
    applies: Callable[[WizardState], bool] = lambda state: True,
) -> Step:
    """A question for a folder, or for a file that ends so, with completion and a word on what is there."""

    def hint(text: str) -> str:
        return while_typing(text, is_file=bool(suffixes), is_made=is_made)

    return word(question, default, applies=applies, completer=completer(suffixes), hint=hint)


def _answers(*questions: Step) -> list[str]:
    """The answers to some questions, in their order."""
    state = WizardState()
    walk(questions, state)
    return list(state.words.values())


# What can be done: a word on it, and the flow that asks about it.
MENU: dict[str, tuple[str, Callable[[Run], None]]] = {
    "pipeline": ("songs to an adapter, all steps in a row", _pipeline),
    "resume": ("continue an interrupted run", resume),
    "preprocess": ("songs to tensors", _preprocess),
    "estimate": ("see which modules your songs change most", _estimate),
    "train": ("tensors to an adapter", _train),
    "publish": ("make an adapter of a run you stopped early", _publish),
    "status": ("your runs, and how far they are", _status),
    "plan": ("memory, time and cost of a job file", _plan),
    "render": ("turn a job file into one for Kubernetes, Slurm, …", _render),
    "export": ("an adapter for the ACE-Step app, diffusers or ComfyUI", _export),
    "presets": ("named settings", _presets),
    "settings": ("default folders, platform, vanilla mode", _settings),
}
