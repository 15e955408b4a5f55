"""The wizard's menu, the flows of questions that it leads to, and the commands that come of them.

Each flow ends in the words of a command, which is shown and run as if it had been typed. So a run that was
set up here is one that a script or a cluster can do again.
"""

from collections.abc import Callable

from sidestep.config.job import resolve
from sidestep.config.presets import all_presets
from sidestep.platforms.render import PLATFORMS
from sidestep.runtime.console import write
from sidestep.runtime.errors import ExitCode, SideStepError
from sidestep.wizard.ask import Back, ask, check_terminal, say, yes
from sidestep.wizard.flow import Step, walk, word
from sidestep.wizard.job import Run, set_up
from sidestep.wizard.questions import ask_model
from sidestep.wizard.runs import past_runs
from sidestep.wizard.settings import load_settings, save_settings
from sidestep.wizard.state import Answers, WizardState

_STAYS = {("checkpoint_dir",), ("model_variant",), ("dataset_dir",)}  # from preprocessing to training


def wizard(run: Run) -> None:
    """Ask what to do, again and again, until that is to quit.

    Raises UsageError for a terminal that cannot show the questions.
    """
    check_terminal()
    write("\nSide-Step. Type a part of what you want, or choose it with the arrow keys.\n")
    choices = {name: says for name, (says, _) in MENU.items()} | {"quit": "leave"}
    while True:
        try:
            action = ask("\nWhat is to be done?", "train", choices=choices)
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
    run(["plan", ask("The job's file.", "job.yaml")])


def _render(run: Run) -> None:
    file, place = _answers(
        word("The job's file.", "job.yaml"),
        word("The place.", load_settings().place, dict.fromkeys(PLATFORMS, "")),
    )
    run(["render", place, file])


def _export(run: Run) -> None:
    settings = load_settings()
    formats = {"app": "the ACE-Step app", "diffusers": "a pipeline in Python", "comfyui": "one file"}
    adapter, format_ = "The adapter's place.", "Who is to read it?"
    state = WizardState({("checkpoint_dir",): settings.checkpoint_dir})
    walk(
        [
            word(adapter, f"{settings.output_dir}/my-lora/adapter"),
            word(format_, "app", formats),
            Step(ask_model),
        ],
        state,
    )
    run(["export", state.words[adapter], "--format", state.words[format_], *state.flags()])


def _status(run: Run) -> None:
    """One of the known runs, or another."""
    settings = load_settings()
    runs = past_runs(settings, resolve(needs_places=False)[0].storage)
    which, output, another = "Which run?", "The run's output_dir.", "another"

    def is_another(state: WizardState) -> bool:
        return state.words[which] == another

    state = WizardState()
    walk(
        [
            word(which, next(iter(runs), another), runs | {another: "named by its output_dir"}),
            word(output, f"{settings.output_dir}/my-lora", applies=is_another),
        ],
        state,
    )
    run(["status", state.words[output if is_another(state) else which]])


def _presets(run: Run) -> None:
    what, file, name = "Presets.", "The file.", "The preset's name."
    new, job = "A name for it.", "The job's file."
    actions = {
        "list": "all, with what they are for",
        "show": "one's settings",
        "save": "what a job's file sets, as one of yours",
        "delete": "one of yours",
        "import": "from a file",
        "export": "to a file",
    }
    wanted = {"show": [name], "save": [new, job], "delete": [name], "import": [file], "export": [name]}
    known = {preset.name: preset.description for preset in all_presets().values()}
    own = {preset.name: preset.description for preset in all_presets().values() if not preset.is_built_in}

    def asks(question: str) -> Callable[[WizardState], bool]:
        return lambda state: question in wanted.get(state.words[what], [])

    def named(state: WizardState) -> dict[str, str]:
        if state.words[what] == "delete" and not own:
            say("There is none of yours.")
            raise Back
        return own if state.words[what] == "delete" else known

    state = WizardState()
    walk(
        [
            word(what, "list", actions),
            word(name, choices=named, applies=asks(name)),
            word(new, "mine", applies=asks(new)),
            word(job, "job.yaml", applies=asks(job)),
            word(file, "preset.yaml", applies=asks(file)),
        ],
        state,
    )
    action = state.words[what]
    run(["presets", action, *(state.words[question] for question in wanted.get(action, []))])


def _settings(run: Run) -> None:
    old = load_settings()
    checkpoints, tensors, output, place, vanilla = _answers(
        word("The checkpoint folder, or bucket.", old.checkpoint_dir),
        word("The folder, or bucket, for tensors.", old.dataset_dir),
        word("The folder, or bucket, for results.", old.output_dir),
        word("The place that jobs are rendered for.", old.place, dict.fromkeys(PLATFORMS, "")),
        word("Offer vanilla mode?", "yes" if old.vanilla else "no", {"yes": "", "no": ""}),
    )
    changed = {
        "checkpoint_dir": checkpoints,
        "dataset_dir": tensors,
        "output_dir": output,
        "place": place,
        "vanilla": vanilla == "yes",
    }
    save_settings(old.model_copy(update=changed))
    write("Saved.\n")


def _answers(*questions: Step) -> list[str]:
    """The answers to some questions, in their order."""
    state = WizardState()
    walk(questions, state)
    return list(state.words.values())


# What can be done: a word on it, and the flow that asks about it.
MENU: dict[str, tuple[str, Callable[[Run], None]]] = {
    "train": ("tensors to an adapter", _train),
    "preprocess": ("songs to tensors", _preprocess),
    "estimate": ("which modules a dataset moves most", _estimate),
    "plan": ("memory, time and cost of a job's file", _plan),
    "render": ("the file that runs a job's file at a place", _render),
    "export": ("an adapter for the app, diffusers or ComfyUI", _export),
    "status": ("past runs, and what one is doing", _status),
    "presets": ("named settings", _presets),
    "settings": ("checkpoint folder, default places, vanilla mode", _settings),
}
