"""The shapes that a config.json wants, without torch, are those of the modules that it builds."""

from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3Model

from sidestep.acestep.loading import build_condition_encoder, build_transformer
from sidestep.acestep.names import original_name
from sidestep.acestep.releases import released_config
from sidestep.acestep.shapes import (
    Shapes,
    condition_encoder_shapes,
    decoder_shapes,
    text_encoder_shapes,
    vae_shapes,
)
from sidestep.acestep.tiny import VAE, tiny_config
from sidestep.acestep.vae import build_vae

XL = {
    "encoder_intermediate_size": 6144,
    "encoder_num_attention_heads": 16,
    "encoder_num_key_value_heads": 8,
}
CONFIGS = {
    **{f"tiny {variant}": tiny_config(variant) for variant in ("base", "xl-base")},
    "base": released_config("base"),
    "xl-turbo": released_config("xl-turbo") | XL,
    "others": tiny_config("base") | {"attention_bias": True, "patch_size": 4, "in_channels": 96},
    "few words": {k: v for k, v in tiny_config("base").items() if k not in ("patch_size", "text_hidden_dim")},
}


def of_module(module: torch.nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_model(config: dict[str, Any]) -> None:
    with torch.device("meta"):
        decoder, encoder = build_transformer(config), build_condition_encoder(config)
    wanted = {f"decoder.{original_name(name)}": shape for name, shape in of_module(decoder).items()}
    assert decoder_shapes(config) == wanted
    shapes = of_module(encoder)
    del shapes["silence_latent"]
    null = {"null_condition_emb": shapes.pop("null_condition_emb")}
    assert condition_encoder_shapes(config) == null | {
        f"encoder.{original_name(name)}": shape for name, shape in shapes.items()
    }


@pytest.mark.parametrize(
    "config", [VAE, {}, {"channel_multiples": [1, 3, 5], "downsampling_ratios": [2, 3, 7]}]
)
def test_the_vae(config: dict[str, Any]) -> None:
    with torch.device("meta"):
        vae = build_vae(config)
    assert vae_shapes(config) == of_module(vae)


@pytest.mark.parametrize("head_dim", [16, 32])
def test_the_text_encoder(head_dim: int) -> None:
    config = Qwen3Config(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
    )
    with torch.device("meta"):
        model = Qwen3Model(config)
    assert text_encoder_shapes(config.to_dict()) == of_module(model)
