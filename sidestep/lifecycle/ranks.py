"""Ranks from an estimate: read where a run begins, and frozen in its checkpoints from then on.

Nothing here needs torch.
"""

import logging
import posixpath
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from sidestep.acestep.layout import ALIASES
from sidestep.acestep.shapes import decoder_shapes
from sidestep.config.adapter import OWN_ESTIMATE, AdapterSpec
from sidestep.config.job import JobSpec
from sidestep.config.ranks import ranks_by_norm
from sidestep.config.targets import chosen, target_names
from sidestep.data.index import content_digest
from sidestep.data.preprocessed import Preprocessed
from sidestep.lifecycle.job import Job
from sidestep.report.contents import ESTIMATE, Ranking, estimate_of, read_ranking
from sidestep.runtime.errors import (
    AccessError,
    BadDataError,
    BadSpecError,
    MissingInputError,
    SideStepError,
    StorageError,
)
from sidestep.runtime.parsing import Number, as_kind
from sidestep.runtime.words import counted
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from sidestep.training.numbers import Numbers

log = logging.getLogger(__name__)


class Ranks(BaseModel):
    """What an estimate has made of an adapter's modules, as the run's fingerprint has it."""

    rank_from: str  # the digest of the estimate's norms
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, Number]

    def of(self, adapter: AdapterSpec) -> AdapterSpec:
        """The adapter with these ranks, as if they had been written out."""
        patterns = {"rank_pattern": self.rank_pattern, "alpha_pattern": self.alpha_pattern}
        return adapter.model_copy(update={"rank_from": None, **patterns})


def frozen_ranks(before: Numbers | None) -> Ranks | None:
    """Those that the run began with; None where it has no checkpoint, or its ranks are from no estimate.

    Raises BadDataError where they are damaged.
    """
    adapter = before.recipe.get("train.adapter") if before else None
    if not isinstance(adapter, dict) or not adapter.get("rank_from"):
        return None
    return as_kind(Ranks, {key: adapter.get(key) for key in Ranks.model_fields}, "the run's recipe")


def find_ranking(job: Job) -> Ranking:
    """The estimate that `rank_from` names: this dataset's own where an output has several.

    Raises MissingInputError where there is none, BadDataError where it is damaged, and what a store raises.
    """
    store, path = _named(job)
    own = estimate_of(_content(job))
    return _sound(store, own if path == ESTIMATE and store.stat(own) else path)


def check_estimate(job: Job) -> str | None:
    """Where the estimate is that a new run will take its ranks from, once it is sure that it can be read.

    None where none is to be read: the spec names none, the run has its ranks, or the job makes it first.
    """
    place = job.spec.train.adapter.rank_from
    if not place or (place == OWN_ESTIMATE and job.spec.task == "pipeline") or job.commits.tail():
        return None
    store, path = _named(job)
    return f"{counted(len(_sound(store, path).modules), 'modules')} in {store.place}/{path}"


def _named(job: Job) -> tuple[Store, str]:
    """The place of the estimate that `rank_from` names, and the report's path in it."""
    place = job.spec.train.adapter.rank_from
    assert place, "asked for where the spec names one"
    if place == OWN_ESTIMATE:
        return job.output_store, ESTIMATE
    if place.endswith(".json"):
        folder, name = posixpath.split(place)
        return open_store(folder or ".", job.spec.storage), name
    return open_store(place, job.spec.storage), ESTIMATE


def _sound(store: Store, path: str) -> Ranking:
    ranking = read_ranking(store, path)
    if ranking.sha256 not in ("", ranking.digest()) or not ranking.modules:
        raise BadDataError(f"{store.place}/{path} is not as it was written: make the estimate again")
    return ranking


def ranks_from(ranking: Ranking, adapter: AdapterSpec, shapes: Mapping[str, tuple[int, int]]) -> Ranks:
    """The ranks of the modules that `adapter` is for; `shapes` are [out, in] by path, of all that there are.

    An estimate is of the attention: other modules keep the common rank. alpha / rank is the same everywhere.

    Raises BadSpecError where the estimate lacks a module, or has none of those that are trained.
    """
    paths = chosen(list(shapes), target_names(adapter))
    measured = {path: shapes[path] for path in paths if "_attn." in path}
    if not measured:
        raise BadSpecError(
            "rank_from: an estimate is of q_proj, k_proj, v_proj and o_proj, and target_modules names none"
        )
    norms = ranking.norms
    if missing := [path for path in measured if path not in norms]:
        raise BadSpecError(
            f"rank_from: the estimate lacks {counted(len(missing), 'modules')}, first {missing[0]}: it is of "
            "another model; make one of this model_variant"
        )
    ranks = ranks_by_norm(norms, measured, adapter.rank)
    others = {path: rank for path, rank in ranks.items() if rank != adapter.rank}
    return Ranks(
        rank_from=content_digest({path: repr(norm) for path, norm in norms.items()}),
        rank_pattern=others,
        alpha_pattern={path: adapter.alpha * rank / adapter.rank for path, rank in others.items()},
    )


def with_known_ranks(job: Job, config: Mapping[str, Any]) -> JobSpec:
    """The spec with the ranks of its estimate written out, for a plan; as it is where that cannot be read.

    `config` is the model's config.json.
    """
    spec = job.spec
    if not spec.train.adapter.rank_from:
        return spec
    shapes = {
        name.removeprefix("decoder.").removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in decoder_shapes(config).items()
        if name.endswith("_proj.weight")
    }
    try:
        adapter = ranks_from(find_ranking(job), spec.train.adapter, shapes).of(spec.train.adapter)
    except (AccessError, BadDataError, MissingInputError, StorageError) as error:
        log.info(
            "Planned at rank %d for all modules, as the estimate cannot be read: %s",
            spec.train.adapter.rank,
            error,
        )
        return spec
    return spec.model_copy(update={"train": spec.train.model_copy(update={"adapter": adapter})})


def warn_of_another(job: Job, ranking: Ranking) -> None:
    """Say where an estimate was made of other songs, or with another model."""
    now = {
        "dataset_content": _content(job),
        "model_variant": ALIASES.get(job.spec.model_variant, job.spec.model_variant),
    }
    differing = [key for key, value in now.items() if ranking.recipe.get(key, value) != value]
    if differing:
        log.warning(
            "The estimate that train.adapter.rank_from names was made with another %s: its ranks are used as "
            "they are",
            " and ".join(differing),
        )


def say_what_is_kept(job: Job, kept: Ranks) -> None:
    """Say where the estimate that a run began with is another one by now, or gone: its ranks stay."""
    try:
        now = content_digest({path: repr(norm) for path, norm in find_ranking(job).norms.items()})
    except SideStepError as error:
        log.info("The run keeps the ranks that it began with; their estimate cannot be read: %s", error)
        return
    if now != kept.rank_from:
        log.warning(
            "The estimate that train.adapter.rank_from names has changed: the run keeps the ranks that it "
            "began with; another output_dir would take the new ones"
        )


def _content(job: Job) -> str:
    """The digest of what is in the tensors, as an estimate takes it."""
    dataset = Preprocessed(job.tensors)
    written = dataset.written
    return content_digest({file.path: written.get(file.path, file.version) for file in dataset.files()})
