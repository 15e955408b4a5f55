"""A checkpoint set in the original layout with small random weights, for trials and tests.

Layout, keys and mathematics are the real ones, so that whatever works here works on the released
weights; only the sizes are small. The VAE keeps the real geometry (1920 samples per latent, 64
channels). What it makes is noise, but an adapter can be trained on it and its loss goes down.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3Model

from sidestep.acestep.config import RELEASES
from sidestep.acestep.layout import ALIASES, SILENCE_FILE, TEXT_ENCODER_FOLDER, VAE_FOLDER
from sidestep.acestep.names import original_name
from sidestep.acestep.vae import build_vae
from sidestep.runtime.canonical import json_bytes, safetensors_bytes, torch_bytes
from sidestep.runtime.errors import UsageError

DECODER: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "in_channels": 192,
    "audio_acoustic_hidden_dim": 64,
    "patch_size": 2,
    "sliding_window": 8,
    "rope_theta": 1_000_000,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "attention_dropout": 0.0,
}
ENCODER: dict[str, Any] = {
    "text_hidden_dim": 64,
    "timbre_hidden_dim": 64,
    "num_lyric_encoder_hidden_layers": 3,
    "num_timbre_encoder_hidden_layers": 2,
}
XL_ENCODER: dict[str, Any] = {
    "encoder_hidden_size": 48,
    "encoder_intermediate_size": 96,
    "encoder_num_attention_heads": 4,
    "encoder_num_key_value_heads": 2,
}
VAE: dict[str, Any] = {
    "encoder_hidden_size": 128,
    "downsampling_ratios": [2, 4, 4, 6, 10],
    "channel_multiples": [1, 1, 1, 1, 1],
    "decoder_channels": 16,
    "decoder_input_channels": 64,
    "audio_channels": 2,
    "sampling_rate": 48000,
}
SILENCE_FRAMES = 15_000
LATENT_GAIN = 20.0


def write_tiny_checkpoint(
    folder: Path, variants: Iterable[str] = ("base", "turbo", "xl-base"), seed: int = 0
) -> None:
    """Write `vae/`, the text encoder and one folder per variant below `folder`.

    The same seed gives the same bytes. Raises UsageError for a variant that does not exist.
    """
    variants = tuple(variants)
    if unknown := [name for name in variants if name not in ALIASES]:
        raise UsageError(f"no variant {', '.join(unknown)}; there are {', '.join(ALIASES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        silence = 0.5 * torch.randn(1, 64, SILENCE_FRAMES)
        _write_vae(folder / VAE_FOLDER)
        _write_text_encoder(folder / TEXT_ENCODER_FOLDER)
        for name in variants:
            _write_variant(folder / ALIASES[name], name, silence)


def tiny_config(variant: str) -> dict[str, Any]:
    """The original's config.json of a tiny variant: the keys that are read, with small sizes."""
    layers = DECODER["num_hidden_layers"]
    return {
        "architectures": ["AceStepConditionGenerationModel"],
        "model_type": "acestep",
        **DECODER,
        **ENCODER,
        **(XL_ENCODER if variant.startswith("xl") else {}),
        "layer_types": ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)],
        **RELEASES[variant],
        "dtype": "float32",
    }


def _write_variant(folder: Path, variant: str, silence: Tensor) -> None:
    config = tiny_config(variant)
    transformer = AceStepTransformer1DModel(
        **DECODER, layer_types=config["layer_types"], encoder_hidden_size=config.get("encoder_hidden_size")
    )
    # Unit gain, as trained weights have: with torch's small default, no adapter within the layers could
    # bring the output to its target's size.
    nn.init.normal_(transformer.proj_out_conv.weight, std=DECODER["hidden_size"] ** -0.5)
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    shared = ("head_dim", "rope_theta", "rms_norm_eps", "sliding_window")
    encoder = AceStepConditionEncoder(
        **ENCODER,
        **{name: config.get(f"encoder_{name}", config[name]) for name in sizes},
        **{name: config[name] for name in shared},
    )
    weights = {f"decoder.{original_name(name)}": tensor for name, tensor in transformer.state_dict().items()}
    for name, tensor in encoder.state_dict().items():
        if name == "null_condition_emb":
            weights[name] = tensor
        elif name != "silence_latent":
            weights[f"encoder.{original_name(name)}"] = tensor
    _write(folder, "config.json", json_bytes(config))
    _write(folder, "model.safetensors", safetensors_bytes(weights, {"format": "pt"}))
    _write(folder, SILENCE_FILE, torch_bytes(silence))


def _write_vae(folder: Path) -> None:
    vae = build_vae(VAE)
    # As small as random weights leave them, latents would vanish beside the noise of training, and there
    # would be nothing to learn. Released ones have unit variance; this brings these near it.
    means = slice(0, VAE["decoder_input_channels"])
    with torch.no_grad():
        vae.encoder.conv2.weight_g[means] *= LATENT_GAIN
        vae.encoder.conv2.bias[means] *= LATENT_GAIN
    _write(folder, "config.json", json_bytes({"_class_name": "AutoencoderOobleck", **VAE}))
    _write(
        folder, "diffusion_pytorch_model.safetensors", safetensors_bytes(vae.state_dict(), {"format": "pt"})
    )


def _write_text_encoder(folder: Path) -> None:
    """A Qwen3 of two layers over a byte-level vocabulary: every text has tokens, whatever its language."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(alphabet + specials)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    config = Qwen3Config(
        vocab_size=512,
        hidden_size=ENCODER["text_hidden_dim"],
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=32768,
    )
    settings = {"model_max_length": 32768, "pad_token": specials[0], "eos_token": specials[2]}
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "right", **settings}
    _write(folder, "config.json", json_bytes({**config.to_dict(), "architectures": ["Qwen3Model"]}))
    _write(folder, "model.safetensors", safetensors_bytes(Qwen3Model(config).state_dict(), {"format": "pt"}))
    _write(folder, "tokenizer.json", json.dumps(json.loads(tokenizer.to_str()), sort_keys=True).encode())
    _write(folder, "tokenizer_config.json", json_bytes(tokenizer_config))


def _write(folder: Path, name: str, data: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
