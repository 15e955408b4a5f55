"""config.json: what a fine-tune says wins, what it leaves out is its base's, and nonsense is refused."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep.acestep.config import read_config, whole_config
from sidestep.acestep.tiny import tiny_config
from sidestep.runtime.errors import BadDataError
from tests.facts import facts, tells

OWN = ("is_turbo", "timestep_mu", "timestep_sigma", "timbre_fix_frame")


def write(folder: Path, config: dict[str, Any], name: str = "my-finetune") -> Path:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "config.json").write_text(json.dumps(config))
    return folder / name


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in tiny_config("base").items() if key not in keys}


def test_a_fine_tune_takes_what_it_leaves_out_from_its_base(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = write(tmp_path, without(*OWN))
    assert {key: read_config(folder, "turbo")[key] for key in OWN} == {
        "is_turbo": True,
        "timestep_mu": -0.4,
        "timestep_sigma": 1.0,
        "timbre_fix_frame": 750,
    }
    assert tells(caplog.text, *OWN, "as in turbo")
    caplog.clear()
    assert read_config(folder)["is_turbo"] is False
    assert tells(caplog.text, "as in base", "base_model")


def test_what_a_fine_tune_says_wins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    own = {"is_turbo": False, "timestep_mu": 0.25, "timestep_sigma": 2, "timbre_fix_frame": 100}
    folder = write(tmp_path, {**without(), **own})
    assert {key: read_config(folder, "turbo")[key] for key in OWN} == own
    assert not caplog.text
    write(tmp_path, {**without(), **own, "is_turbo": None})  # null says nothing
    assert read_config(folder, "turbo")["is_turbo"] is True


def test_a_release_is_its_own_base(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    folder = write(tmp_path, without("is_turbo"), "acestep-v15-xl-turbo")
    assert read_config(folder)["is_turbo"] is True
    assert tells(caplog.text, "is_turbo", "as in xl-turbo") and "timestep_mu" not in caplog.text


def test_rope_theta_wherever_transformers_wrote_it(tmp_path: Path) -> None:
    folder = write(tmp_path, {**without("rope_theta"), "rope_parameters": {"rope_theta": 5000.0}})
    assert read_config(folder)["rope_theta"] == 5000.0
    assert read_config(write(tmp_path, without("rope_theta")))["rope_theta"] == 1_000_000


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hidden_size": "64"}, ["hidden_size", "integer"]),
        ({"num_hidden_layers": 10**9}, ["num_hidden_layers", "1024"]),
        ({"hidden_size": 0}, ["hidden_size", "1"]),
        ({"intermediate_size": 2**20 + 1}, ["intermediate_size", str(2**20)]),
        ({"timestep_mu": float("nan")}, ["timestep_mu"]),
        ({"rope_theta": float("inf")}, ["rope_theta", "finite"]),
        ({"num_attention_heads": 3}, ["num_attention_heads", "num_key_value_heads"]),
        ({"head_dim": 15}, ["head_dim", "even"]),
        ({"layer_types": ["sliding_attention"]}, ["layer_types", "1 entries"]),
        ({"timestep_sigma": -1}, ["timestep_sigma", "0"]),
        ({"rope_parameters": [1]}, ["rope_parameters", "dictionary"]),
    ],
)
def test_what_is_no_config_of_the_model(tmp_path: Path, change: dict[str, Any], told: list[str]) -> None:
    folder = write(tmp_path, {**without(), **change})
    with pytest.raises(BadDataError, match=facts(folder / "config.json", *told)):
        read_config(folder)


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b"{", b"[" * 100_000, b"\xff"])
def test_what_is_no_json_object(content: bytes) -> None:
    with pytest.raises(BadDataError, match=facts("set/mine/config.json")):
        whole_config(content, "set/mine/config.json")


def test_what_is_missing_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match=facts("hidden_size", "head_dim")):
        read_config(write(tmp_path, {"model_type": "qwen3"}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(sorted(tiny_config("xl-base"))), JSON, max_size=4))
def test_any_values_give_a_model_s_skeleton_or_a_clear_no(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    """Whatever passes the check, the modules can be built from."""
    import torch

    from sidestep.acestep.loading import build_condition_encoder, build_transformer

    folder = write(tmp_path_factory.mktemp("fuzz"), {**tiny_config("xl-base"), **changes})
    try:
        config = read_config(folder)
    except BadDataError:
        return
    with torch.device("meta"):
        build_transformer(config)
        build_condition_encoder(config)


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "config.json").write_bytes(data)
    with pytest.raises(BadDataError):
        read_config(folder)
