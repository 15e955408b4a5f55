"""What makes two runs the same: all settings and inputs that decide an adapter's numbers."""

from typing import Any

from sidestep.acestep.layout import ALIASES
from sidestep.config.job import JobSpec
from sidestep.runtime.errors import BadSpecError
from sidestep.storage.open import open_store
from sidestep.training.checkpoint import Numbers, refuse_changed
from sidestep.training.dataset import dataset_digest, dataset_files

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
