"""Encoders' files of others' making: refused by name, allocating nothing, and none of their code runs."""

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from sidestep.acestep import load_text_encoder, load_vae
from sidestep.acestep.layout import TEXT_ENCODER_FOLDER, VAE_FOLDER
from sidestep.runtime.errors import BadDataError
from tests.facts import facts

CODE = dict.fromkeys(("AutoTokenizer", "AutoConfig", "AutoModel"), "spy.Spy")
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


@pytest.fixture
def checkpoints(tiny_checkpoints: Path, tmp_path: Path) -> Path:
    for folder in (TEXT_ENCODER_FOLDER, VAE_FOLDER):
        shutil.copytree(tiny_checkpoints / folder, tmp_path / "set" / folder)
    return tmp_path / "set"


def change(path: Path, change: bytes | dict[str, Any]) -> None:
    """Write other content, or the same with other fields."""
    if isinstance(change, dict):
        change = json.dumps(json.loads(path.read_bytes()) | change).encode()
    path.write_bytes(change)


def refuse(checkpoints: Path, name: str, *told: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load = load_vae if name.startswith(VAE_FOLDER) else load_text_encoder
    with pytest.raises(BadDataError, match=facts(*told)):
        load(checkpoints, "cpu", torch.float32)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize(
    "changed",
    [
        *(b"", b"[]", b"null", DEEP, b"\xff"),
        *({"vocab_size": 10**9}, {"hidden_size": "x"}, {"hidden_size": -1}, {"num_hidden_layers": 10**9}),
        *({"num_hidden_layers": 1000}, {"intermediate_size": 2**20}, {"vocab_size": 2**24}),
        *({"hidden_act": "no such"}, {"rope_parameters": []}, {"rope_parameters": {"rope_type": "no such"}}),
        *({"layer_types": ["x"]}, {"layer_types": []}, {"num_key_value_heads": 3}, {"head_dim": {}}),
    ],
)
def test_a_text_encoder_s_config(checkpoints: Path, changed: bytes | dict[str, Any]) -> None:
    name = f"{TEXT_ENCODER_FOLDER}/config.json"
    change(checkpoints / name, changed)
    refuse(checkpoints, name, TEXT_ENCODER_FOLDER)


@pytest.mark.parametrize(
    "changed",
    [
        *(
            b"",
            b"[]",
            DEEP,
            {"encoder_hidden_size": 10**9},
            {"decoder_channels": 10**9},
            {"audio_channels": 0},
        ),
        *({"encoder_hidden_size": 2**20}, {"decoder_channels": 2**20, "channel_multiples": [2**20] * 5}),
        *({"downsampling_ratios": [2] * 10**5}, {"downsampling_ratios": []}, {"downsampling_ratios": [2, 2]}),
        *({"channel_multiples": 7}, {"channel_multiples": None}, {"sampling_rate": "x"}),
    ],
)
def test_a_vae_s_config(checkpoints: Path, changed: bytes | dict[str, Any]) -> None:
    name = f"{VAE_FOLDER}/config.json"
    change(checkpoints / name, changed)
    refuse(checkpoints, name, VAE_FOLDER)


@pytest.mark.parametrize(
    "changed",
    [
        *(b"", b"[]", b"{}", DEEP, {"model": None}, {"model": {"type": "no such"}}, {"added_tokens": 3}),
        *({"pre_tokenizer": 1}, {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}}}),
        {"model": {"type": "BPE", "vocab": {"a": 10**9}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}},
        {"model": {"type": "WordLevel", "vocab": {"a": 1}, "unk_token": "none"}},
        {"truncation": {"direction": "Right", "max_length": -1}},
    ],
)
def test_a_tokenizer(checkpoints: Path, changed: bytes | dict[str, Any]) -> None:
    name = f"{TEXT_ENCODER_FOLDER}/tokenizer.json"
    change(checkpoints / name, changed)
    refuse(checkpoints, name, "tokenizer.json")


@pytest.mark.parametrize(
    "changed",
    [
        *(b"[]", b"", DEEP, {"tokenizer_class": "AutoModel"}, {"tokenizer_class": 3}),
        *({"tokenizer_class": "LlamaTokenizer"}, {"auto_map": CODE}, {"auto_map": [1]}),
        *({"pad_token": 3}, {"model_max_length": "x"}, {"added_tokens_decoder": {"a": []}}),
    ],
)
def test_a_tokenizer_s_settings(checkpoints: Path, changed: bytes | dict[str, Any]) -> None:
    name = f"{TEXT_ENCODER_FOLDER}/tokenizer_config.json"
    change(checkpoints / name, changed)
    refuse(checkpoints, name, TEXT_ENCODER_FOLDER)


def test_no_code_of_theirs_runs(checkpoints: Path, tmp_path: Path) -> None:
    folder = checkpoints / TEXT_ENCODER_FOLDER
    (folder / "spy.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Spy: pass\n")
    named = {"auto_map": CODE, "attn_implementation": "someone/kernel:run", "quantization_config": {"a": 1}}
    change(folder / "config.json", named)
    assert load_text_encoder(checkpoints, "cpu", torch.float32).model.config._attn_implementation == "sdpa"
    assert not (tmp_path / "ran").exists()


def test_no_adapter_is_loaded_along(checkpoints: Path) -> None:
    (checkpoints / TEXT_ENCODER_FOLDER / "adapter_config.json").write_text("{}")
    refuse(checkpoints, TEXT_ENCODER_FOLDER, "adapter_config.json")


def test_what_the_tokenizer_s_library_gives_up_on(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    def panic(*_given: Any, **_named: Any) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", panic)
    refuse(checkpoints, TEXT_ENCODER_FOLDER, "tokenizer.json", "index out of bounds")


def test_an_interruption_is_no_damage(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_given: Any, **_named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", stop)
    with pytest.raises(KeyboardInterrupt):
        load_text_encoder(checkpoints, "cpu", torch.float32)
