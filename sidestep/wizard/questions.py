"""The questions about a job: which are asked when. What each allows, and its default, the schema says."""

import sys
from functools import partial

from sidestep.acestep.layout import ALIASES, open_checkpoints
from sidestep.config.fields import SpecField, spec_fields
from sidestep.config.groups import GROUPS
from sidestep.config.optimizers import OPTIMIZERS
from sidestep.config.presets import all_presets
from sidestep.runtime.errors import SideStepError
from sidestep.storage.open import open_store
from sidestep.wizard.ask import ask, say
from sidestep.wizard.flow import Step
from sidestep.wizard.settings import Settings
from sidestep.wizard.state import WizardState

# For each task the fields that are asked for, in their order, and two questions about none: which preset, and
# how much is asked. In Advanced all other fields that the task reads follow, by their groups.
QUESTIONS = {
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
        *("preset", "depth"),
        *("train.adapter.rank", "train.epochs", "train.optimizer_type"),
    ),
}
ASKED = {"task", *(name for names in QUESTIONS.values() for name in names)}
"""What Advanced does not ask once more."""

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


def steps_of(task: str, settings: Settings) -> list[Step]:
    """The task's questions, with the settings' places for defaults."""
    defaults = {
        "checkpoint_dir": settings.checkpoint_dir,
        "dataset_dir": settings.dataset_dir,
        "output_dir": f"{settings.output_dir}/my-lora",
    }
    names = [name for name in QUESTIONS[task] if settings.vanilla or name != "train.mode"]
    return [
        *(
            Step(_OWN.get(name) or partial(_ask_field, name=name, default=defaults.get(name, "")))
            for name in names
        ),
        *_advanced_steps(task),
    ]


def _advanced_steps(task: str) -> list[Step]:
    """A question for each field that the task reads and that was not asked yet, by groups, each under its
    group's title and its number in there."""
    steps = []
    for group in GROUPS:
        if task not in group.tasks:
            continue
        fields = [spec_fields()[path] for path in group.paths if ".".join(path) not in ASKED]
        for number, field in enumerate(fields, 1):
            title = f"— {group.title}: {number} of {len(fields)}"
            steps.append(
                Step(partial(_ask_field, name=field.name, title=title), partial(_is_asked_in_advanced, field))
            )
    return steps


def _is_asked_in_advanced(field: SpecField, state: WizardState) -> bool:
    return state.is_advanced and field.adapter_type in (None, state.adapter_type)


def _ask_field(state: WizardState, name: str, default: str = "", note: str = "", title: str = "") -> None:
    """Ask for a field. What is in brackets: what was answered before, else `default`, else what would be."""
    field = spec_fields()[tuple(name.split("."))]
    otherwise = state.otherwise(field.path)
    words = field.choices or (["true", "false"] if "boolean" in field.types else [])
    if words and not otherwise and "null" in field.types:
        words, otherwise = ["null", *words], "null"  # to be left open
    offered = state.typed.get(field.path) or state.answers.get(field.path) or default or otherwise
    can_be_empty = "null" in field.types and not words
    answer = ask(
        "\n".join(filter(None, (title, f"{field.info.description}{note}", f"{name}:"))),
        offered,
        choices=dict.fromkeys(words, "") or None,
        problem=lambda text: None if can_be_empty and text == NOTHING else state.problem(field, text),
        hint=f"{field.allowed}; {NOTHING} for none" if can_be_empty and offered else field.allowed,
    )
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


def _ask_type(state: WizardState) -> None:
    """What was answered about the other type of adapter does not count any more."""
    _ask_field(state, "train.adapter.type")
    for path in list(state.answers):
        if spec_fields()[path].adapter_type not in (None, state.adapter_type):
            del state.answers[path]


def ask_model(state: WizardState) -> None:
    """Ask which of the models at the checkpoints' place it is."""
    models = _models(state)
    wanted = state.answers.get(("model_variant",), "base")
    state.answers["model_variant",] = ask(
        "The model to train on; type a part of its name.\nmodel_variant:",
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
        return dict.fromkeys(ALIASES, "released")
    parts = [file.path.split("/") for file in files]
    found = sorted(part[0] for part in parts if part[1:] == ["silence_latent.pt"])  # which models alone have
    if not found:
        say(f"There are no models in {spec.checkpoint_dir}.")
        return dict.fromkeys(ALIASES, "released")
    spoken = {alias: folder for alias, folder in ALIASES.items() if folder in found}
    own = [folder for folder in found if folder not in spoken.values()]
    return spoken | dict.fromkeys(own, "folder")


def _ask_preset(state: WizardState) -> None:
    presets = {"none": "the defaults"} | {name: preset.description for name, preset in all_presets().items()}
    chosen = ask("Settings to begin with.\npreset:", state.preset or "none", choices=presets)
    state.preset = None if chosen == "none" else chosen


def _ask_depth(state: WizardState) -> None:
    depths = {"basic": "few questions, good defaults", "advanced": "every setting"}
    before = "advanced" if state.is_advanced else "basic"
    state.is_advanced = ask("How much is asked.\nquestions:", before, choices=depths) == "advanced"
    if not state.is_advanced:  # what was answered there does not count any more
        for path in [path for path in state.answers if ".".join(path) not in ASKED]:
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
        state, field.name, str(epochs) if is_open else "", note=f" For {songs} songs {usual} are recommended."
    )


def _songs(state: WizardState) -> int:
    """How many songs' tensors there are; 0 where that cannot be seen."""
    try:
        spec = state.spec()
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
    "depth": _ask_depth,
    "train.epochs": _ask_epochs,
}
