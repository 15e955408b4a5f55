"""The configuration of a job's model: its checkpoint's, or the released models', which are built in.

With these a plan needs neither a checkpoint nor the network.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from sidestep.acestep.config import RELEASES, TextConfig, VaeConfig, whole_config
from sidestep.acestep.layout import (
    ALIASES,
    FOLDERS,
    Part,
    find_text_encoder,
    find_vae,
    find_variant,
    open_checkpoints,
)
from sidestep.config.job import JobSpec
from sidestep.config.needs import reads_encoders
from sidestep.runtime.errors import BadSpecError
from sidestep.runtime.parsing import parse_as

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
    "encoder_intermediate_size": 6144,
    "encoder_num_attention_heads": 16,
    "encoder_num_key_value_heads": 8,
}
_VAE: dict[str, Any] = VaeConfig(downsampling_ratios=[2, 4, 4, 6, 10], sampling_rate=48_000).model_dump()
_TEXT_ENCODER: dict[str, Any] = {
    "vocab_size": 151_669,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


@dataclass(frozen=True)
class Configs:
    """The config.json of the models that a job works with; the encoders' where it makes tensors or sounds."""

    model: dict[str, Any]
    vae: dict[str, Any] | None = None
    text: dict[str, Any] | None = None


def released_config(alias: str) -> dict[str, Any]:
    """The decoder's part of the config.json of `turbo`, `base`, `sft` or one of the `xl-` models."""
    return RELEASES[alias] | (_XL if alias.startswith("xl-") else _2B)


def configs_of(spec: JobSpec, *, offline: bool) -> Configs:
    """The configurations of all models that the task of `spec` reads. Raises as `config_of` does."""
    model = config_of(spec, offline=offline)
    if not reads_encoders(spec):
        return Configs(model)
    if offline:
        return Configs(model, _VAE, _TEXT_ENCODER)
    store = open_checkpoints(spec.checkpoint_dir, spec.storage)

    def read(part: Part, kind: type[BaseModel]) -> dict[str, Any]:
        path = f"{part.folder}/config.json"
        return parse_as(kind, store.read_small(path), f"{store.place}/{path}").model_dump(exclude_none=True)

    return Configs(model, read(find_vae(store), VaeConfig), read(find_text_encoder(store), TextConfig))


def config_of(spec: JobSpec, *, offline: bool) -> dict[str, Any]:
    """The config.json of the model of `spec`: the one in checkpoint_dir, or offline the release's.

    Raises what reading it raises; BadSpecError for a model that is not built in.
    """
    if offline:
        alias = FOLDERS.get(spec.model_variant, spec.model_variant)
        if alias not in ALIASES:
            if spec.base_model is None:
                raise BadSpecError(
                    f"model_variant {spec.model_variant}: --offline knows {', '.join(ALIASES)} alone. "
                    "Say with base_model which of them it was made from."
                )
            alias = spec.base_model
        return released_config(alias)
    store = open_checkpoints(spec.checkpoint_dir, spec.storage)
    path = f"{find_variant(store, spec.model_variant).folder}/config.json"
    return whole_config(store.read_small(path), f"{store.place}/{path}", spec.base_model)
