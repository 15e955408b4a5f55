"""The wizard: a menu, flows of questions, and the commands that come of them.

Each flow ends in the words of a command, which is shown and run as if it had been typed. So a run that was
set up here is one that a script or a cluster can do again.
"""

from collections.abc import Callable

from sidestep.config.job import resolve
from sidestep.config.presets import all_presets
from sidestep.platforms.render import PLATFORMS
from sidestep.runtime.errors import SideStepError
from sidestep.wizard.ask import Back, ask, check_terminal, yes
from sidestep.wizard.flow import Answers, Step, Talk, walk, word
from sidestep.wizard.job import Run, set_up
from sidestep.wizard.runs import past_runs
from sidestep.wizard.settings import load_settings, save_settings
from sidestep.wizard.steps import ask_model, estimate_steps, preprocess_steps, train_steps

Write = Callable[[str], None]

MENU = {
    "train": "tensors to an adapter",
    "preprocess": "songs to tensors",
    "estimate": "which modules a dataset moves most",
    "plan": "memory, time and cost of a job's file",
    "render": "the file that runs a job's file at a place",
    "export": "an adapter for the app, diffusers or ComfyUI",
    "status": "past runs, and what one is doing",
    "presets": "named settings",
    "settings": "checkpoint folder, default places, vanilla mode",
    "quit": "leave",
}


_STAYS = {("checkpoint_dir",), ("model_variant",), ("dataset_dir",)}  # from preprocessing to training


def wizard(run: Run, write: Write) -> None:
    """Ask what to do, again and again, until that is to quit. `run` runs a command by its words.

    Raises UsageError for a terminal that cannot show the questions.
    """
    check_terminal()
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
    set_up("train", train_steps(load_settings()), Talk(write, known or {}), run)


def _preprocess(run: Run, write: Write) -> None:
    talk = Talk(write)
    made = set_up("preprocess", preprocess_steps(load_settings()), talk, run)
    if made and yes("Train on these tensors now?"):
        _train(run, write, {path: text for path, text in talk.answers.items() if path in _STAYS})


def _estimate(run: Run, write: Write) -> None:
    set_up("estimate", estimate_steps(load_settings()), Talk(write), run)


def _plan(run: Run, write: Write) -> None:
    run(["plan", ask("The job's file.", "job.yaml")])


def _render(run: Run, write: Write) -> None:
    place = word("The place.", load_settings().place, lambda talk: dict.fromkeys(PLATFORMS, ""))
    file, place_name = _said(write, word("The job's file.", "job.yaml"), place)
    run(["render", place_name, file])


def _export(run: Run, write: Write) -> None:
    settings = load_settings()
    formats = {"app": "the ACE-Step app", "diffusers": "a pipeline in Python", "comfyui": "one file"}
    adapter, format_ = "The adapter's place.", "Who is to read it?"
    talk = Talk(write, {("checkpoint_dir",): settings.checkpoint_dir})
    walk(
        [
            word(adapter, f"{settings.output_dir}/my-lora/adapter"),
            word(format_, "app", lambda talk: formats),
            Step(ask_model),
        ],
        talk,
    )
    checkpoints = ["--checkpoint-dir", settings.checkpoint_dir]
    model = ["--model-variant", talk.answers["model_variant",]]
    run(["export", talk.words[adapter], "--format", talk.words[format_], *checkpoints, *model])


def _status(run: Run, write: Write) -> None:
    """One of the known runs, or another."""
    settings = load_settings()
    runs = past_runs(settings, resolve(needs_places=False)[0].storage)
    another, question = "another", "Which run?"
    talk = Talk(write, words={question: next(iter(runs), another)})
    walk(
        [
            word(question, choices=lambda talk: runs | {another: "named by its output_dir"}),
            word(
                "The run's output_dir.",
                f"{settings.output_dir}/my-lora",
                applies=lambda talk: talk.words[question] == another,
            ),
        ],
        talk,
    )
    chosen = talk.words[question]
    run(["status", talk.words["The run's output_dir."] if chosen == another else chosen])


def _presets(run: Run, write: Write) -> None:
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

    def asks(question: str) -> Callable[[Talk], bool]:
        return lambda talk: question in wanted.get(talk.words[what], [])

    def named(talk: Talk) -> dict[str, str]:
        if talk.words[what] == "delete" and not own:
            talk.say("There is none of yours.")
            raise Back
        return own if talk.words[what] == "delete" else known

    talk = Talk(write)
    walk(
        [
            word(what, "list", lambda talk: actions),
            word(name, choices=named, applies=asks(name)),
            word(new, "mine", applies=asks(new)),
            word(job, "job.yaml", applies=asks(job)),
            word(file, "preset.yaml", applies=asks(file)),
        ],
        talk,
    )
    action = talk.words[what]
    run(["presets", action, *(talk.words[question] for question in wanted.get(action, []))])


def _settings(run: Run, write: Write) -> None:
    old = load_settings()
    checkpoints, tensors, output, place, vanilla = _said(
        write,
        word("The checkpoint folder, or bucket.", old.checkpoint_dir),
        word("The folder, or bucket, for tensors.", old.dataset_dir),
        word("The folder, or bucket, for results.", old.output_dir),
        word("The place that jobs are rendered for.", old.place, lambda talk: dict.fromkeys(PLATFORMS, "")),
        word("Offer vanilla mode?", "yes" if old.vanilla else "no", lambda talk: {"yes": "", "no": ""}),
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


def _said(write: Write, *questions: Step) -> list[str]:
    """The answers to some questions, in their order."""
    talk = Talk(write)
    walk(questions, talk)
    return list(talk.words.values())


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
