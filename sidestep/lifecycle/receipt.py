"""receipt.json: what a finished job made, from what, and what it cost."""

import hashlib
from collections.abc import Mapping
from math import isfinite, nan
from typing import Any

from sidestep.commitlog.log import Record
from sidestep.config.job import JobSpec
from sidestep.config.training import TrainSpec
from sidestep.lifecycle.identity import distinct_kinds
from sidestep.lifecycle.status import Spent
from sidestep.runtime.canonical import json_bytes
from sidestep.training.numbers import STATE_FILES, Progress
from sidestep.training.verdict import Gain, gain, judge, why_ended

FILE = "receipt.json"
INPUTS = ("model_variant", "weights", "dataset", "dataset_content")


def receipt_bytes(
    spec: JobSpec,
    done: Record,
    published: Record,
    fingerprint: Mapping[str, Any],
    progress: Progress,
    spent: Spent,
    checkpoints: Mapping[int, str] | None = None,
) -> bytes:
    """The receipt of the run that `done` ends, and that has `published` a commit's adapter.

    `checkpoints` are the folders that the output keeps, by step.
    """
    price = spec.runtime.price_per_hour
    hours = sum(spent.seconds.values()) / 3600
    losses = [loss if isfinite(loss) else None for _, loss in sorted(progress.evaluations.items())]
    machines = distinct_kinds(done.machines)
    content = {
        "name": spec.name,
        "spec_sha256": spec_digest(spec),
        "inputs": {key: fingerprint[key] for key in INPUTS if key in fingerprint},
        "adapter": {name: entry for name, entry in published.files.items() if name not in STATE_FILES},
        "checkpoint": {"folder": published.folder, "step": published.step},
        "inference": inference_of(spec),
        **({"license": spec.card.license} if spec.card.license else {}),
        "steps": progress.step,
        "steps_skipped": progress.skipped,
        "ended_by": why_ended(progress, spec.train) or "its last step",
        "loss_on_fixed_draws": {"first": losses[0], "last": losses[-1]},
        # Only where songs were held out.
        **(_validation(spec.train, progress, checkpoints or {}) if progress.validations else {}),
        "attempts": spent.attempts,
        "preemptions": spent.preemptions,
        "steps_repeated": spent.steps_repeated,
        "seconds": spent.seconds,
        "gpu_seconds": spent.gpu_seconds,
        "cost": None if price is None else round(hours * price, 4),
        "machines": machines,
        # The same numbers are promised on machines of one kind alone.
        "bit_equality": "claimed" if len(machines) <= 1 else "not claimed: machines of several kinds",
    }
    return json_bytes(content)


def _validation(
    train: TrainSpec, progress: Progress, checkpoints: Mapping[int, str]
) -> dict[str, dict[str, Any]]:
    """What the held-out songs say of the run. A loss that is not finite is null."""
    found, verdict = progress.validations, judge(progress, train)
    gained = gain(found, verdict.best) if verdict.best is not None else None

    def at(step: int) -> dict[str, Any]:
        losses = {"held_out": found[step].held_out.mean, "trained": found[step].trained.mean}
        known = {name: loss if isfinite(loss) else None for name, loss in losses.items()}
        smoothed = verdict.smoothed.get(step, nan)
        return {
            "step": step,
            **known,
            "smoothed": smoothed if isfinite(smoothed) else None,
            "checkpoint": checkpoints.get(step),
        }

    last = max(found)
    return {
        "validation": {
            "songs_held_out": len(found[last].held_out.by_song),
            "songs_trained": len(found[last].trained.by_song),
            "draws": len(progress.timesteps),
            "window": train.validation.window,
            "first": at(min(found)),
            "best": at(verdict.best) if verdict.best is not None else None,
            "last": at(last),
            # By pairs of songs: of the best against the start, and of the last against the best.
            "gain": _gain(gained),
            "after_best": _gain(_after(progress, verdict.best)),
        }
    }


def _after(progress: Progress, best: int | None) -> Gain | None:
    if best is None:
        return None
    since = {0: progress.validations[best], 1: progress.validations[max(progress.validations)]}
    return gain(since, 1)


def _gain(found: Gain | None) -> dict[str, float] | None:
    return {"mean": found.mean, "standard_error": found.error} if found else None


def spec_digest(spec: JobSpec) -> str:
    """sha256 of all that makes an adapter: not of the machine, how places are reached, what is to be
    generated with it, and what its card says."""
    return hashlib.sha256(
        json_bytes(spec.model_dump(mode="json", exclude={"runtime", "storage", "inference", "card"}))
    ).hexdigest()


def inference_of(spec: JobSpec) -> dict[str, float]:
    """What the spec says of generating with the adapter: only what it does say."""
    said: dict[str, float] = spec.inference.model_dump(mode="json", exclude_none=True)
    return said
