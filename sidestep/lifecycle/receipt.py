"""receipt.json: what a finished job made, from what, and what it cost."""

import hashlib
from math import isfinite
from typing import Any

from sidestep.commitlog.log import Record
from sidestep.config.job import JobSpec
from sidestep.lifecycle.job import Attempt
from sidestep.runtime.canonical import json_bytes
from sidestep.training.numbers import STATE_FILES, Progress

FILE = "receipt.json"


def write_receipt(attempt: Attempt, done: Record, recipe: dict[str, Any], progress: Progress) -> None:
    """Write the receipt of the run that `done` ends."""
    spent, price = attempt.spent(), attempt.spec.runtime.price_per_hour
    hours = sum(spent.seconds.values()) / 3600
    losses = [loss if isfinite(loss) else None for _, loss in sorted(progress.evaluations.items())]
    content = {
        "name": attempt.spec.name,
        "spec_sha256": spec_digest(attempt.spec),
        "inputs": {key: recipe[key] for key in ("model_variant", "weights", "dataset")},
        "adapter": {name: entry for name, entry in done.files.items() if name not in STATE_FILES},
        "steps": progress.step,
        "steps_skipped": progress.skipped,
        "loss_on_fixed_draws": {"first": losses[0], "last": losses[-1]},
        "attempts": spent.attempts,
        "preemptions": spent.preemptions,
        "steps_repeated": spent.steps_repeated,
        "seconds": spent.seconds,
        "gpu_seconds": spent.gpu_seconds,
        "cost": None if price is None else round(hours * price, 4),
        "machines": done.machines,
        # The same numbers are promised on machines of one kind alone.
        "bit_equality": "claimed" if len(done.machines) <= 1 else "not claimed: machines of several kinds",
    }
    attempt.output.store.write_bytes(FILE, json_bytes(content))


def spec_digest(spec: JobSpec) -> str:
    """sha256 of all that a job is, but for the machine it runs on and how its places are reached."""
    return hashlib.sha256(
        json_bytes(spec.model_dump(mode="json", exclude={"runtime", "storage"}))
    ).hexdigest()
