"""What makes two runs the same: all settings and inputs that decide an adapter's numbers."""

from collections.abc import Sequence
from typing import Any

from sidestep.acestep.layout import ALIASES
from sidestep.config.job import JobSpec
from sidestep.data.index import dataset_digest, dataset_files
from sidestep.runtime.errors import BadSpecError
from sidestep.storage.open import open_store
from sidestep.training.numbers import Numbers

LENGTH = ("train.epochs", "train.max_steps")
"""What a longer run may change, where the spec says so."""


def recipe_of(spec: JobSpec) -> dict[str, Any]:
    """All settings that decide the adapter's numbers. A run goes on only with the same ones."""
    changes_nothing = {"resume_from", "new_attempt", "extend", "log_every", "log_heavy_every", "checkpoint"}
    changes_nothing |= {"gradient_checkpointing", "gradient_checkpointing_ratio"}
    train = spec.train.model_dump(mode="json", exclude=changes_nothing)
    tensors = dataset_files(open_store(spec.tensors_place, spec.storage))
    return {
        "model_variant": ALIASES.get(spec.model_variant, spec.model_variant),
        "dataset": dataset_digest(tensors),
        **{f"train.{key}": value for key, value in train.items()},
    }


def refuse_another_run(spec: JobSpec, numbers: Numbers | None, recipe: dict[str, Any], where: str) -> None:
    """Refuse to go on from a checkpoint of other settings, but for a longer run where the spec says so."""
    if numbers is None:
        return
    may_change = [*LENGTH] if spec.train.extend else []
    if "weights" not in recipe:  # not known before they are pulled
        may_change.append("weights")
    refuse_changed(numbers.recipe, recipe, where, may_change)
    begun_in, asked_for = numbers.machine.get("precision"), spec.runtime.precision
    if asked_for not in ("auto", begun_in):
        raise BadSpecError(
            f"{where} was made in {begun_in}, and runtime.precision is {asked_for}\n"
            f"  go on with {begun_in} or auto, or start anew with another output_dir"
        )


def refuse_changed(
    before: dict[str, Any], now: dict[str, Any], where: str, may_change: Sequence[str] = ()
) -> None:
    """Raise BadSpecError naming each setting that differs between a run's start and now."""
    before, now = _flat(before), _flat(now)
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if changed := [key for key in changed if key not in may_change]:
        differences = [f"{key}: {before.get(key)!r} then, {now.get(key)!r} now" for key in changed]
        raise BadSpecError(
            "\n  ".join([f"{where} was made with other settings:", *differences])
            + "\n  go on with the same settings, or start anew with another output_dir"
        )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train.adapter": {"rank": 4}} → {"train.adapter.rank": 4}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
