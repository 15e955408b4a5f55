"""The estimate task: rank the attention modules by how much the dataset moves them."""

import hashlib
import logging
from dataclasses import replace
from typing import Any

from sidestep.acestep.layout import ALIASES, find_variant
from sidestep.commitlog.leftovers import clear_abandoned
from sidestep.config.job import JobSpec
from sidestep.config.schema import RuntimeSpec
from sidestep.config.training import ATTENTION_MODULES
from sidestep.data.index import (
    Index,
    content_digest,
    dataset_digest,
    dataset_files,
    read_index,
    written_digests,
)
from sidestep.data.keys import digests_of, weights_digest
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.reporter import Reporter
from sidestep.report.contents import ESTIMATE as REPORT
from sidestep.report.contents import Module, Ranking, read_ranking
from sidestep.runtime.canonical import json_bytes, png_bytes
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from sidestep.tasks.setup import prepare_setup, sampling_config
from sidestep.training import rng
from sidestep.training.machine import choose_machine
from sidestep.training.sensitivity import attention_weights, draw_batches, mean_gradient_norms

log = logging.getLogger(__name__)

PICTURE = "estimate/report.png"
SINCE_DIGESTS = ("dataset_content", "weights")
"""What reports of older versions do not say: they count as made of what is there."""


def estimate(job: Job, reporter: Reporter) -> dict[str, float]:
    """Write `estimate/report.json` and `report.png`, show the table; the mean gradient norm by module.

    Modules are named as --target-modules takes them, most sensitive first. A report that is there and
    was made from the same songs, model and settings is shown again, not made again.
    """
    spec, store = job.spec, job.output_store
    clear_abandoned(store)
    recipe = _recipe(job)
    norms = _earlier_norms(store, recipe)
    if norms is None:
        reporter.begin("estimate")
        norms = _measure(job)
        picture = png_bytes(_picture(norms, spec))
        store.write_bytes(PICTURE, picture)
        modules = [Module(module=module, norm=norm) for module, norm in norms.items()]
        ranking = Ranking(recipe=recipe, modules=modules, picture=hashlib.sha256(picture).hexdigest())
        ranking.sha256 = ranking.digest()
        store.write_bytes(REPORT, json_bytes(ranking.model_dump(mode="json")))
    elif not _picture_is_sound(store):
        store.write_bytes(PICTURE, png_bytes(_picture(norms, spec)))
    _show(norms, spec, store.place)
    return norms


def report(spec: JobSpec) -> dict[str, Any]:
    """The ranking that the output has: every module with its norm, most sensitive first."""
    return read_ranking(open_store(spec.output_place, spec.storage)).model_dump(mode="json")


def _recipe(job: Job) -> dict[str, Any]:
    """All that decides the ranking."""
    spec = job.spec
    train = spec.train.model_dump(include={"seed", "timestep_mu", "timestep_sigma", "chunk_duration"})
    files, written = dataset_files(job.tensors), written_digests(job.tensors)
    return {
        "dataset": dataset_digest(files),
        # Of files without a digest, their version: what is estimated once more comes to no harm.
        "dataset_content": content_digest(
            {file.path: written.get(file.path, file.version) for file in files}
        ),
        "weights": _weights(job),
        "model_variant": ALIASES.get(spec.model_variant, spec.model_variant),
        "batches": spec.estimate.batches,
        **train,
    }


def _weights(job: Job) -> str:
    """A digest of the model, which is not read for it where the tensors' index knows its files."""
    store, known = job.checkpoints, read_index(job.tensors) or Index()
    part = find_variant(store, job.spec.model_variant)
    return weights_digest(part, digests_of(store, part.files, known, job.workspace, part.folder))


def _earlier_norms(store: Store, recipe: dict[str, Any]) -> dict[str, float] | None:
    """The ranking that the output already has, where it is this one."""
    if store.stat(REPORT) is None:
        return None
    try:
        ranking = read_ranking(store)
        if ranking.sha256 not in ("", ranking.digest()):
            raise BadDataError("it is not as it was written")
        known = {key: recipe[key] for key in recipe if key in ranking.recipe or key not in SINCE_DIGESTS}
        if ranking.recipe == known and ranking.modules:
            log.info("Already estimated: %s/%s", store.place, REPORT)
            return ranking.norms
    except BadDataError as error:
        log.warning("%s/%s is damaged and is made again: %s", store.place, REPORT, error)
    return None


def _picture_is_sound(store: Store) -> bool:
    try:
        digest = hashlib.sha256(store.read_small(PICTURE)).hexdigest()
    except (BadDataError, MissingInputError):
        return False
    return read_ranking(store).picture in ("", digest)


def _measure(job: Job) -> dict[str, float]:
    """Gradient norms over `estimate.batches` songs, as in corrected training without dropout."""
    spec = job.spec
    setup = prepare_setup(job, choose_machine(_without_fp16(spec.runtime)))
    sampling = sampling_config(spec, setup.model.config, setup.machine.dtype)
    seed = rng.key(sampling.seed, "estimate")
    sampling = replace(sampling, mode="corrected", cfg_dropout=0.0, seed=seed)
    transformer = setup.model.transformer
    transformer.enable_gradient_checkpointing()
    module = setup.machine.fabric().setup_module(transformer)
    batches = draw_batches(
        setup.samples, setup.null_condition, sampling, spec.estimate.batches, setup.machine.device
    )
    norms = mean_gradient_norms(module, attention_weights(transformer), batches)
    # Equal norms keep the model's own order.
    return dict(sorted(norms.items(), key=lambda item: -item[1]))


def _without_fp16(runtime: RuntimeSpec) -> RuntimeSpec:
    """fp16 takes a scaler whose scale is found while training; norms of unscaled gradients would be wrong."""
    if runtime.precision != "fp16":
        return runtime
    log.info("Estimating in fp32: fp16 is for training")
    return runtime.model_copy(update={"precision": "fp32"})


def _show(norms: dict[str, float], spec: JobSpec, place: str) -> None:
    """The ranking as a table, and the line that trains the best of it."""
    best = list(norms)[: spec.estimate.top_k]
    width = max(len(module) for module in best)
    top = norms[best[0]] or 1.0
    rows = [
        f"  {rank:>3}  {module:<{width}}  {norms[module]:<10.4g}  {'▇' * round(20 * norms[module] / top)}"
        for rank, module in enumerate(best, start=1)
    ]
    log.info(
        "Most sensitive of %d attention modules, by mean gradient norm:\n%s", len(norms), "\n".join(rows)
    )
    log.info("Report: %s/%s and report.png", place, REPORT)
    log.info("To train these: --target-modules %s", " ".join(best))


def _picture(norms: dict[str, float], spec: JobSpec) -> Any:
    """A map of layers × modules, dark where the dataset moves the model most."""
    from matplotlib.figure import Figure

    columns = [f"{kind}_attn.{name}" for kind in ("self", "cross") for name in ATTENTION_MODULES]
    layers = 1 + max(int(module.split(".")[1]) for module in norms)
    values = [[norms[f"layers.{layer}.{column}"] for column in columns] for layer in range(layers)]
    figure = Figure(figsize=(8, 2.5 + 0.28 * layers), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, aspect="auto", cmap="viridis_r")
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    axes.set_yticks(range(layers), [f"layer {layer}" for layer in range(layers)])
    axes.set_title(f"{spec.name}: mean gradient norm over {spec.estimate.batches} batches")
    figure.colorbar(image, label="gradient norm")
    return figure
