"""A model folder's config.json: checked, and completed by what is known of the released models."""

import logging
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sidestep.acestep.layout import ALIASES, FOLDERS
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.parsing import parse_json, read_small

log = logging.getLogger(__name__)

Size = Annotated[int, Field(ge=1, le=2**20)]

RELEASES: dict[str, dict[str, Any]] = {
    alias: {
        "is_turbo": alias.endswith("turbo"),
        "timestep_mu": -0.4,
        "timestep_sigma": 1.0,
        "timbre_fix_frame": 750,
    }
    for alias in ALIASES
}
"""Settings of the released models that training needs and diffusers' modules do not carry."""


class _Config(BaseModel):
    """The settings of an original config.json that are read and checked. The others stay as they are."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Annotated[int, Field(ge=1, le=1024)]
    num_attention_heads: Size
    num_key_value_heads: Size
    head_dim: Size
    encoder_hidden_size: Size | None = None
    encoder_intermediate_size: Size | None = None
    encoder_num_attention_heads: Size | None = None
    encoder_num_key_value_heads: Size | None = None
    num_lyric_encoder_hidden_layers: Annotated[int, Field(ge=1, le=1024)] | None = None
    num_timbre_encoder_hidden_layers: Annotated[int, Field(ge=1, le=1024)] | None = None
    text_hidden_dim: Size | None = None
    timbre_hidden_dim: Size | None = None
    in_channels: Size | None = None
    audio_acoustic_hidden_dim: Size | None = None
    patch_size: Size | None = None
    sliding_window: Size | None = None
    layer_types: list[Literal["sliding_attention", "full_attention"]] | None = None
    rope_theta: Annotated[float, Field(gt=0)] | None = None
    rope_parameters: dict[str, Any] | None = None
    rms_norm_eps: Annotated[float, Field(gt=0)] | None = None
    attention_bias: bool | None = None
    attention_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    is_turbo: bool | None = None
    timestep_mu: Annotated[float, Field(ge=-10, le=10)] | None = None
    timestep_sigma: Annotated[float, Field(gt=0, le=10)] | None = None
    timbre_fix_frame: Annotated[int, Field(ge=1, le=15_000)] | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads or self.head_dim % 2:
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads, head_dim even")
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(f"layer_types has {len(self.layer_types)} entries, not one per layer")
        return self


class TextConfig(BaseModel):
    """The settings of a text encoder's config.json that are used. Others may name code or other models."""

    vocab_size: Annotated[int, Field(ge=1, le=2**24)]
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Annotated[int, Field(ge=1, le=1024)]
    num_attention_heads: Size
    num_key_value_heads: Size
    head_dim: Size | None = None
    attention_bias: bool = False
    hidden_act: str | None = None
    max_position_embeddings: Annotated[int, Field(ge=1, le=2**24)] | None = None
    rms_norm_eps: Annotated[float, Field(gt=0, lt=1)] | None = None
    rope_theta: Annotated[float, Field(gt=0)] | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    use_sliding_window: bool | None = None
    sliding_window: Size | None = None
    max_window_layers: Annotated[int, Field(ge=0, le=1024)] | None = None
    layer_types: list[Literal["sliding_attention", "full_attention"]] | None = None


class VaeConfig(BaseModel):
    """The settings of a VAE's config.json."""

    encoder_hidden_size: Size = 128
    downsampling_ratios: Annotated[list[Size], Field(min_length=1, max_length=16)] = [2, 4, 4, 8, 8]
    channel_multiples: Annotated[list[Size], Field(min_length=1, max_length=16)] = [1, 2, 4, 8, 16]
    decoder_channels: Size = 128
    decoder_input_channels: Size = 64
    audio_channels: Size = 2
    sampling_rate: Size = 44_100

    @model_validator(mode="after")
    def _lists_fit(self) -> Self:
        if len(self.downsampling_ratios) != len(self.channel_multiples):
            raise ValueError("downsampling_ratios and channel_multiples must be of one length")
        return self


def read_config(folder: Path, base_model: str | None = None) -> dict[str, Any]:
    """A model folder's config.json: see `whole_config`."""
    path = folder / "config.json"
    return whole_config(read_small(path), str(path), base_model)


def whole_config(content: bytes, path: str, base_model: str | None = None) -> dict[str, Any]:
    """Parse the `content` of the config.json at `path`; what it lacks is taken from a released model.

    That is `base_model` (an alias such as `turbo`), or by default the release that the folder is named for,
    or else base. Raises BadDataError where it is not the config of an ACE-Step 1.5 model.
    """
    config = {key: value for key, value in parse_config(content, path).items() if value is not None}
    if "rope_theta" not in config:  # transformers 5 writes it one level deeper
        config["rope_theta"] = config.get("rope_parameters", {}).get("rope_theta", 1_000_000)
    released_as = FOLDERS.get(PurePath(path).parent.name)
    base = base_model or released_as or "base"
    left_out = [key for key in RELEASES[base] if key not in config]
    if left_out:
        hint = "" if base_model or released_as else " (base_model names another, where it is another)"
        log.info("%s leaves out %s: as in %s%s", path, ", ".join(left_out), base, hint)
    return RELEASES[base] | config


def parse_config(content: bytes, name: str) -> dict[str, Any]:
    """The content of a config.json as it is; `name` is what messages call the file.

    Raises BadDataError where it is not the config of an ACE-Step 1.5 model.
    """
    config = parse_object(content, name)
    try:
        _Config.model_validate(config)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors()]
        raise BadDataError(
            "\n  ".join([f"{name} is not an ACE-Step 1.5 model's:", *problems])
            + "\n  checkpoint_dir and model_variant must lead to such a model's folder"
        ) from error
    return config


def parse_object(content: bytes, name: str) -> dict[str, Any]:
    """The JSON object in the content of a file called `name`. Raises BadDataError where there is none."""
    found = parse_json(content, name)
    if not isinstance(found, dict):
        raise BadDataError(f"{name} does not hold a JSON object")
    return found
