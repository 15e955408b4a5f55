"""The released models' configurations, built in: a plan needs no checkpoint and no network."""

from typing import Any

from sidestep.acestep.config import RELEASES

_SHARED: dict[str, Any] = {
    "head_dim": 128,
    "in_channels": 192,
    "audio_acoustic_hidden_dim": 64,
    "patch_size": 2,
    "sliding_window": 128,
    "rope_theta": 1_000_000,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "num_key_value_heads": 8,
}
_2B: dict[str, Any] = _SHARED | {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
_XL: dict[str, Any] = _SHARED | {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "encoder_hidden_size": 2048,
}


def released_config(alias: str) -> dict[str, Any]:
    """The decoder's part of the config.json of `turbo`, `base`, `sft` or one of the `xl-` models."""
    return RELEASES[alias] | (_XL if alias.startswith("xl-") else _2B)
