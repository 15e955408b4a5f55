"""LoRA in one file without a config beside it, as ComfyUI and other trainers have it.

Names begin as ComfyUI knows them (`base_model.model.`, `diffusion_model.decoder.`, `lycoris_`) or with
diffusers' `transformer.`; the matrices are lora_A and lora_B, or lora_down and lora_up. A module's alpha is a
tensor of its own, or else what the header says; ComfyUI scales by 1 where there is neither, and so is an
adapter exported for it meant. A DoRA must have PEFT's lengths beside ComfyUI's: see `adapters.dora`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from sidestep.acestep.names import module_in_file
from sidestep.adapters import dora
from sidestep.adapters.adapter import read_finite
from sidestep.adapters.lora import LoraAdapter
from sidestep.adapters.lora_load import DIFFUSERS_HEADER, config_of_ranks, fill, read_config
from sidestep.adapters.targets import linear_modules
from sidestep.runtime.errors import BadDataError

ALPHAS = ("ss_network_alpha", "lora_alpha")
"""Where a header has one alpha for all modules."""

_TENSOR = re.compile(r"(?P<module>.+)\.(?P<side>lora_A|lora_B|lora_down|lora_up)(\.default)?\.weight")
_SIDES = {"lora_down": "lora_A", "lora_up": "lora_B"}
_LENGTHS = re.compile(rf"(?P<module>.+)\.(?P<kind>{dora.KEY}|{dora.COMFYUI_KEY})")
_NUMBER: TypeAdapter[float] = TypeAdapter(Annotated[float, Field(gt=0, allow_inf_nan=False)])


def load(transformer: nn.Module, path: Path) -> LoraAdapter:
    """The LoRA in the file at `path`. Raises BadDataError where it is none, or is not read exactly."""
    found, header = read_finite(path)
    flat = {name.replace(".", "_"): name for name in linear_modules(transformer)}
    tensors, alphas = {}, {}
    for key, tensor in found.items():
        if (module := key.removesuffix(".alpha")) != key and tensor.numel() == 1:
            alphas[module_in_file(module, flat)] = _alpha(tensor.item(), path, key)
        elif match := _TENSOR.fullmatch(key):
            side = _SIDES.get(match["side"], match["side"])
            tensors[f"{module_in_file(match['module'], flat)}.{side}.weight"] = tensor
        elif match := _LENGTHS.fullmatch(key):
            tensors[f"{module_in_file(match['module'], flat)}.{match['kind']}"] = tensor
        else:
            tensors[key] = tensor
    if len(tensors) + len(alphas) < len(found):
        raise BadDataError(f"{path} names some modules twice, in two ways")
    modules = {key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")}
    if lost := sorted(alphas.keys() - modules):
        raise BadDataError(f"{path} has an alpha of {lost[0]}, and no LoRA of it that is known")
    kinds = {match["kind"] for key in tensors if (match := _LENGTHS.fullmatch(key))}
    if kinds == {dora.COMFYUI_KEY}:
        raise BadDataError(
            f"{path} is a DoRA in ComfyUI's form alone ({dora.COMFYUI_KEY}), whose lengths depend on the "
            f"base that it was made on: it can be read where it has PEFT's ({dora.KEY}) as well"
        )
    if (text := header.get(DIFFUSERS_HEADER)) and not alphas:
        config = read_config(text.encode(), path)
    else:
        config = config_of_ranks(tensors, "", path, _common_alpha(header, tensors, path) | alphas)
    return fill(transformer, path, tensors, "", config)


def _common_alpha(header: Mapping[str, str], tensors: Mapping[str, Tensor], path: Path) -> dict[str, float]:
    """The header's one alpha by module; {} where it has none."""
    said = next((name for name in ALPHAS if name in header), None)
    if said is None:
        return {}
    alpha = _alpha(header[said], path, said)
    modules = (key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight"))
    return dict.fromkeys(modules, alpha)


def _alpha(value: object, path: Path, where: str) -> float:
    try:
        return _NUMBER.validate_python(value)
    except ValidationError as error:
        raise BadDataError(f"{path}: {where} is {value!r}, which is no alpha") from error
