"""Names and shapes of a checkpoint's weights by its config.json, as the checkpoint spells them.

What diffusers' modules say, without building them: torch takes seconds to import, and a plan has one.
"""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from sidestep.config.memory import QUANTIZED, Quantization, bytes_held

Shapes = dict[str, tuple[int, ...]]


def decoder_shapes(config: Mapping[str, Any]) -> Shapes:
    """The decoder's weights, under `decoder.`. `config` is whole: see `acestep.config.whole_config`."""
    hidden, patch = config["hidden_size"], config.get("patch_size", 2)
    audio = config.get("audio_acoustic_hidden_dim", 64)
    shapes: Shapes = {
        **_linear("condition_embedder", config.get("encoder_hidden_size", hidden), hidden),
        "proj_in.1.weight": (hidden, config.get("in_channels", 192), patch),
        "proj_in.1.bias": (hidden,),
        "proj_out.1.weight": (hidden, audio, patch),
        "proj_out.1.bias": (audio,),
        "norm_out.weight": (hidden,),
        "scale_shift_table": (1, 2, hidden),
    }
    for embedding in ("time_embed", "time_embed_r"):
        shapes |= _linear(f"{embedding}.linear_1", 256, hidden)
        shapes |= _linear(f"{embedding}.linear_2", hidden, hidden)
        shapes |= _linear(f"{embedding}.time_proj", hidden, 6 * hidden)
    for number in range(config["num_hidden_layers"]):
        layer = f"layers.{number}"
        for part in ("self_attn", "cross_attn"):
            shapes |= _attention(f"{layer}.{part}", config)
            shapes[f"{layer}.{part}_norm.weight"] = (hidden,)
        shapes |= _mlp(f"{layer}.mlp", config)
        shapes[f"{layer}.mlp_norm.weight"] = (hidden,)
        shapes[f"{layer}.scale_shift_table"] = (1, 6, hidden)
    return {f"decoder.{name}": shape for name, shape in shapes.items()}


def decoder_bytes(config: Mapping[str, Any], size: int) -> dict[Quantization, int]:
    """Bytes of the decoder's weights under each quantization of its layers' matrices, of `size` each else."""

    def held(name: str, shape: tuple[int, ...], kind: Quantization) -> int:
        is_rounded = name.startswith("decoder.layers.") and name.endswith(".weight") and len(shape) == 2
        return bytes_held(prod(shape), shape[0], kind if is_rounded else "none", size)

    shapes = decoder_shapes(config)
    return {
        kind: sum(held(name, shape, kind) for name, shape in shapes.items()) for kind in ("none", *QUANTIZED)
    }


def condition_encoder_shapes(config: Mapping[str, Any]) -> Shapes:
    """The condition encoder's weights, under `encoder.`, and `null_condition_emb`."""
    own = encoder_config(config)
    hidden = own["hidden_size"]
    layers = {
        "lyric_encoder": (own.get("num_lyric_encoder_hidden_layers", 8), own.get("text_hidden_dim", 1024)),
        "timbre_encoder": (own.get("num_timbre_encoder_hidden_layers", 4), own.get("timbre_hidden_dim", 64)),
    }
    shapes: Shapes = {
        "text_projector.weight": (hidden, own.get("text_hidden_dim", 1024)),
        "timbre_encoder.special_token": (1, 1, hidden),
    }
    for part, (number, width) in layers.items():
        shapes |= _linear(f"{part}.embed_tokens", width, hidden) | _layers(part, number, own)
    found = {f"encoder.{name}": shape for name, shape in shapes.items()}
    return found | {"null_condition_emb": (1, 1, hidden)}


def text_encoder_shapes(config: Mapping[str, Any]) -> Shapes:
    """The weights of a Qwen3 model."""
    embedding = {"embed_tokens.weight": (config["vocab_size"], config["hidden_size"])}
    heads = {"head_dim": config["hidden_size"] // config["num_attention_heads"]}
    return embedding | _layers("", config["num_hidden_layers"], {**heads, **config})


def vae_shapes(config: Mapping[str, Any]) -> Shapes:
    """The autoencoder's weights. Each convolution's is a direction and a length."""
    hidden, base = config.get("encoder_hidden_size", 128), config.get("decoder_channels", 128)
    channels, latents = config.get("audio_channels", 2), config.get("decoder_input_channels", 64)
    strides = config.get("downsampling_ratios", [2, 4, 4, 8, 8])
    multiples = [1, *config.get("channel_multiples", [1, 2, 4, 8, 16])]
    widths, last = [hidden * multiple for multiple in multiples], len(strides)
    shapes = _conv("encoder.conv1", channels, hidden, 7) | _conv("encoder.conv2", widths[-1], hidden, 3)
    shapes |= _snake("encoder.snake1", widths[-1])
    for number, stride in enumerate(strides):
        block = f"encoder.block.{number}"
        shapes |= _units(block, widths[number]) | _snake(f"{block}.snake1", widths[number])
        shapes |= _conv(f"{block}.conv1", widths[number], widths[number + 1], 2 * stride)
    widths = [base * multiple for multiple in multiples]
    shapes |= _conv("decoder.conv1", latents, widths[-1], 7) | _snake("decoder.snake1", base)
    shapes |= _conv("decoder.conv2", base, channels, 7)
    del shapes["decoder.conv2.bias"]
    for number, stride in enumerate(reversed(strides)):
        block, into, out = f"decoder.block.{number}", widths[last - number], widths[last - number - 1]
        shapes |= _snake(f"{block}.snake1", into) | _units(block, out)
        # A transposed convolution's first dimension is what goes in.
        transposed = {"weight_g": (into, 1, 1), "weight_v": (into, out, 2 * stride), "bias": (out,)}
        shapes |= {f"{block}.conv_t1.{name}": shape for name, shape in transposed.items()}
    return shapes


def encoder_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The condition encoder's sizes. XL's has its own, the others' are the decoder's."""
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    return {**config, **{name: config.get(f"encoder_{name}", config.get(name)) for name in names}}


def _layers(part: str, number: int, config: Mapping[str, Any]) -> Shapes:
    """The layers and the last norm of an encoder."""
    dot, norm = f"{part}." if part else "", (config["hidden_size"],)
    shapes: Shapes = {f"{dot}norm.weight": norm}
    for layer in (f"{dot}layers.{index}" for index in range(number)):
        shapes |= _attention(f"{layer}.self_attn", config) | _mlp(f"{layer}.mlp", config)
        shapes[f"{layer}.input_layernorm.weight"] = shapes[f"{layer}.post_attention_layernorm.weight"] = norm
    return shapes


def _attention(name: str, config: Mapping[str, Any]) -> Shapes:
    hidden, head = config["hidden_size"], config.get("head_dim", 128)
    inner, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    bias = bool(config.get("attention_bias", False))
    return {
        **_linear(f"{name}.q_proj", hidden, inner, bias),
        **_linear(f"{name}.k_proj", hidden, keys, bias),
        **_linear(f"{name}.v_proj", hidden, keys, bias),
        **_linear(f"{name}.o_proj", inner, hidden, bias),
        f"{name}.q_norm.weight": (head,),
        f"{name}.k_norm.weight": (head,),
    }


def _mlp(name: str, config: Mapping[str, Any]) -> Shapes:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {f"{name}.{part}.weight": (inner, hidden) for part in ("gate_proj", "up_proj")}
    return {**shapes, f"{name}.down_proj.weight": (hidden, inner)}


def _linear(name: str, into: int, out: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, into), **({f"{name}.bias": (out,)} if bias else {})}


def _conv(name: str, into: int, out: int, width: int) -> Shapes:
    return {
        f"{name}.weight_g": (out, 1, 1),
        f"{name}.weight_v": (out, into, width),
        f"{name}.bias": (out,),
    }


def _snake(name: str, width: int) -> Shapes:
    return {f"{name}.alpha": (1, width, 1), f"{name}.beta": (1, width, 1)}


def _units(block: str, width: int) -> Shapes:
    """The three residual units of a block."""

    def of_each() -> Iterator[tuple[str, tuple[int, ...]]]:
        for unit in (f"{block}.res_unit{number}" for number in (1, 2, 3)):
            yield from (_snake(f"{unit}.snake1", width) | _snake(f"{unit}.snake2", width)).items()
            yield from _conv(f"{unit}.conv1", width, width, 7).items()
            yield from _conv(f"{unit}.conv2", width, width, 1).items()

    return dict(of_each())
