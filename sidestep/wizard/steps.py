"""The questions about a job. What each allows and its default the schema says, and their order its groups."""

import sys
from collections.abc import Iterable
from functools import reduce

from sidestep.acestep.layout import ALIASES, open_checkpoints
from sidestep.config.fields import Path, SpecField, spec_fields
from sidestep.config.groups import GROUPS
from sidestep.config.job import JobSpec, problem_with, resolve
from sidestep.config.optimizers import OPTIMIZERS
from sidestep.config.presets import all_presets
from sidestep.config.sources import Given, from_text
from sidestep.runtime.errors import SideStepError
from sidestep.storage.open import open_store
from sidestep.wizard.ask import ask
from sidestep.wizard.flow import Step, Talk
from sidestep.wizard.settings import Settings

# The guide's table: datasets of up to so many songs, what is recommended, and its range.
EPOCHS = ((10, 300, "200 to 500"), (50, 150, "100 to 200"), (sys.maxsize, 75, "50 to 100"))

NOTICES: dict[tuple[str, str], str] = {
    ("train.adapter.type", "lokr"): "LoKR is experimental: if it disappoints, take LoRA.",
    ("train.mode", "vanilla"): "Vanilla mode is for reproducing old results: corrected mode is recommended.",
    **{("train.optimizer_type", name): row.notice for name, row in OPTIMIZERS.items() if row.notice},
    ("train.gradient_checkpointing", "false"): "A song takes many times the memory like this.",
}
NOTHING = "-"  # typed to take an answer back
ASKED = {  # in Basic too, or by the choice of a task
    *("task", "checkpoint_dir", "model_variant", "audio_dir", "dataset_json", "dataset_dir", "output_dir"),
    *("train.adapter.type", "train.mode", "train.adapter.rank", "train.epochs", "train.optimizer_type"),
    *("estimate.batches", "estimate.top_k"),
}


def preprocess_steps(settings: Settings) -> list[Step]:
    return [
        *_model_steps(settings),
        _step("audio_dir"),
        _step("dataset_json"),
        _step("dataset_dir", settings.dataset_dir),
        _DEPTH,
        *_advanced_steps("preprocess"),
    ]


def estimate_steps(settings: Settings) -> list[Step]:
    return [
        *_model_steps(settings),
        _step("dataset_dir", settings.dataset_dir),
        _step("estimate.batches"),
        _step("estimate.top_k"),
        _DEPTH,
        *_advanced_steps("estimate"),
    ]


def train_steps(settings: Settings) -> list[Step]:
    return [
        Step(_ask_type),
        *([_step("train.mode")] if settings.vanilla else []),
        *_model_steps(settings),
        _step("dataset_dir", settings.dataset_dir),
        _step("output_dir", f"{settings.output_dir}/my-lora"),
        Step(_ask_preset),
        _DEPTH,
        _step("train.adapter.rank"),
        Step(_ask_epochs),
        _step("train.optimizer_type"),
        *_advanced_steps("train"),
    ]


def ask_field(talk: Talk, name: str, default: str = "", note: str = "", title: str = "") -> None:
    """Ask for a field. What is in brackets: what was answered before, else `default`, else what would be."""
    field = spec_fields()[tuple(name.split("."))]
    otherwise = _otherwise(talk, field.path)
    words = field.choices or (["true", "false"] if "boolean" in field.types else [])
    if words and not otherwise and "null" in field.types:
        words, otherwise = ["null", *words], "null"  # to be left open
    offered = talk.said.get(field.path) or talk.answers.get(field.path) or default or otherwise
    can_be_empty = "null" in field.types and not words
    answer = ask(
        "\n".join(filter(None, (title, f"{field.info.description}{note}", f"{name}:"))),
        offered,
        choices=dict.fromkeys(words, "") or None,
        problem=lambda text: None if can_be_empty and text == NOTHING else _problem(talk, field, text),
        hint=f"{field.allowed}; {NOTHING} for none" if can_be_empty and offered else field.allowed,
    )
    if answer != offered:
        talk.said[field.path] = answer
    if can_be_empty and answer == NOTHING:
        answer = ""
        talk.said.pop(field.path, None)
    if answer and answer != otherwise:
        talk.answers[field.path] = answer
    else:
        talk.answers.pop(field.path, None)
    if notice := NOTICES.get((name, answer)):
        talk.say(notice)


def as_text(value: object) -> str:
    """A value as one would type it."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return " ".join(f"{key}={number}" for key, number in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def given_by(talk: Talk) -> list[Given]:
    """The answers as flags would give them."""
    return [
        Given(path, from_text(spec_fields()[path], text), "answer") for path, text in talk.answers.items()
    ]


def _step(name: str, default: str = "") -> Step:
    return Step(lambda talk: ask_field(talk, name, default))


def _advanced_steps(task: str) -> list[Step]:
    """A question for each field that the task reads and that was not asked yet, by groups, each under its
    group's title and its number in there."""
    steps = []
    for group in GROUPS:
        if task not in group.tasks:
            continue
        fields = [spec_fields()[path] for path in group.paths if ".".join(path) not in ASKED]
        steps += [
            _advanced(field, f"— {group.title}: {number} of {len(fields)}")
            for number, field in enumerate(fields, 1)
        ]
    return steps


def _advanced(field: SpecField, title: str) -> Step:
    """A question that Basic leaves out, and that is about the adapter's kind or about both."""

    def applies(talk: Talk) -> bool:
        of = talk.answers.get(("train", "adapter", "type"), "lora")
        return talk.is_advanced and field.adapter_type in (None, of)

    return Step(lambda talk: ask_field(talk, field.name, title=title), applies)


def _ask_type(talk: Talk) -> None:
    """What was answered about the other kind does not count any more."""
    ask_field(talk, "train.adapter.type")
    kind = talk.answers.get(("train", "adapter", "type"), "lora")
    for path in list(talk.answers):
        if spec_fields()[path].adapter_type not in (None, kind):
            del talk.answers[path]


def _model_steps(settings: Settings) -> list[Step]:
    return [_step("checkpoint_dir", settings.checkpoint_dir), Step(ask_model)]


def ask_model(talk: Talk) -> None:
    """Ask which of the models at the checkpoints' place it is."""
    models = _models(talk)
    wanted = talk.answers.get(("model_variant",), "base")
    talk.answers["model_variant",] = ask(
        "The model to train on; type a part of its name.\nmodel_variant:",
        wanted if wanted in models else next(iter(models)),
        choices=models,
    )


def _models(talk: Talk) -> dict[str, str]:
    """What can be picked: the models that are there. The released ones, and why, where none is found."""
    spec = _spec(talk)
    try:
        files = open_checkpoints(spec.checkpoint_dir, spec.storage).list_files()
    except SideStepError as error:
        talk.say(str(error))
        return dict.fromkeys(ALIASES, "released")
    parts = [file.path.split("/") for file in files]
    found = sorted(part[0] for part in parts if part[1:] == ["silence_latent.pt"])  # which models alone have
    if not found:
        talk.say(f"There are no models in {spec.checkpoint_dir}.")
        return dict.fromkeys(ALIASES, "released")
    spoken = {alias: folder for alias, folder in ALIASES.items() if folder in found}
    own = [folder for folder in found if folder not in spoken.values()]
    return spoken | dict.fromkeys(own, "folder")


def _ask_preset(talk: Talk) -> None:
    presets = {name: preset.description for name, preset in all_presets().items()}
    talk.preset = ask(
        "Settings to begin with.\npreset:", talk.preset, choices={"none": "the defaults"} | presets
    )


def _ask_depth(talk: Talk) -> None:
    depths = {"basic": "few questions, good defaults", "advanced": "every setting"}
    talk.is_advanced = (
        ask("How much is asked.\nquestions:", "advanced" if talk.is_advanced else "basic", choices=depths)
        == "advanced"
    )
    if not talk.is_advanced:  # what was answered there does not count any more
        for path in [path for path in talk.answers if ".".join(path) not in ASKED]:
            del talk.answers[path]
            talk.said.pop(path, None)


_DEPTH = Step(_ask_depth)


def _ask_epochs(talk: Talk) -> None:
    songs = _songs(talk)
    if not songs:
        ask_field(talk, "train.epochs")
        return
    epochs, usual = next((epochs, usual) for most, epochs, usual in EPOCHS if songs <= most)
    field = spec_fields()["train", "epochs"]
    is_open = _otherwise(talk, field.path) == field.default  # neither preset nor environment says it
    ask_field(
        *(talk, field.name, str(epochs) if is_open else ""), f" For {songs} songs {usual} are recommended."
    )


def _songs(talk: Talk) -> int:
    try:
        spec = _spec(talk)
        files = open_store(spec.dataset_dir or spec.output_place, spec.storage).list_files()
    except SideStepError as error:
        talk.say(str(error))
        return 0
    return sum(file.path.endswith(".pt") for file in files)


def _otherwise(talk: Talk, path: Path) -> str:
    """What the field would be if nobody answered, by the other answers, the variables, the preset."""
    if path == ("output_dir",):
        return ""  # always said, as a run is remembered by it
    return as_text(reduce(getattr, path, _spec(talk, but=path)))


def _spec(talk: Talk, but: Path = ()) -> JobSpec:
    """The spec as far as it is known, without the answer to one question.

    Raises BadSpecError where the environment or the preset spoils it.
    """
    known = {given.path: given for given in given_by(talk)}
    known.pop(but, None)
    return resolve(flags=known.values(), preset=talk.preset_or_none, needs_places=False)[0]


def _problem(talk: Talk, field: SpecField, text: str) -> str | None:
    if not text:
        return None  # left to the preset and the defaults
    others: Iterable[Given] = (given for given in given_by(talk) if given.path != field.path)
    return problem_with([*others, Given(field.path, from_text(field, text), "answer")], field.path)
