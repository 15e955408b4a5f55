"""A range test: the learning rate that trains these songs, found on copies in a few dozen steps."""

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from sidestep.acestep.quantized import check_quantization
from sidestep.config.job import JobSpec
from sidestep.config.optimizers import OPTIMIZERS
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.sides import Song, by_hash
from sidestep.lifecycle.job import Job
from sidestep.runtime.canonical import json_bytes, png_bytes
from sidestep.runtime.errors import BadSpecError
from sidestep.runtime.progress import track
from sidestep.tasks.first_adapter import find_first_adapter
from sidestep.tasks.setup import TrainingSetup, prepare_setup, sampling_config
from sidestep.tasks.trainer import build_trainer
from sidestep.training import rng
from sidestep.training.dataset import Chosen
from sidestep.training.flow import flow_loss
from sidestep.training.loop import Trainer
from sidestep.training.machine import choose_machine
from sidestep.training.optimizer import build_optimizer, check_optimizer
from sidestep.training.ramp import HIGHEST, LOWEST, Curve, Ramp, Suggestion, agreed, suggest
from sidestep.training.validation import Validator

log = logging.getLogger(__name__)

FOLDER = "lr-find"
SEEDS = 3
SONGS, DRAWS = 4, 8
"""That each measurement takes losses of, at most."""
MEASURED_EVERY = 2  # steps
LOST = 4.0  # times the loss before the first step: what comes after it is not worth its time


@dataclass(frozen=True)
class Found:
    """What a range test has found."""

    suggestion: Suggestion
    curves: list[Curve]
    measured_on: str
    report: str  # its place


def check_rate_is_sought(spec: JobSpec) -> None:
    """Raise BadSpecError where the optimizer finds the rate itself: there is nothing to look for."""
    name = spec.train.optimizer_type
    if OPTIMIZERS[name].lr >= 1:
        raise BadSpecError(
            f"train.optimizer_type is {name}, which finds the learning rate itself while it trains: a range "
            f"test has nothing to tell it\n  leave train.lr out, or choose another optimizer, such as adamw"
        )


def lr_find(job: Job, steps: int) -> Found:
    """Train `steps` steps at rising rates, once for each of SEEDS, and report what the loss does meanwhile.

    All of it happens to a copy in memory. Nothing is written but the report, once all is known.

    Raises what training raises, and BadSpecError for an optimizer that finds the rate itself.
    """
    spec = job.spec
    check_rate_is_sought(spec)
    check_optimizer(spec.train)
    check_quantization(spec.train.quantize)
    spec = spec.changed({"train.epochs": steps, "train.max_steps": steps, "train.stop": {}})
    first = find_first_adapter(job, None)
    setup = prepare_setup(
        *(job, Preprocessed(job.tensors), choose_machine(spec.runtime)),
        sides=first.sides(spec.train.validation),
        quantize=spec.train.quantize,
        swapped=spec.train.block_swap,
    )
    trainer = build_trainer(spec, setup, job.preemption, first)
    measure, measured_on = _measure(spec, setup, trainer)
    log.info("Range test from %g to %g, in %d steps, with %d seeds", LOWEST, HIGHEST, steps, SEEDS)
    log.info("The loss is taken on %s", measured_on)
    parameters = trainer.adapter.parameters()
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    curves = []
    with track("Range test", total=SEEDS * steps, unit="steps") as bar:
        for number in range(SEEDS):
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(start[name])
            curves.append(_ramp(spec, trainer, number, measure, bar.advance))
    found = Found(agreed([suggest(curve) for curve in curves]), curves, measured_on, _place(job))
    _write(job, found)
    return found


def _measure(spec: JobSpec, setup: TrainingSetup, trainer: Trainer) -> tuple[Callable[[], float], str]:
    """What takes the loss, and what it is taken on: held-out songs, or else some of those trained on."""
    samples, songs = setup.samples, setup.samples.songs
    if setup.sides:
        held_out = setup.sides.are_held_out(songs)
        chosen = by_hash(songs, [number for number, is_out in enumerate(held_out) if is_out])[:SONGS]
        what = "held-out songs"
    else:
        songs = [Song(facts.name, f"{number}") for number, facts in enumerate(samples.facts)]
        chosen, what = list(range(len(songs)))[:SONGS], "songs that are trained on, as none is held out"
    sampling = sampling_config(spec, setup.model.config, setup.machine.dtype)
    validator = Validator(
        *(Chosen(samples, chosen), [songs[number] for number in chosen], [True] * len(chosen)),
        *(sampling, DRAWS),
    )

    @torch.no_grad()
    def measure() -> float:
        trainer.model.eval()
        batches = validator.batches(setup.null_condition, trainer.fabric.device)
        return float(torch.stack([flow_loss(trainer.model, batch) for batch in batches]).mean())

    return measure, f"{len(chosen)} {what}"


def _ramp(
    spec: JobSpec,
    trainer: Trainer,
    number: int,
    measure: Callable[[], float],
    advance: Callable[[float], object],
) -> Curve:
    """One ramp over songs, noise and timesteps of a seed of its own, until the loss is lost."""
    seed = rng.key(spec.train.seed, "range test", number)
    trainer.sampling = replace(trainer.sampling, seed=seed)
    trainer.schedule = Ramp.of(spec.train.model_copy(update={"seed": seed}), len(trainer.samples))
    fused = bool(trainer.optimizer.defaults.get("fused"))
    trainer.optimizer = build_optimizer(trainer.adapter, spec.train, fused=fused)
    before = measure()
    rates: list[float] = []
    losses: list[float] = []
    for step in range(trainer.schedule.total_steps):
        made = trainer.step(step)
        assert made is not None, "notice ends this at once"
        advance(1)
        if made.step % MEASURED_EVERY == 0 or not made.is_finite:
            rates.append(made.lr)
            losses.append(measure() if made.is_finite else math.nan)
            if not losses[-1] < LOST * before:
                break
    return Curve(number, before, tuple(rates), tuple(losses))


def _place(job: Job) -> str:
    return f"{job.output_store.place}/{FOLDER}/report.json"


def _write(job: Job, found: Found) -> None:
    """The picture, then the report: whoever sees the report has both."""
    store = job.output_store.child(FOLDER)
    store.write_bytes("report.png", png_bytes(_picture(found, job.spec.name)))
    store.write_bytes("report.json", json_bytes(as_data(found)))


def as_data(found: Found) -> dict[str, Any]:
    """report.json: the suggestion, null where there is none, its reason, and each ramp."""
    return {
        "suggestion": found.suggestion.rate,
        "reason": found.suggestion.reason,
        "measured_on": found.measured_on,
        "ramps": [
            {
                **asdict(curve),
                "losses": [loss if math.isfinite(loss) else None for loss in curve.losses],
                "suggestion": suggest(curve).rate,
            }
            for curve in found.curves
        ],
    }


def _picture(found: Found, name: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for curve, colour in zip(found.curves, ("#2457a6", "#b4440f", "#1a7a3c"), strict=True):
        smoothed = curve.smoothed
        axes.plot(curve.rates, curve.losses, ".", color=colour, alpha=0.4)
        axes.plot(curve.rates[: len(smoothed)], smoothed, color=colour, label=f"seed {curve.seed + 1}")
    before = found.curves[0].before
    axes.axhline(before, color="#777777", linewidth=0.8, linestyle="--", label="before the first step")
    if rate := found.suggestion.rate:
        axes.axvline(rate, color="black", linewidth=1.2, label=f"suggestion: {rate:g}")
    lowest = min(loss for curve in found.curves for loss in (*curve.smoothed, before))
    axes.set_ylim(lowest - 0.1 * (before - lowest) - 1e-3, before + max(before - lowest, 0.02 * before))
    axes.set_xscale("log")
    axes.set(title=f"{name}: range test", xlabel="learning rate", ylabel=f"loss on {found.measured_on}")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure
