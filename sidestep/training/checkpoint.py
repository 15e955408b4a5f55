"""What training needs to go on exactly where it was, as safetensors and JSON: no pickle.

`training_state.safetensors` holds the adapter's raw parameters, the optimizer's tensors and the
history; `training_state.json` the counters and the optimizer's numbers. Every tensor is restored, or
the resume fails: a resume that loads nothing would train on from zero weights without a word.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sidestep.adapters import Adapter
from sidestep.adapters.adapter import read_safetensors
from sidestep.runtime.canonical import Parts, json_bytes, safetensors_parts
from sidestep.runtime.errors import BadDataError, BadSpecError, MissingInputError

NUMBERS_FILE = "training_state.json"
TENSORS_FILE = "training_state.safetensors"
STATE_FILES = (NUMBERS_FILE, TENSORS_FILE)
FORMAT = 1


@dataclass
class Progress:
    """How far a run is. All that changes while it trains, but for weights and optimizer."""

    step: int = 0
    losses: list[float] = field(default_factory=list)  # mean loss of each optimizer step so far
    evaluations: dict[int, float] = field(default_factory=dict)  # step → loss on fixed draws
    skipped: int = 0  # steps so far that changed nothing, as their loss or gradient was not finite
    skipped_in_row: int = 0  # those of them since the last one that did
    loss_scale: dict[str, Any] = field(default_factory=dict)  # the gradient scaler's state, in fp16 alone


def checkpoint_files(
    adapter: Adapter,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    recipe: dict[str, Any],
    machine: dict[str, Any],
) -> dict[str, Parts]:
    """The files of a checkpoint: the adapter as it would be published, and the training state.

    `machine` is what the run's first attempt chose and ran on, which later ones keep to.
    """
    tensors = {f"adapter.{name}": p.detach() for name, p in adapter.parameters().items()}
    numbers: dict[str, dict[str, Any]] = {}
    for name, parameter in adapter.parameters().items():
        # Not by way of state_dict(): bitsandbytes nests its tensors there.
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                # bitsandbytes' code books are one tensor in all states, which safetensors refuses.
                tensors[f"optimizer.{name}.{key}"] = value.clone() if key.startswith("qmap") else value
            else:
                numbers.setdefault(name, {})[key] = value
    tensors["history.losses"] = torch.tensor(progress.losses, dtype=torch.float64)
    content = {
        "format": FORMAT,
        "step": progress.step,
        "skipped": progress.skipped,
        "skipped_in_row": progress.skipped_in_row,
        "loss_scale": progress.loss_scale,
        # JSON has no NaN.
        "evaluations": {
            str(step): loss if math.isfinite(loss) else None for step, loss in progress.evaluations.items()
        },
        "recipe": recipe,
        "machine": machine,
        "tensors": sorted(tensors),
        "optimizer": {
            "kind": type(optimizer).__name__,
            "groups": [_changed(group, optimizer.defaults) for group in optimizer.param_groups],
            "numbers": numbers,
        },
    }
    return {
        **adapter.files(),
        TENSORS_FILE: safetensors_parts(tensors),
        NUMBERS_FILE: (json_bytes(content),),
    }


def restore(folder: Path, adapter: Adapter, optimizer: torch.optim.Optimizer) -> Progress:
    """Put a checkpoint's state into `adapter` and `optimizer`, all of it, and return its progress.

    Raises MissingInputError or BadDataError for an incomplete or damaged checkpoint. Whether it was made
    with this run's settings is for `refuse_changed` to say, before.
    """
    content, tensors = _read(folder)
    progress = _progress(content, str(folder))
    _same_keys(tensors.keys(), content["tensors"], folder)
    parameters = adapter.parameters()
    saved = _take(tensors, "adapter.")
    _same_keys(saved.keys(), parameters.keys(), folder)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if saved[name].shape != parameter.shape or saved[name].dtype != parameter.dtype:
                raise BadDataError(
                    f"{folder}: {name} is {saved[name].dtype} {list(saved[name].shape)}, "
                    f"this run's is {parameter.dtype} {list(parameter.shape)}"
                )
            parameter.copy_(saved[name])
    _restore_optimizer(content["optimizer"], _take(tensors, "optimizer."), parameters, optimizer, folder)
    _same_keys(tensors.keys(), ["history.losses"], folder)
    progress.losses = tensors["history.losses"].tolist()
    return progress


@dataclass(frozen=True)
class Numbers:
    """What `training_state.json` says of a run, without its weights."""

    recipe: dict[str, Any]
    machine: dict[str, Any]
    progress: Progress  # without the losses, which are in the other file


def read_numbers(data: bytes, where: str) -> Numbers:
    """A checkpoint's `training_state.json`. Raises BadDataError where it is damaged or of another version."""
    content = _parse(data, where)
    progress = _progress(content, where)
    recipe, machine = content.get("recipe"), content.get("machine")
    if not isinstance(recipe, dict) or not isinstance(machine, dict):
        raise BadDataError(f"{where}/{NUMBERS_FILE} is damaged or of another version: no recipe or machine")
    return Numbers(recipe, machine, progress)


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


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    missing = [name for name in STATE_FILES if not (folder / name).is_file()]
    if missing:
        raise MissingInputError(f"{folder} is not a checkpoint to go on from: it has no {', '.join(missing)}")
    tensors, _ = read_safetensors(folder / TENSORS_FILE)
    return _parse((folder / NUMBERS_FILE).read_bytes(), str(folder)), tensors


def _parse(data: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(data)
        version = content["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadDataError(f"{where}/{NUMBERS_FILE} is damaged: {error}") from error
    if version != FORMAT:
        raise BadDataError(
            f"{where} has checkpoint format {version}; this version of Side-Step reads {FORMAT}"
        )
    return content


def _progress(content: dict[str, Any], where: str) -> Progress:
    try:
        evaluations = content["evaluations"].items()
        return Progress(
            content["step"],
            evaluations={int(step): math.nan if loss is None else loss for step, loss in evaluations},
            skipped=content["skipped"],
            skipped_in_row=content["skipped_in_row"],
            loss_scale=content["loss_scale"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadDataError(f"{where}/{NUMBERS_FILE} is damaged or of another version: {error!r}") from error


def _changed(group: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What is state in a parameter group, such as Prodigy's estimate; the rest is made anew by the recipe."""
    return {k: v for k, v in group.items() if k not in ("params", "lr") and v != defaults.get(k)}


def _restore_optimizer(
    content: dict[str, Any],
    saved: dict[str, Tensor],
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    folder: Path,
) -> None:
    if content["kind"] != type(optimizer).__name__:
        raise BadDataError(
            f"{folder} was made with {content['kind']}, this run uses {type(optimizer).__name__}"
        )
    index = {name: number for number, name in enumerate(parameters)}
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in saved.items():
        name, _, entry = key.rpartition(".")
        if name not in index:
            raise BadDataError(f"{folder}: optimizer state of an unknown parameter {name}")
        state.setdefault(index[name], {})[entry] = tensor
    for name, values in content["numbers"].items():
        state.setdefault(index[name], {}).update(values)
    if state and len(state) != len(parameters):
        raise BadDataError(
            f"{folder}: optimizer state of {len(state)} parameters, expected {len(parameters)}"
        )
    groups = optimizer.state_dict()["param_groups"]
    for group, stored in zip(groups, content["groups"], strict=True):
        group.update(stored)
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    keys = [key for key in tensors if key.startswith(prefix)]
    return {key.removeprefix(prefix): tensors.pop(key) for key in keys}


def _same_keys(found: Any, expected: Any, folder: Path) -> None:
    if missing := sorted(set(expected) - set(found)):
        raise BadDataError(f"{folder} lacks {', '.join(missing[:3])} ({len(missing)} tensors)")
    if extra := sorted(set(found) - set(expected)):
        raise BadDataError(
            f"{folder} has {', '.join(extra[:3])} ({len(extra)} tensors) that this run knows not"
        )
