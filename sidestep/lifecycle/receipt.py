"""receipt.json: what a finished job made, from what, and what it cost."""

import hashlib
from collections.abc import Mapping
from math import isfinite
from typing import Any

from sidestep.commitlog.log import Record
from sidestep.config.job import JobSpec
from sidestep.lifecycle.identity import distinct_kinds
from sidestep.lifecycle.status import Spent
from sidestep.runtime.canonical import json_bytes
from sidestep.training.numbers import STATE_FILES, Progress

FILE = "receipt.json"
INPUTS = ("model_variant", "weights", "dataset", "dataset_content")


def receipt_bytes(
    spec: JobSpec, done: Record, fingerprint: Mapping[str, Any], progress: Progress, spent: Spent
) -> bytes:
    """The receipt of the run that `done` ends."""
    price = spec.runtime.price_per_hour
    hours = sum(spent.seconds.values()) / 3600
    losses = [loss if isfinite(loss) else None for _, loss in sorted(progress.evaluations.items())]
    machines = distinct_kinds(done.machines)
    content = {
        "name": spec.name,
        "spec_sha256": spec_digest(spec),
        "inputs": {key: fingerprint[key] for key in INPUTS if key in fingerprint},
        "adapter": {name: entry for name, entry in done.files.items() if name not in STATE_FILES},
        "inference": inference_of(spec),
        "steps": progress.step,
        "steps_skipped": progress.skipped,
        "loss_on_fixed_draws": {"first": losses[0], "last": losses[-1]},
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


def spec_digest(spec: JobSpec) -> str:
    """sha256 of all that makes an adapter: not of the machine, how places are reached, and what is to be
    generated with it."""
    return hashlib.sha256(
        json_bytes(spec.model_dump(mode="json", exclude={"runtime", "storage", "inference"}))
    ).hexdigest()


def inference_of(spec: JobSpec) -> dict[str, float]:
    """What the spec says of generating with the adapter: only what it does say."""
    said: dict[str, float] = spec.inference.model_dump(mode="json", exclude_none=True)
    return said
