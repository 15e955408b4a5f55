"""report.html, made of the output of a finished run alone, so that it can be made again at any time."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from sidestep.config.job import JobSpec
from sidestep.data.survey import in_words, read_survey
from sidestep.report.charts import Chart, Line, chart
from sidestep.report.contents import (
    ESTIMATE,
    History,
    Inputs,
    estimate_of,
    read_history,
    read_ranking,
    read_receipt,
)
from sidestep.runtime.errors import AccessError, BadDataError, MissingInputError, StorageError
from sidestep.runtime.words import duration
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
    return _template().render(
        receipt=receipt,
        dataset=_dataset(tensors or store.child("tensors")),
        songs=history.songs,
        place=store.place,
        hours=sum(song.seconds for song in history.songs) / 3600,
        charts=_charts(history),
        losses=receipt.loss_on_fixed_draws,
        sensitivities=_sensitivities(store, receipt.inputs),
        bars=_BARS,
        settings=_settings(spec),
    )


def _dataset(tensors: Store) -> dict[str, str]:
    """What preprocessing said of the songs; nothing for tensors of others, or out of reach by now."""
    try:
        survey = read_survey(tensors)
    except (AccessError, StorageError) as error:
        log.warning("what the dataset is, is not shown: %s", error)
        return {}
    return in_words(survey) if survey else {}


def _charts(history: History) -> list[Chart]:
    loss = [
        Line("raw", "each step", history.losses),
        Line("smooth", "running mean", history.running_mean),
    ]
    rate = [Line("smooth", "learning rate", history.learning_rates)]
    made = [chart("Loss", loss, history.evaluations), chart("Learning rate", rate)]
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


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("sidestep.report", "."),
        autoescape=True,  # names and captions of songs may hold anything
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    environment.filters["words"] = lambda key: re.sub(r"[_.]", " ", key)
    return environment.get_template("report.html.jinja")
