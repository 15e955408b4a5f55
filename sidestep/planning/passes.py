"""The passes of preprocessing: what each takes of a GPU's memory, and what it computes.

All of it is in fp32, whatever the training's precision. The VAE encodes songs in tiles, so its memory does
not grow with the song: one tile is traced, without content, as a step of training is. Texts are short, and
what the two transformers make of them is counted by their weights.
"""

import json
import math
import threading
from functools import lru_cache
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sidestep.acestep.conditioning import PROMPT_TOKENS
from sidestep.acestep.releases import Configs
from sidestep.acestep.shapes import Shapes, condition_encoder_shapes, encoder_config, text_encoder_shapes
from sidestep.acestep.vae import LATENTS_PER_SECOND, SAMPLES_PER_LATENT, TILE_FRAMES, build_vae, tiles
from sidestep.planning.memory import CONTEXT
from sidestep.planning.meter import Meter
from sidestep.planning.phase import Parts, Phase
from sidestep.planning.songs import Songs

SILENCE = 15_000 * 64  # numbers in the silence that is read with the condition encoder


def passes_of(configs: Configs, songs: Songs, prompts: int = 1) -> list[Phase]:
    """The three passes over all `songs`, one after the other; each has its own model in memory.

    `prompts` are those of a song, which are encoded one by one: they take time, and no more memory.
    """
    assert configs.vae and configs.text, "asked for where songs are to be encoded"
    return [
        _songs(configs.vae, songs),
        _texts(configs.text, songs, prompts),
        _conditions(configs.model, songs, prompts),
    ]


def _songs(config: dict[str, Any], songs: Songs) -> Phase:
    frames = min(songs.frames(songs.longest, None), TILE_FRAMES)
    weights, activations, flops = _trace_vae(json.dumps(config, sort_keys=True), frames)
    encoded = sum(
        end - begin
        for seconds in songs.seconds
        for _, _, begin, end in tiles(math.ceil(seconds * LATENTS_PER_SECOND))
    )
    return _phase("pass 1, songs", weights, activations, flops / frames * encoded)


@lru_cache(maxsize=16)
def _trace_vae(config: str, frames: int) -> tuple[int, int, int]:
    """Bytes of the weights, the most bytes beside them, and FLOPs, of encoding one tile."""
    with torch.device("meta"):
        vae = build_vae(json.loads(config))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        vae.to_empty(device="cpu").eval()
        tile = torch.empty(1, 2, frames * SAMPLES_PER_LATENT)
        meter = Meter([*vae.parameters(), *vae.buffers(), tile], threading.Event())
        with meter:
            vae.encode(tile)
    weights = sum(parameter.nbytes for parameter in vae.parameters())
    return weights, max(meter.peaks.values()), meter.flops.total()


def _texts(config: dict[str, Any], songs: Songs, prompts: int) -> Phase:
    """Prompts go through the whole text encoder; of lyrics the embeddings are taken alone."""
    shapes, tokens = text_encoder_shapes(config), PROMPT_TOKENS
    flops = _flops(shapes, "layers.", config, tokens) * len(songs.seconds) * prompts
    return _phase("pass 1, texts", 4 * _numbers(shapes), _activations(config, tokens), flops)


def _conditions(config: dict[str, Any], songs: Songs, prompts: int) -> Phase:
    shapes, own = condition_encoder_shapes(config), encoder_config(config)
    tokens = {"encoder.lyric_encoder.": songs.tokens, "encoder.timbre_encoder.": config["timbre_fix_frame"]}
    per_song = sum(_flops(shapes, prefix, own, count) for prefix, count in tokens.items())
    activations = _activations(own, max(tokens.values()))
    weights = 4 * (_numbers(shapes) + SILENCE)
    flops = per_song * len(songs.seconds) * prompts
    return _phase("pass 2, conditions", weights, activations, flops)


def _phase(name: str, weights: float, activations: float, flops: float) -> Phase:
    parts: Parts = {"weights": weights, "activations": activations, "context": CONTEXT}
    return Phase(name, "fp32", lambda precision: parts, flops)


def _numbers(shapes: Shapes) -> int:
    return sum(map(math.prod, shapes.values()))


def _flops(shapes: Shapes, prefix: str, config: dict[str, Any], tokens: int) -> float:
    """Of a forward pass of the layers under `prefix`: two for each weight and token, and attention's."""
    matrices: Shapes = {
        name: shape for name, shape in shapes.items() if name.startswith(prefix) and len(shape) == 2
    }
    layers = sum(name.endswith("q_proj.weight") for name in matrices)
    attention = 4 * tokens**2 * config["num_attention_heads"] * _head(config) * layers
    return float(2 * _numbers(matrices) * tokens + attention)


def _activations(config: dict[str, Any], tokens: int) -> float:
    """Bytes that one layer holds at a time: its input, query, key and value, and the MLP's three tensors."""
    heads = config["num_attention_heads"] + 2 * config["num_key_value_heads"]
    widths = 3 * config["hidden_size"] + heads * _head(config) + 3 * config["intermediate_size"]
    return float(4 * tokens * widths)


def _head(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
