"""The released models' configurations, as published; and whose configuration a job takes."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidestep.acestep.config import parse_config
from sidestep.acestep.layout import ALIASES
from sidestep.acestep.releases import config_of, released_config
from sidestep.acestep.tiny import tiny_config
from sidestep.config.job import JobSpec
from sidestep.runtime.errors import BadSpecError
from tests.facts import facts

SHARED = {
    "head_dim": 128,
    "in_channels": 192,
    "audio_acoustic_hidden_dim": 64,
    "patch_size": 2,
    "sliding_window": 128,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "num_key_value_heads": 8,
    "timestep_mu": -0.4,
    "timestep_sigma": 1.0,
    "timbre_fix_frame": 750,
}
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "encoder_hidden_size",
)
OF_2B = (2048, 6144, 24, 16, None)
OF_XL = (2560, 9728, 32, 32, 2048)


@pytest.mark.parametrize("alias", ALIASES)
def test_each_is_as_published(alias: str) -> None:
    config = released_config(alias)
    assert {key: config[key] for key in SHARED} == SHARED
    assert tuple(map(config.get, SIZES)) == (OF_XL if "xl" in alias else OF_2B)
    assert config["is_turbo"] == ("turbo" in alias)
    assert parse_config(json.dumps(config).encode(), alias) == config


def spec_of(**settings: Any) -> JobSpec:
    return JobSpec.load(None, task="train", dataset_dir="tensors", output_dir="out", **settings)


def test_a_fine_tune_that_is_not_looked_at_is_as_its_base() -> None:
    spec = spec_of(model_variant="mine", base_model="xl-turbo")
    assert config_of(spec, offline=True) == released_config("xl-turbo")
    released = spec_of(model_variant="acestep-v15-xl-sft", base_model="turbo")
    assert config_of(released, offline=True) == released_config("xl-sft")
    with pytest.raises(BadSpecError, match=facts("model_variant mine", "turbo", "xl-sft", "base_model")):
        config_of(spec_of(model_variant="mine"), offline=True)


def test_a_checkpoint_s_own_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("model.safetensors", "silence_latent.pt"):
        (folder / name).touch()
    own = {key: value for key, value in tiny_config("base").items() if key != "is_turbo"}
    (folder / "config.json").write_text(json.dumps(own))
    spec = spec_of(model_variant="mine", base_model="turbo", checkpoint_dir=str(tmp_path))
    assert config_of(spec, offline=False) == {**own, "is_turbo": True}
