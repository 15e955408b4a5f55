"""A copy of a safetensors file in which some weights are others; layout, header and all else stay."""

import shutil
from collections.abc import Callable, Container
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from sidestep.acestep.weights import check_finite
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.parsing import parse_json
from sidestep.runtime.tensorfiles import HEADER_AT_MOST

KINDS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def rewrite(
    source: Path, target: Path, names: Container[str], change: Callable[[str, Tensor], Tensor]
) -> set[str]:
    """Write `source` to `target` with the weights of `names` changed, and return which of them it has.

    `change` is given a name and its weight as float32, one at a time, and returns what takes its place.

    Raises BadDataError where the file is no safetensors, or a weight is of a kind that cannot be added to.
    """
    shutil.copyfile(source, target)
    changed = set()
    offsets = _offsets(source)
    with safe_open(source, framework="pt") as weights, target.open("r+b") as file:
        for name in (name for name in offsets if name in names):
            weight = weights.get_tensor(name)
            if weight.dtype not in KINDS:
                raise BadDataError(
                    f"{source}: {name} is stored as {weight.dtype}, to which nothing can be added"
                )
            check_finite(weight, f"{name} in {source}")
            made = change(name, weight.float()).to(weight.dtype).contiguous()
            if made.shape != weight.shape:
                raise BadDataError(
                    f"{source}: {name} is {list(weight.shape)}, not {list(made.shape)}: another model's"
                )
            check_finite(made, f"{name}, merged, in {weight.dtype}")
            file.seek(offsets[name])
            file.write(made.reshape(-1).view(torch.uint8).numpy().data)
            changed.add(name)
    return changed


def _offsets(path: Path) -> dict[str, int]:
    """Where each tensor of a safetensors file begins in it."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > HEADER_AT_MOST:
            raise BadDataError(f"{path} is not a readable safetensors file: download it again")
        header = parse_json(file.read(length), f"{path}: its header")
    return {
        name: 8 + length + entry["data_offsets"][0]
        for name, entry in header.items()
        if name != "__metadata__"
    }
