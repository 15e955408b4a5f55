"""The questions about a job: which are asked when. What each allows, and its default, the schema says."""

import sys
from functools import partial

from sidestep.acestep.layout import ALIASES, open_checkpoints
from sidestep.config.fields import SpecField, spec_fields
from sidestep.config.groups import GROUPS
from sidestep.config.optimizers import OPTIMIZERS
from sidestep.config.presets import all_presets
from sidestep.runtime.errors import SideStepError
from sidestep.runtime.words import counted
from sidestep.storage.open import open_store
from sidestep.wizard.ask import ask, say
from sidestep.wizard.flow import Step
from sidestep.wizard.labels import question, word_on
from sidestep.wizard.places import FILES, MADE, completer, songs_in, what_is_there, while_typing
from sidestep.wizard.runs import short
from sidestep.wizard.settings import Settings
from sidestep.wizard.state import WizardState

# For each task the fields that are asked for, in their order, and two questions about none: which preset, and
# how much is asked. In Advanced all other fields that the task reads follow, by their groups.
_TRAINING = ("preset", "depth", "train.adapter.rank", "train.epochs", "train.optimizer_type")
QUESTIONS: dict[str, tuple[str, ...]] = {
    "pipeline": (
        *("checkpoint_dir", "model_variant", "audio_dir", "dataset_json", "output_dir"),
        *("train.adapter.type", "train.mode", *_TRAINING),
    ),
    "preprocess": (
        *("checkpoint_dir", "model_variant", "audio_dir", "dataset_json", "dataset_dir"),
        "depth",
    ),
    "estimate": (
        *("checkpoint_dir", "model_variant", "dataset_dir", "estimate.batches", "estimate.top_k"),
        "depth",
    ),
    "train": (
        *("train.adapter.type", "train.mode", "checkpoint_dir", "model_variant", "dataset_dir", "output_dir"),
        *_TRAINING,
    ),
}

# The guide's table: datasets of up to so many songs, what is recommended, and its range.
EPOCHS = ((10, 300, "200 to 500"), (50, 150, "100 to 200"), (sys.maxsize, 75, "50 to 100"))

# What is said after an answer.
NOTICES: dict[tuple[str, str], str] = {
    ("train.adapter.type", "lokr"): "LoKR is experimental: if it disappoints, take LoRA.",
    ("train.mode", "vanilla"): "Vanilla mode is for reproducing old results: corrected mode is recommended.",
    **{("train.optimizer_type", name): row.notice for name, row in OPTIMIZERS.items() if row.notice},
    ("train.gradient_checkpointing", "false"): "A song takes many times the memory like this.",
}
NOTHING = "-"  # typed to take an answer back
AUTOMATIC = "automatic"  # picked to leave a field open


def steps_of(task: str, settings: Settings) -> list[Step]:
    """The task's questions, with the settings' places for defaults."""
    defaults = {
        "checkpoint_dir": short(settings.checkpoint_dir),
        "dataset_dir": short(settings.dataset_dir),
        "output_dir": f"{short(settings.output_dir)}/my-lora",
    }
    names = [name for name in QUESTIONS[task] if settings.vanilla or name != "train.mode"]
    own = _OWN | {"depth": partial(_ask_depth, asked=QUESTIONS[task])}
    return [
        *(
            Step(own.get(name) or partial(_ask_field, name=name, default=defaults.get(name, "")))
            for name in names
        ),
        *_advanced_steps(task),
    ]


def _advanced_steps(task: str) -> list[Step]:
    """A question for each field that the task reads and that was not asked yet, by groups, each under its
    group's title, its number in there, and its name."""
    steps = []
    for group in GROUPS:
        if task not in group.tasks and task != "pipeline":
            continue
        names = [".".join(path) for path in group.paths]
        names = [name for name in names if name != "task" and name not in QUESTIONS[task]]
        for number, name in enumerate(names, 1):
            title = f"— {group.title}, {number} of {len(names)}: {name}"
            field = spec_fields()[tuple(name.split("."))]
            steps.append(Step(partial(_ask_field, name=name, title=title), partial(_is_asked_later, field)))
    return steps


def _is_asked_later(field: SpecField, state: WizardState) -> bool:
    return state.is_advanced and field.is_for(state.adapter_type)


def _ask_field(state: WizardState, name: str, default: str = "", note: str = "", title: str = "") -> None:
    """Ask for a field. What is in brackets: what was answered before, else `default`, else what would be."""
    field = spec_fields()[tuple(name.split("."))]
    otherwise = state.otherwise(field.path)
    words = _words(field, is_open=not otherwise)
    if "null" in words.values():
        otherwise = "null"
    offered = state.typed.get(field.path) or state.answers.get(field.path) or default or otherwise
    can_be_empty = "null" in field.types and not words and name not in MADE
    said = next((word for word, text in words.items() if text == offered), offered)
    allowed = (
        f"{field.allowed_but_null}; {NOTHING} for none"
        if can_be_empty and offered
        else field.allowed_but_null
    )
    asked = f"\n{title}".rstrip() + question(name, field.info.description or "", note)
    if field.is_place:
        answer = _ask_place(name, asked, said, state, can_be_empty)
    else:
        answer = ask(
            asked,
            said,
            choices={word: word_on(field, word) for word in words} or None,
            problem=lambda text: (
                None if can_be_empty and text == NOTHING else state.problem(field, words.get(text, text))
            ),
            hint="" if words else allowed,
        )
    answer = words.get(answer, answer)
    if answer != offered:
        state.typed[field.path] = answer
    if can_be_empty and answer == NOTHING:
        answer = ""
        state.typed.pop(field.path, None)
    if answer and answer != otherwise:
        state.answers[field.path] = answer
    else:
        state.answers.pop(field.path, None)
    if notice := NOTICES.get((name, answer)):
        say(notice)
    if field.is_place and answer and (found := what_is_there(name, answer, state.spec().storage)):
        say(found)


def _words(field: SpecField, is_open: bool) -> dict[str, str]:
    """What can be picked, and what that is in the spec; nothing where it takes other values, too."""
    if "boolean" in field.types:
        words = {"yes": "true", "no": "false"}
    else:
        words = {} if field.types & {"integer", "number"} else {word: word for word in field.choices}
    return {AUTOMATIC: "null", **words} if words and is_open and "null" in field.types else words


def _ask_place(name: str, asked: str, default: str, state: WizardState, can_be_empty: bool) -> str:
    """A path is completed, and whether it is there is said while it is typed."""
    field = spec_fields()[tuple(name.split("."))]
    suffixes = FILES.get(name, ())

    def hint(text: str) -> str:
        if can_be_empty and text in ("", NOTHING):
            return "Enter alone: none" if not text else "none"
        found = while_typing(text, is_file=bool(suffixes), is_made=name in MADE)
        return f"{found}; {NOTHING} for none" if can_be_empty and text else found

    return ask(
        asked,
        default,
        problem=lambda text: None if can_be_empty and text == NOTHING else state.problem(field, text),
        completer=completer(suffixes),
        hint=hint,
    )


def _ask_type(state: WizardState) -> None:
    """What was answered about the other type of adapter does not count any more."""
    _ask_field(state, "train.adapter.type")
    for path in list(state.answers):
        if not spec_fields()[path].is_for(state.adapter_type):
            del state.answers[path]


def ask_model(state: WizardState) -> None:
    """Ask which of the models at the checkpoints' place it is."""
    models = _models(state)
    wanted = state.answers.get(("model_variant",), "base")
    state.answers["model_variant",] = ask(
        question("model_variant"),
        wanted if wanted in models else next(iter(models)),
        choices=models,
    )


def _models(state: WizardState) -> dict[str, str]:
    """What can be picked: the models that are there. The released ones, and why, where none is found."""
    spec = state.spec()
    try:
        files = open_checkpoints(spec.checkpoint_dir, spec.storage).list_files()
    except SideStepError as error:
        say(str(error))
        return dict.fromkeys(ALIASES, "a released model")
    parts = [file.path.split("/") for file in files]
    found = sorted(part[0] for part in parts if part[1:] == ["silence_latent.pt"])  # which models alone have
    if not found:
        say(f"No model found in {spec.checkpoint_dir}.")
        return dict.fromkeys(ALIASES, "a released model")
    spoken = {alias: folder for alias, folder in ALIASES.items() if folder in found}
    own = [folder for folder in found if folder not in spoken.values()]
    return spoken | dict.fromkeys(own, "your own")


def _ask_preset(state: WizardState) -> None:
    presets = {"none": "the defaults"} | {name: preset.description for name, preset in all_presets().items()}
    chosen = ask(question("preset"), state.preset or "none", choices=presets)
    state.preset = None if chosen == "none" else chosen


def _ask_depth(state: WizardState, asked: tuple[str, ...]) -> None:
    depths = {"basic": "a few questions, good defaults for the rest", "advanced": "every setting"}
    before = "advanced" if state.is_advanced else "basic"
    state.is_advanced = ask(question("depth"), before, choices=depths) == "advanced"
    if not state.is_advanced:  # what was answered there does not count any more
        for path in [path for path in state.answers if ".".join(path) not in asked]:
            del state.answers[path]
            state.typed.pop(path, None)


def _ask_epochs(state: WizardState) -> None:
    songs = _songs(state)
    if not songs:
        _ask_field(state, "train.epochs")
        return
    epochs, usual = next((epochs, usual) for most, epochs, usual in EPOCHS if songs <= most)
    field = spec_fields()["train", "epochs"]
    is_open = state.otherwise(field.path) == field.default  # neither preset nor environment says it
    _ask_field(
        state,
        field.name,
        str(epochs) if is_open else "",
        note=f" For {counted(songs, 'songs')}, {usual} are recommended.",
    )


def _songs(state: WizardState) -> int:
    """How many songs or their tensors there are; 0 where that cannot be seen."""
    try:
        spec = state.spec()
        if spec.audio_dir and not spec.dataset_dir:
            return songs_in(open_store(spec.audio_dir, spec.storage))
        files = open_store(spec.dataset_dir or spec.output_place, spec.storage).list_files()
    except SideStepError as error:
        say(str(error))
        return 0
    return sum(file.path.endswith(".pt") for file in files)


# The questions that do more than ask for a field.
_OWN = {
    "train.adapter.type": _ask_type,
    "model_variant": ask_model,
    "preset": _ask_preset,
    "train.epochs": _ask_epochs,
}
