"""The table of which program loads which kind of adapter: each of its cells is tried."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep import adapters
from sidestep.config.adapter import AdapterSpec
from sidestep.report.readers import LOADS, readers_of
from sidestep.runtime.tensorfiles import read_metadata

from .conftest import Decode, MakeEffective, NewTransformer
from .test_readers import (
    OriginalDecoder,
    by_app_lokr,
    by_comfyui,
    by_diffusers_lokr,
    by_diffusers_lora,
    by_peft,
    set_weights,
    write,
)

SPECS = {
    "LoRA": AdapterSpec(rank=4, alpha=6),
    "DoRA": AdapterSpec(rank=4, alpha=6, weight_decompose=True),
    "LoKR": AdapterSpec(type="lokr", rank=2, alpha=5, factor=4),
    "LoKR with `weight_decompose`": AdapterSpec(
        type="lokr", rank=2, alpha=5, factor=4, weight_decompose=True
    ),
}
Way = Callable[[NewTransformer, Path], Any]


def in_the_app(new: NewTransformer, folder: Path) -> Any:
    read = by_app_lokr if (folder / "lokr_weights.safetensors").exists() else by_peft
    return set_weights(new(), read(OriginalDecoder(new()), folder))


def in_comfyui(new: NewTransformer, folder: Path) -> Any:
    return set_weights(new(), by_comfyui(OriginalDecoder(new()), folder))


def in_diffusers(new: NewTransformer, folder: Path) -> Any:
    of_peft = (folder / "diffusers_lokr_weights.safetensors").exists()
    return (by_diffusers_lokr if of_peft else by_diffusers_lora)(new(), folder)


def computes(way: Way, new: NewTransformer, folder: Path, decode: Decode, wanted: Tensor) -> bool:
    """Whether the program loads the folder, as what was trained."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return bool((decode(way(new, folder).eval()) - wanted).abs().max() <= 1e-4)
        except (ValueError, KeyError, AssertionError, OSError):
            return False


@pytest.mark.parametrize("kind", LOADS)
def test_each_cell(
    kind: str, new_transformer: NewTransformer, decode: Decode, make_effective: MakeEffective, tmp_path: Path
) -> None:
    transformer = new_transformer()
    adapter = adapters.inject(transformer, SPECS[kind], seed=1)
    make_effective(adapter)
    with torch.no_grad():
        wanted = decode(transformer.eval())
    folder, loads = write(adapter, tmp_path / "adapter"), LOADS[kind]
    ways: dict[str, Way] = {"app": in_the_app, "comfyui": in_comfyui, "diffusers": in_diffusers}
    for program, way in ways.items():
        said = bool(getattr(loads, program))
        assert computes(way, new_transformer, folder, decode, wanted) is said, program

    files = sorted(file.name for file in folder.iterdir())
    weights = next(name for name in files if name.endswith("s.safetensors") or name.startswith("adapter_m"))
    readers = readers_of(files, read_metadata(folder / weights))
    assert {program: bool(getattr(readers, program)) for program in ways} == {
        program: bool(getattr(loads, program)) for program in ways
    }
