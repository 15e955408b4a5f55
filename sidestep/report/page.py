"""report.html, made of the output of a finished run alone, so that it can be made again at any time."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sidestep.config.job import JobSpec
from sidestep.data.survey import in_words, read_survey
from sidestep.report.advice import advice_of
from sidestep.report.charts import Chart, Line, chart
from sidestep.report.contents import (
    ESTIMATE,
    History,
    Inputs,
    Validation,
    estimate_of,
    read_history,
    read_ranking,
    read_receipt,
)
from sidestep.report.html import template
from sidestep.report.strength import Calibration, read_calibration
from sidestep.runtime.errors import AccessError, BadDataError, MissingInputError, StorageError
from sidestep.sampling.takes import WHILE_TRAINING, Prompt, Take, picture_of, read_samples
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

FILE = "report.html"
_BARS = 16  # modules that are shown before the rest is folded


@dataclass(frozen=True)
class Sensitivity:
    """An attention module's mean gradient norm, and its share of the largest one's."""

    module: str
    norm: float
    share: float


def write_report(store: Store, spec: JobSpec, tensors: Store | None = None) -> None:
    """Write report.html of the finished run in `store`. A run is not failed by what its report lacks.

    `tensors` is where its songs are, if not in the output.
    """
    try:
        store.write_bytes(FILE, page(store, spec, tensors).encode(errors="backslashreplace"))
    except (BadDataError, MissingInputError) as error:
        log.warning("%s is not written: %s", FILE, error)


def page(store: Store, spec: JobSpec, tensors: Store | None = None) -> str:
    """The HTML. Raises MissingInputError or BadDataError where the output lacks what a finished run has."""
    receipt, history = read_receipt(store), read_history(store)
    return template("report").render(
        receipt=receipt,
        dataset=_dataset(tensors or store.child("tensors")),
        songs=history.songs,
        trained=[song for song in history.songs if not song.held_out],
        place=store.place,
        hours=sum(song.seconds for song in history.songs if not song.held_out) / 3600,
        advice=advice_of(receipt.validation, receipt.checkpoint) if receipt.validation else None,
        judged=receipt.validation,
        levels=_levels(receipt.validation, history) if receipt.validation else [],
        held_out=_held_out(receipt.validation, history) if receipt.validation else [],
        charts=_charts(history, receipt.validation),
        losses=receipt.loss_on_fixed_draws,
        sensitivities=_sensitivities(store, receipt.inputs),
        bars=_BARS,
        settings=_settings(spec),
        calibration=_calibration(store),
        heard=_heard(store),
    )


@dataclass(frozen=True)
class Sound:
    """A sound beside the page, and its picture; "" where there is none."""

    name: str
    file: str
    picture: str


@dataclass(frozen=True)
class Heard:
    """What the run has made of a prompt while it trained, in its order."""

    prompt: Prompt
    sounds: list[Sound]


def _heard(store: Store) -> list[Heard]:
    """The sounds that are there. A page without them is better than none."""
    folder = store.child(WHILE_TRAINING)
    try:
        samples = read_samples(folder)
        there = {file.path for file in folder.list_files()} if samples else set()
    except (AccessError, BadDataError, StorageError) as error:
        log.warning("sounds are not shown: %s", error)
        return []
    takes = [take for take in samples.takes if take.file in there] if samples else []
    found = [
        Heard(prompt, [_sound(take, there) for take in takes if take.prompt == number])
        for number, prompt in enumerate(samples.prompts if samples else [])
    ]
    return [heard for heard in found if heard.sounds]


def _sound(take: Take, there: Collection[str]) -> Sound:
    picture = picture_of(take.file)
    return Sound(
        name=(take.checkpoint or "base model").removeprefix("checkpoint-").replace("-", " "),
        file=f"{WHILE_TRAINING}/{take.file}",
        picture=f"{WHILE_TRAINING}/{picture}" if picture in there else "",
    )


def _calibration(store: Store) -> Calibration | None:
    try:
        return read_calibration(store)
    except BadDataError as error:
        log.warning("strengths are not shown: %s", error)
        return None


def _dataset(tensors: Store) -> dict[str, str]:
    """What preprocessing said of the songs; nothing for tensors of others, or out of reach by now."""
    try:
        survey = read_survey(tensors)
    except (AccessError, StorageError) as error:
        log.warning("what the dataset is, is not shown: %s", error)
        return {}
    return in_words(survey) if survey else {}


@dataclass(frozen=True)
class Compared:
    """The held-out loss of a noise level or a song: at the start, at its best, at the end."""

    name: str
    losses: list[float | None]


def _steps(found: Validation) -> list[int]:
    best = [found.best.step] if found.best else []
    return list(dict.fromkeys([found.first.step, *best, found.last.step]))


def _levels(found: Validation, history: History) -> list[Compared]:
    made = [history.validations[step].by_level for step in _steps(found) if step in history.validations]
    return [Compared(level, [losses.get(level) for losses in made]) for level in (made[0] if made else ())]


def _held_out(found: Validation, history: History) -> list[Compared]:
    made = [history.validations[step].by_song for step in _steps(found) if step in history.validations]
    return [Compared(name, list(losses)) for name, *losses in zip(history.held_out, *made, strict=False)]


def _judged(history: History, found: Validation | None) -> Chart | None:
    """Losses of held-out and of trained songs by step, with the best marked."""
    if found is None:
        return None
    made = history.validations
    lines = [
        Line("trained", "songs that it trains on", {step: at.trained for step, at in made.items()}),
        Line("raw", "held-out songs", {step: at.held_out for step, at in made.items()}),
        Line(
            "smooth",
            f"held-out songs, mean of {found.window} validations",
            {step: at.smoothed for step, at in made.items() if step},
        ),
    ]
    if found.best:
        label = f"the best, after step {found.best.step}"
        lines.append(Line("best", label, {found.best.step: found.best.smoothed}))
    return chart("Loss on held-out songs, and on songs that it trains on: lower is better", lines)


def _charts(history: History, found: Validation | None = None) -> list[Chart]:
    loss = [
        Line("raw", "each step", history.losses),
        Line("smooth", "running mean", history.running_mean),
    ]
    rate = [Line("smooth", "learning rate", history.learning_rates)]
    made = [_judged(history, found), chart("Loss", loss, history.evaluations), chart("Learning rate", rate)]
    return [one for one in made if one]


def _sensitivities(store: Store, inputs: Inputs) -> list[Sensitivity]:
    """The attention modules, the most sensitive first; empty if there is no estimate of this dataset."""
    own = estimate_of(inputs.dataset_content or "")
    try:
        ranking = read_ranking(store, own if inputs.dataset_content and store.stat(own) else ESTIMATE)
    except MissingInputError:
        return []
    norms = ranking.norms if ranking.recipe.get("dataset", inputs.dataset) == inputs.dataset else {}
    most = max(norms.values(), default=0) or 1.0
    return [Sensitivity(module, norm, norm / most) for module, norm in norms.items()]


def _settings(spec: JobSpec) -> dict[str, dict[str, str]]:
    """The resolved spec by section, each setting in one line."""
    sections: dict[str, dict[str, str]] = {"job": {}}
    for key, value in spec.model_dump(mode="json").items():
        if isinstance(value, dict):
            sections[key] = dict(_flat(value))
        else:
            sections["job"][key] = _text(value)
    return sections


def _flat(section: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in section.items():
        rows += _flat(value, f"{above}{key}.") if isinstance(value, dict) else [(above + key, _text(value))]
    return rows


def _text(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(str(item) for item in value) or "–"
        case _:
            return str(value)
