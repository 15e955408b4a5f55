"""The estimate task: rank the attention modules by how much the dataset moves them."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import sqrt
from typing import Any

from sidestep.acestep.layout import ALIASES, find_variant
from sidestep.commitlog.leftovers import clear_abandoned
from sidestep.config.adapter import ATTENTION_MODULES
from sidestep.config.job import JobSpec
from sidestep.config.schema import RuntimeSpec
from sidestep.data.index import (
    Index,
    content_digest,
    dataset_digest,
)
from sidestep.data.keys import digests_of, weights_digest
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.sides import Sides
from sidestep.lifecycle.adapter_files import digest_of, find_adapter
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.reporter import Reporter
from sidestep.lifecycle.resume import sides_of_run
from sidestep.report.contents import ESTIMATE as REPORT
from sidestep.report.contents import Layer, Module, Ranking, estimate_of, read_ranking
from sidestep.runtime.canonical import json_bytes, png_bytes
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.lean import import_diffusers
from sidestep.storage.open import open_store
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

DARK = 0.5  # shades above it hold white numbers
SINCE_DIGESTS = ("dataset_content", "weights")
"""What reports of older versions do not say: they count as made of what is there."""


def estimate(job: Job, reporter: Reporter) -> dict[str, float]:
    """Write `report.json` and `report.png`, show the table; the mean gradient norm by module.

    Each dataset has a folder of its own below `estimate/`; the newest report is in `estimate/` itself, too.
    Modules are named as --target-modules takes them, most sensitive first. A report that is there and
    was made from the same songs, model and settings is shown again, not made again.
    """
    spec, store = job.spec, job.output_store
    clear_abandoned(store)
    frozen = sides_of_run(job.commits)
    dataset = Preprocessed(job.tensors)
    recipe = _recipe(job, dataset) | _held_out(job, frozen)
    own = estimate_of(recipe["dataset_content"])
    ranking = _earlier(store, recipe, own)
    if ranking is None:
        reporter.begin("estimate")
        norms, sides = _measure(job, dataset, frozen)
        recipe |= {"sides": sides.digest} if sides else {}
        modules = [Module(module=module, norm=norm) for module, norm in norms.items()]
        layers = [Layer(layer=layer, norm=norm) for layer, norm in by_layer(norms).items()]
        ranking = Ranking(recipe=recipe, modules=modules, layers=layers)
    _keep(store, ranking, spec, own)
    _show(ranking.norms, spec, f"{store.place}/{own}")
    return ranking.norms


def report(spec: JobSpec) -> dict[str, Any]:
    """The ranking that the output has: every module with its norm, most sensitive first."""
    return read_ranking(open_store(spec.output_place, spec.storage)).model_dump(mode="json")


def _recipe(job: Job, dataset: Preprocessed) -> dict[str, Any]:
    """All that decides the ranking."""
    spec = job.spec
    train = spec.train.model_dump(include={"seed", "timestep_mu", "timestep_sigma", "chunk_duration"})
    files, written = dataset.files(), dataset.written
    return {
        "dataset": dataset_digest(files),
        # Of files without a digest, their version: what is estimated once more comes to no harm.
        "dataset_content": content_digest(
            {file.path: written.get(file.path, file.version) for file in files}
        ),
        "weights": _weights(job, dataset),
        "model_variant": ALIASES.get(spec.model_variant, spec.model_variant),
        "batches": spec.estimate.batches,
        **train,
    }


def _held_out(job: Job, frozen: Sides | None) -> dict[str, Any]:
    """What decides which songs are left out; nothing where none can be. `frozen` is what the run has."""
    train, decided = job.spec.train, dict[str, Any]()
    if train.validation.is_on or train.init_from:
        validation = train.validation.model_dump(mode="json", include={"share", "songs"})
        decided["validation"] = {**validation, "init_from": _first_adapter(job)}
    if frozen:
        decided["sides"] = frozen.digest
    return decided


def _first_adapter(job: Job) -> str:
    """The digest of the adapter that the training begins from, which may say what was held out of its own."""
    place = job.spec.train.init_from
    return digest_of(find_adapter(place, job.spec.storage).pull(job.workspace)) if place else ""


def _is_same(found: Mapping[str, Any], recipe: Mapping[str, Any]) -> bool:
    """Whether a report was made by this recipe. Once a run has checkpoints, they say who is held out; before,
    the settings do, as the songs are not read for it."""
    other = "validation" if "sides" in recipe else "sides"
    known = {key: recipe[key] for key in recipe if key in found or key not in SINCE_DIGESTS}
    return {**found, other: None} == {**known, other: None}


def _weights(job: Job, dataset: Preprocessed) -> str:
    """A digest of the model, which is not read for it where the tensors' index knows its files."""
    store, known = job.checkpoints, dataset.index or Index()
    part = find_variant(store, job.spec.model_variant)
    return weights_digest(part, digests_of(store, part.files, known, job.workspace, part.folder))


def _earlier(store: Store, recipe: dict[str, Any], own: str) -> Ranking | None:
    """The ranking that the output already has, where it is this one: the dataset's own, or in an output of an
    older version the only one."""
    for path in (own, REPORT):
        if store.stat(path) is None:
            continue
        try:
            ranking = read_ranking(store, path)
            if ranking.sha256 not in ("", ranking.digest()):
                raise BadDataError("it is not as it was written")
            if _is_same(ranking.recipe, recipe) and ranking.modules:
                log.info("Already estimated: %s/%s", store.place, path)
                return ranking
        except BadDataError as error:
            log.warning("%s/%s is damaged and is made again: %s", store.place, path, error)
    return None


def _keep(store: Store, ranking: Ranking, spec: JobSpec, own: str) -> None:
    """Write the report and its picture as the dataset's own and as the newest, where they are not there."""
    pictures = (_content(store, _picture_of(path)) for path in (own, REPORT))
    sound = (data for data in pictures if data and ranking.picture == hashlib.sha256(data).hexdigest())
    picture = next(sound, None) or png_bytes(_picture(ranking.norms, spec))
    ranking.picture = hashlib.sha256(picture).hexdigest()
    ranking.sha256 = ranking.digest()
    report = json_bytes(ranking.model_dump(mode="json"))
    for path in (own, REPORT):
        for name, data in ((_picture_of(path), picture), (path, report)):
            if _content(store, name) != data:
                store.write_bytes(name, data)


def _picture_of(report: str) -> str:
    return report.removesuffix(".json") + ".png"


def _content(store: Store, name: str) -> bytes | None:
    try:
        return store.read_small(name)
    except (BadDataError, MissingInputError):
        return None


def _measure(job: Job, dataset: Preprocessed, frozen: Sides | None) -> tuple[dict[str, float], Sides | None]:
    """Gradient norms over `estimate.batches` songs, as in corrected training without dropout; and which songs
    are left out of it, as the training is not to know of them. `frozen` is what the run has."""
    # Here, as what was estimated before is known without them.
    import_diffusers()
    from sidestep.tasks.first_adapter import find_first_adapter
    from sidestep.tasks.setup import prepare_setup, sampling_config
    from sidestep.training import rng
    from sidestep.training.machine import choose_machine
    from sidestep.training.sensitivity import attention_weights, draw_batches, mean_gradient_norms

    spec = job.spec
    taken_over = frozen or find_first_adapter(job, None).sides(spec.train.validation)
    setup = prepare_setup(job, dataset, choose_machine(_without_fp16(spec.runtime)), sides=taken_over)
    sampling = sampling_config(spec, setup.model.config, setup.machine.dtype)
    seed = rng.key(sampling.seed, "estimate")
    sampling = replace(sampling.as_captioned(seed), mode="corrected")
    transformer = setup.model.transformer
    transformer.enable_gradient_checkpointing()
    module = setup.machine.fabric().setup_module(transformer)
    batches = draw_batches(
        setup.trained, setup.null_condition, sampling, spec.estimate.batches, setup.machine.device
    )
    norms = mean_gradient_norms(module, attention_weights(transformer), batches)
    # Equal norms keep the model's own order.
    return dict(sorted(norms.items(), key=lambda item: -item[1])), setup.sides


def _without_fp16(runtime: RuntimeSpec) -> RuntimeSpec:
    """fp16 takes a scaler whose scale is found while training; norms of unscaled gradients would be wrong."""
    if runtime.precision != "fp16":
        return runtime
    log.info("Estimating in fp32: fp16 is for training")
    return runtime.model_copy(update={"precision": "fp32"})


def by_layer(norms: Mapping[str, float]) -> dict[str, float]:
    """The norm of each layer's modules together, the root of the sum of their squares; the largest first."""
    squares: dict[str, float] = {}
    for module, norm in norms.items():
        layer = ".".join(module.split(".")[:2])
        squares[layer] = squares.get(layer, 0.0) + norm**2
    return dict(sorted(((layer, sqrt(sum_)) for layer, sum_ in squares.items()), key=lambda item: -item[1]))


def _show(norms: Mapping[str, float], spec: JobSpec, report: str) -> None:
    """The ranking as a table, and the line that trains the best of it."""
    ranked = norms if spec.estimate.granularity == "module" else by_layer(norms)
    best = list(ranked)[: spec.estimate.top_k]
    width = max(len(name) for name in best)
    top = ranked[best[0]] or 1.0
    rows = [
        f"  {rank:>3}  {name:<{width}}  {ranked[name]:<10.4g}  {'▇' * round(20 * ranked[name] / top)}"
        for rank, name in enumerate(best, start=1)
    ]
    what = "attention modules" if ranked is norms else "layers"
    log.info("Most sensitive of %d %s, by mean gradient norm:\n%s", len(ranked), what, "\n".join(rows))
    log.info("Report: %s and report.png", report)
    targets = [module for name in best for module in norms if f"{module}.".startswith(f"{name}.")]
    log.info("To train these: --target-modules %s", " ".join(targets))


def _picture(norms: Mapping[str, float], spec: JobSpec) -> Any:
    """A table of layers × modules, and of layers as a whole: dark where the dataset moves the model most.

    Each column has a colour scale of its own, from its smallest norm to its largest: norms of weights of
    different shapes compare badly. The numbers are the norms.
    """
    from matplotlib.figure import Figure

    columns = [f"{kind}_attn.{name}" for kind in ("self", "cross") for name in ATTENTION_MODULES]
    whole = by_layer(norms)
    layers = sorted(whole, key=lambda layer: int(layer.split(".")[1]))
    values = [[*(norms[f"{layer}.{column}"] for column in columns), whole[layer]] for layer in layers]
    figure = Figure(figsize=(9, 2.5 + 0.28 * len(layers)), layout="constrained")
    axes = figure.subplots()
    shades = list(zip(*(_shades(column) for column in zip(*values, strict=True)), strict=True))
    axes.imshow(shades, aspect="auto", cmap="viridis_r", vmin=0, vmax=1)
    for row, norms_of_layer in enumerate(values):
        for column, norm in enumerate(norms_of_layer):
            colour = "white" if shades[row][column] > DARK else "black"
            axes.text(column, row, f"{norm:.3g}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(columns) + 1), [*columns, "whole layer"], rotation=35, ha="right")
    axes.set_yticks(range(len(layers)), [layer.replace("layers.", "layer ") for layer in layers])
    axes.set_title(
        f"{spec.name}: mean gradient norm over {spec.estimate.batches} batches, shaded within each column"
    )
    return figure


def _shades(norms: Sequence[float]) -> list[float]:
    """Where each is between the smallest (0) and the largest (1)."""
    least, range_ = min(norms), max(norms) - min(norms)
    return [(norm - least) / range_ if range_ else 0.0 for norm in norms]
