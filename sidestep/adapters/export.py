"""An adapter's files for one reader, where the folder that training publishes serves them all."""

import json
import logging

import torch
from safetensors.torch import load

from sidestep.acestep.names import diffusers_name
from sidestep.adapters import dora, lokr, lora
from sidestep.adapters.adapter import Adapter, publish
from sidestep.runtime.canonical import safetensors_bytes
from sidestep.runtime.errors import UsageError

log = logging.getLogger(__name__)

_OF_APP = (lora.APP_FILE, lora.CONFIG_FILE, lokr.APP_FILE)


def files_for(adapter: Adapter, format_: str, name: str) -> dict[str, bytes]:
    """The adapter's files for one reader: {file name: canonical bytes}.

    `format_` says which:
    - app: what ACE-Step loads, a PEFT folder or lokr_weights.safetensors.
    - diffusers: `<pipeline>.load_lora_weights` for LoRA, `transformer.load_lora_adapter` for LoKR.
    - comfyui: one file, called `name`, for its folder models/loras.

    Raises UsageError where the reader has no such adapter.
    """
    if format_ == "comfyui":
        return {f"{name}.safetensors": _comfyui_file(adapter)}
    files = publish(adapter)
    if format_ == "app":
        return {file: data for file, data in files.items() if file in _OF_APP}
    if lora.APP_FILE in files:
        return {lora.DIFFUSERS_FILE: _diffusers_lora(load(files[lora.APP_FILE]))}
    if lokr.DIFFUSERS_FILE in files:
        assert isinstance(adapter, lokr.LokrAdapter)
        if left_out := adapter.left_out_by_peft:
            log.warning(
                "Without %s, so not the whole adapter: PEFT's LoKR, which diffusers reads, computes another "
                "update of such a convolution",
                ", ".join(left_out),
            )
        return {lokr.DIFFUSERS_FILE: files[lokr.DIFFUSERS_FILE]}
    raise UsageError("PEFT's LoKR, which diffusers reads, has none like this: keep to the app's format")


def _comfyui_file(adapter: Adapter) -> bytes:
    if not isinstance(adapter, lokr.LokrAdapter):
        if adapter.is_decomposed and not _has_comfyui_lengths(adapter):
            raise UsageError(
                f"this DoRA has no {dora.COMFYUI_KEY}, by which ComfyUI scales it, and which follows from "
                "the model's weights\n  export the adapter as it was trained, or for another program"
            )
        return publish(adapter)[lora.APP_FILE]
    if adapter.config.weight_decompose:
        raise UsageError(
            "ComfyUI computes weight_decompose otherwise: it would not be the adapter that was trained"
        )
    return b"".join(adapter.comfyui_file())


def _has_comfyui_lengths(adapter: Adapter) -> bool:
    assert isinstance(adapter, lora.LoraAdapter)
    return adapter.lengths is None or adapter.lengths.keys() == adapter.layers.keys()


def _diffusers_lora(published: dict[str, torch.Tensor]) -> bytes:
    """diffusers' `save_lora_weights`: its own names, and what scales them in the header."""
    tensors = {}
    ranks = {}
    for key, tensor in published.items():
        if key.endswith(dora.COMFYUI_KEY):
            continue
        path, side = key.removeprefix("base_model.model.").rsplit(".lora_", 1)
        module = diffusers_name(path)
        tensors[f"transformer.{module}.lora_{side}"] = tensor
        if side == "A.weight":
            ranks[module] = tensor.shape[0]
    common = max(ranks.values())
    others = {module: rank for module, rank in ranks.items() if rank != common}
    metadata = {
        "transformer.peft_type": "LORA",
        "transformer.r": common,
        "transformer.lora_alpha": common,  # alpha / rank is in lora_B already
        "transformer.rank_pattern": others,
        "transformer.alpha_pattern": others,
        "transformer.target_modules": sorted(ranks),
        **({"transformer.use_dora": True} if any(key.endswith(dora.KEY) for key in tensors) else {}),
    }
    return safetensors_bytes(
        tensors, {"format": "pt", "lora_adapter_metadata": json.dumps(metadata, sort_keys=True)}
    )
