"""An adapter's folder to give away, made by hand in a moment."""

import json
from pathlib import Path
from typing import Any

import torch

from sidestep.data.card import Facts, Generating, Trigger
from sidestep.runtime.canonical import safetensors_bytes

FACTS: dict[str, Any] = {
    "kind": "lora",
    "variant": "base",
    "rank": 4,
    "modules": ("self_attn.q_proj",),
    "module_count": 2,
    "triggers": (Trigger(word="zk", position="prepend", songs=2),),
    "steps": 8,
    "license": "cc-by-4.0",
    "generating": Generating(steps=50, guidance=7.0, shift=1.0),
}


def write_adapter(folder: Path, seed: int = 0, header: dict[str, str] | None = None, **facts: Any) -> Path:
    """A LoRA by its files alone. Its header tells FACTS with these changes, or is `header`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"lora_A": torch.full((4, 4), float(seed)), "lora_B": torch.zeros(4, 4)}
    told = Facts(**{**FACTS, **facts}).as_metadata() if header is None else header
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(tensors, told))
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    return folder
