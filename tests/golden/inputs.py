"""What the golden runs train on: a small decoder and five songs, with the same bits on every processor.

They are made of whole numbers from keyed generators. torch's `randn` would not do: its last bits depend on
the processor's vector instructions. Being made, they need no room in the repository; and neither the tiny
checkpoint nor what the original model computed plays a part in the runs.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel
from safetensors.torch import save_file
from torch import Tensor

from sidestep.acestep.names import original_name

WIDTH = 128  # so that LoKR, too, has a factor of 4096 elements
DECODER: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "in_channels": 192,
    "audio_acoustic_hidden_dim": 64,
    "patch_size": 2,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_theta": 1_000_000,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "attention_dropout": 0.0,
}
SONGS = {"a": (30, 4), "b": (33, 9), "c": (41, 6), "d": (28, 1), "e": (36, 12)}  # frames, condition tokens
PADDED = "b"  # as other trainers pad their conditions
BITS = 12  # of a value, and its sign


def write_inputs(folder: Path) -> None:
    """Write `checkpoints/` and `tensors/` below `folder`: all that a training reads."""
    _write_checkpoint(folder / "checkpoints" / "acestep-v15-base")
    _write_songs(folder / "tensors")


def _write_checkpoint(folder: Path) -> None:
    """A model's folder in the original's layout, with as much in it as training reads."""
    folder.mkdir(parents=True)
    with torch.device("meta"):
        decoder = AceStepTransformer1DModel(**DECODER)
    weights = {"null_condition_emb": numbers("null condition", (1, 1, WIDTH))}
    for name, tensor in decoder.state_dict().items():
        key = f"decoder.{original_name(name)}"
        # Of a size at which a signal keeps its own through the layers.
        values = numbers(key, tuple(tensor.shape), scale=1 / 8)
        weights[key] = 1 + values if "norm" in key else values
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(DECODER))
    torch.save(torch.zeros(1, 64, 1), folder / "silence_latent.pt")


def _write_songs(folder: Path) -> None:
    """Five songs in the format that all trainers share."""
    folder.mkdir(parents=True)
    for name, (frames, tokens) in SONGS.items():
        pads = 5 if name == PADDED else 0
        # Around a level of its own, so that there is something to learn.
        latents = numbers(f"{name} level", (1, 64)) + numbers(f"{name} latents", (frames, 64))
        context = torch.cat([numbers(f"{name} context", (frames, 64)), torch.ones(frames, 64)], dim=1)
        song = {
            "target_latents": latents,
            "attention_mask": torch.ones(frames),
            "encoder_hidden_states": numbers(f"{name} conditions", (tokens + pads, WIDTH)),
            "encoder_attention_mask": (torch.arange(tokens + pads) < tokens).float(),
            "context_latents": context,
            "metadata": {"caption": name},
        }
        torch.save(song, folder / f"{name}.pt")


def numbers(name: str, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    """Even draws from [-scale, scale) that `name` decides; exact in fp32 where `scale` is a power of two."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
    whole = torch.randint(-(2**BITS), 2**BITS, shape, generator=torch.Generator().manual_seed(key))
    return torch.mul(whole.float(), scale / 2**BITS)
