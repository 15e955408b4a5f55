"""Which programs load an adapter's folder, by the names and headers of its files; see `adapters.export`."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sidestep.config.adapter_files import APP_LOKR, APP_LORA, APP_LORA_CONFIG, DIFFUSERS_LOKR, DIFFUSERS_LORA


@dataclass(frozen=True)
class Loads:
    """How each program loads a kind of adapter that is trained here; "" where it does not."""

    app: str
    comfyui: str
    diffusers: str


LOADS = {
    "LoRA": Loads("yes", "yes", "`load_lora_weights`"),
    "DoRA": Loads("yes", "yes", "`load_lora_weights`"),
    "LoKR": Loads("yes", "yes", "`transformer.load_lora_adapter`"),
    "LoKR with `weight_decompose`": Loads("yes", "", ""),
}
"""By the names of the kinds. Each cell is tried in tests/adapters/test_loads.py."""


@dataclass(frozen=True)
class Readers:
    """The file, or files, that each of them is given; none where it cannot load the adapter.

    Attributes:
        library: what the Hugging Face Hub calls the program that the files are for.
    """

    app: tuple[str, ...]
    comfyui: str
    diffusers: str
    library: str


def readers_of(files: Collection[str], metadata: Mapping[str, str]) -> Readers:
    """Who can load a folder of these files, of which the weights' header says `metadata`."""
    if APP_LOKR in files:
        config = json.loads(metadata.get("lokr_config", "{}"))
        of_comfyui = "" if isinstance(config, dict) and config.get("weight_decompose") else APP_LOKR
        of_diffusers = DIFFUSERS_LOKR if DIFFUSERS_LOKR in files else ""
        return Readers((APP_LOKR,), of_comfyui, of_diffusers, "diffusers" if of_diffusers else "lycoris")
    if APP_LORA in files:
        return Readers((APP_LORA, APP_LORA_CONFIG), APP_LORA, APP_LORA, "diffusers")
    if DIFFUSERS_LORA in files:
        return Readers((), DIFFUSERS_LORA, DIFFUSERS_LORA, "diffusers")
    (other,) = (name for name in files if name.endswith(".safetensors"))
    return Readers((), other, other, "diffusers")
