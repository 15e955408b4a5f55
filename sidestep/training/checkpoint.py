"""What training needs to go on exactly where it was, as safetensors and JSON: no pickle.

`training_state.safetensors` holds the adapter's raw parameters, their average where one is kept, the
optimizer's tensors and the history; `training_state.json` the counters and the optimizer's numbers. Every
tensor is restored, or the resume fails: one that loads nothing would train on from zero weights without a
word.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sidestep.adapters.adapter import Adapter, read_safetensors
from sidestep.data.card import Facts
from sidestep.data.index import FileRecord
from sidestep.data.sides import Sides
from sidestep.runtime.canonical import Parts, safetensors_parts, with_metadata
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.words import counted
from sidestep.training.card import facts_at
from sidestep.training.ema import Ema
from sidestep.training.numbers import NUMBERS_FILE, TENSORS_FILE, Numbers, Progress, numbers_bytes, numbers_in


def checkpoint_files(
    adapter: Adapter,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    fingerprint: dict[str, Any],
    machine: dict[str, Any],
    dataset_files: Mapping[str, FileRecord] | None = None,
    sides: Sides | None = None,
    ema: Ema | None = None,
    card: Facts | None = None,
) -> dict[str, Parts]:
    """The files of a checkpoint: the adapter as it would be published, and the training state.

    `fingerprint` is the run's; `machine` what its first attempt chose and ran on, which later ones keep to;
    `dataset_files` the tensors that it is trained on, with which later attempts compare what they read;
    `sides` which songs are held out, which the adapter's files tell as well: see `data.sides`; `ema` the
    average of the adapter's parameters, which is what is published where it is in use; `card` what the
    adapter says of itself in its header, with how far it is.
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
    if ema:
        assert not ema.is_in_place, "a checkpoint would hold the average as what is trained"
        tensors |= {f"ema.{name}": value for name, value in ema.values.items()}
    tensors["history.losses"] = torch.tensor(progress.losses, dtype=torch.float64)
    kept = {
        "kind": type(optimizer).__name__,
        "groups": [_changed(group, optimizer.defaults) for group in optimizer.param_groups],
        "numbers": numbers,
    }
    written = Numbers(
        *(fingerprint, machine, progress, sorted(tensors), kept, dict(dataset_files or {}), sides, card)
    )
    files = adapter.files(ema.values if ema and ema.use else None)
    texts = {
        **(sides.as_metadata() if sides else {}),
        **(facts_at(card, progress).as_metadata() if card else {}),
    }
    if texts:
        files = {
            name: with_metadata(parts, texts) if name.endswith(".safetensors") else parts
            for name, parts in files.items()
        }
    return {
        **files,
        TENSORS_FILE: safetensors_parts(tensors),
        NUMBERS_FILE: (numbers_bytes(written),),
    }


def restore(
    folder: Path, adapter: Adapter, optimizer: torch.optim.Optimizer, ema: Ema | None = None
) -> Progress:
    """Put a checkpoint's state into `adapter`, `optimizer` and `ema`, all of it, and return its progress.

    Raises MissingInputError or BadDataError for an incomplete or damaged checkpoint. Whether it was made
    with this run's settings is asked before, see `sidestep.lifecycle.identity`.
    """
    numbers = numbers_in(folder)
    tensors, _ = read_safetensors(folder / TENSORS_FILE)
    _same_keys(tensors.keys(), numbers.tensors, folder)
    parameters = adapter.parameters()
    _fill(parameters, _take(tensors, "adapter."), folder)
    if ema:
        _fill(ema.values, _take(tensors, "ema."), folder)
    _restore_optimizer(numbers.optimizer, _take(tensors, "optimizer."), parameters, optimizer, folder)
    _same_keys(tensors.keys(), ["history.losses"], folder)
    losses = tensors["history.losses"]
    if losses.dtype != torch.float64 or losses.ndim != 1:
        raise BadDataError(f"{folder}: its losses are {losses.dtype} {list(losses.shape)}")
    return replace(numbers.progress, losses=losses.tolist())


@torch.no_grad()
def _fill(values: Mapping[str, Tensor], saved: Mapping[str, Tensor], folder: Path) -> None:
    """Copy what was saved into `values`, which have the same names, shapes and types."""
    _same_keys(saved.keys(), values.keys(), folder)
    for name, value in values.items():
        if saved[name].shape != value.shape or saved[name].dtype != value.dtype:
            raise BadDataError(
                f"{folder}: {name} is {saved[name].dtype} {list(saved[name].shape)}, "
                f"this run's is {value.dtype} {list(value.shape)}"
            )
        value.copy_(saved[name])


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
    # torch counts parameters through its groups, whose order is not that of the names.
    names = {id(parameter): name for name, parameter in parameters.items()}
    order = (parameter for group in optimizer.param_groups for parameter in group["params"])
    index = {names[id(parameter)]: number for number, parameter in enumerate(order)}
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in saved.items():
        name, _, entry = key.rpartition(".")
        if name not in index:
            raise BadDataError(f"{folder}: optimizer state of an unknown parameter {name}")
        state.setdefault(index[name], {})[entry] = tensor
    for name, values in content["numbers"].items():
        if name not in index:
            raise BadDataError(f"{folder}: optimizer state of an unknown parameter {name}")
        state.setdefault(index[name], {}).update(values)
    if state and len(state) != len(parameters):
        raise BadDataError(
            f"{folder}: optimizer state of {counted(len(state), 'parameters')}, expected {len(parameters)}"
        )
    groups = optimizer.state_dict()["param_groups"]
    # A group is known by its factor on the learning rate, wherever it stands; without groups there is one.
    own, stored = (
        {str(group.get("factor")): group for group in each} for each in (groups, content["groups"])
    )
    if (
        own.keys() != stored.keys()
        or len(content["groups"]) != len(groups)
        or any(not _is_of(stored[factor], own[factor]) for factor in own)
    ):
        raise BadDataError(f"{folder}: its optimizer settings are not those of this optimizer")
    for factor, group in own.items():
        group.update(stored[factor])
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _is_of(stored: dict[str, Any], group: dict[str, Any]) -> bool:
    """Whether what was stored of a group may be this one's, by the kinds of its settings."""
    return all(
        key not in ("params", "lr") and (key not in group or _kind(group[key]) in (_kind(value), type(None)))
        for key, value in stored.items()
    )


def _kind(value: Any) -> Any:
    """What kind of setting it is: all numbers are alike, and of a list each item counts."""
    if isinstance(value, tuple | list):
        return [_kind(item) for item in value]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    keys = [key for key in tensors if key.startswith(prefix)]
    return {key.removeprefix(prefix): tensors.pop(key) for key in keys}


def _same_keys(found: Iterable[str], expected: Iterable[str], folder: Path) -> None:
    if missing := sorted(set(expected) - set(found)):
        raise BadDataError(f"{folder} lacks {', '.join(missing[:3])} ({counted(len(missing), 'tensors')})")
    if extra := sorted(set(found) - set(expected)):
        raise BadDataError(f"unknown in {folder}: {', '.join(extra[:3])} ({counted(len(extra), 'tensors')})")
