"""Loading is exact or refused: nothing missing, nothing left over, no other shape, no pickle."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sidestep import adapters
from sidestep.runtime.errors import BadDataError, MissingInputError
from tests.facts import facts

Edit = Callable[[dict[str, Tensor]], object]
Copy = Callable[[str], Path]
FILES = ("adapter_model.safetensors", "lokr_weights.safetensors")
LORA_KEY = "base_model.model.layers.0.self_attn.q_proj.lora_B.weight"
LOKR_KEY = "lycoris_layers_0_self_attn_q_proj.lokr_w2_a"


@pytest.fixture
def copy(golden: Path, tmp_path: Path) -> Copy:
    """A golden adapter that a test may damage."""

    def of(kind: str) -> Path:
        source = golden / "adapters" / "acestep-v15-base" / kind
        return Path(shutil.copytree(source, tmp_path / kind))

    return of


def edit_tensors(file: Path, edit: Edit, header: dict[str, str] | None = None) -> None:
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata if header is None else header)


def rename(old: str, new: str) -> Edit:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda t: t.pop(LORA_KEY), ["1 missing", LORA_KEY]),
        (lambda t: t.update(extra=torch.ones(2)), ["1 left over", "extra"]),
        (
            rename(LORA_KEY, LORA_KEY.replace("layers.0", "layers.9")),
            ["1 missing", "1 left over", "layers.9"],
        ),
        (lambda t: t.update({LORA_KEY: torch.ones(64, 5)}), ["lora_B.weight", "[64, 5]", "[64, 4]"]),
        (lambda t: t.update({LORA_KEY: torch.ones(64, 4, dtype=torch.int32)}), ["1 not", LORA_KEY]),
        (lambda t: t.clear(), ["no tensors"]),
        (
            lambda t: t.update({LORA_KEY.replace("lora_B.weight", "lora_magnitude_vector"): torch.ones(64)}),
            ["1 left over", "lora_magnitude_vector"],
        ),
    ],
)
def test_a_lora_that_does_not_fit_is_refused_and_leaves_the_model_alone(
    transformer: nn.Module, copy: Copy, edit: Edit, told: list[str]
) -> None:
    folder = copy("lora-attention")
    edit_tensors(folder / "adapter_model.safetensors", edit)
    names = list(dict(transformer.named_modules()))
    with pytest.raises(BadDataError, match=facts(*told)):
        adapters.load(transformer, folder)
    assert list(dict(transformer.named_modules())) == names


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda t: t.pop(LOKR_KEY), ["1 missing", LOKR_KEY]),
        (lambda t: t.update({LOKR_KEY.replace("w2_a", "w9"): torch.ones(2)}), ["1 left over", "lokr_w9"]),
        (rename(LOKR_KEY, "lycoris_layers_7_mlp_up_proj.lokr_w2_a"), ["1 left over", "lycoris_layers_7"]),
        (lambda t: t.update({LOKR_KEY: torch.ones(8, 3)}), ["lokr_w2_a", "[8, 3]", "[8, 2]"]),
        (lambda t: t[LOKR_KEY.replace("lokr_w2_a", "alpha")].fill_(9), ["alpha is 9", "3 in lokr_config"]),
    ],
)
def test_a_lokr_that_does_not_fit_is_refused_and_leaves_the_model_alone(
    transformer: nn.Module, copy: Copy, edit: Edit, told: list[str]
) -> None:
    folder = copy("lokr-lowrank")
    edit_tensors(folder / "lokr_weights.safetensors", edit)
    with pytest.raises(BadDataError, match=facts(*told)):
        adapters.load(transformer, folder)
    assert not hasattr(transformer, "lokr")
    assert not any("forward" in vars(module) for module in transformer.modules())


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({}, "lokr_config"),
        ({"algo": "loha", "lokr_config": "{}"}, "lokr_config"),
        ({"algo": "lokr", "lokr_config": '{"linear_dim": "many"}'}, "linear_dim"),
        ({"algo": "lokr", "lokr_config": '{"rs_lora": true}'}, "rs_lora"),
        *(
            ({"algo": "lokr", "lokr_config": f'{{"{field}": {value}}}'}, field)
            for field, values in {
                "linear_dim": (0, -4, 10**12, "true"),
                "linear_alpha": ("1e999", "NaN", "-1e200"),
                "factor": (0, -2, 10**12),
            }.items()
            for value in values
        ),
        ({"algo": "lokr", "lokr_config": "[" * 100_000}, "lokr_config"),
    ],
)
def test_a_lokr_whose_header_does_not_say_how_to_scale_it_is_refused(
    transformer: nn.Module, copy: Copy, header: dict[str, str], message: str
) -> None:
    folder = copy("lokr-lowrank")
    edit_tensors(folder / "lokr_weights.safetensors", lambda tensors: None, header)
    with pytest.raises(BadDataError, match=message):
        adapters.load(transformer, folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"peft_type": "LOHA"}, ["peft_type", "LORA"]),
        ({"peft_type": None}, ["peft_type"]),
        ({"r": 8}, ["lora_A.weight", "[4, 64]", "[8, 64]"]),
        ({"lora_alpha": "twelve"}, ["lora_alpha"]),
        ({"use_dora": True}, ["missing", "lora_magnitude_vector"]),
        ({"bias": "all"}, ["bias = 'all'"]),
        ({"init_lora_weights": "pissa"}, ["init_lora_weights = 'pissa'"]),
        ({"scaled_by_moonlight": 2}, ["scaled_by_moonlight = 2"]),
        ({"r": 0}, ["r: "]),
        ({"r": -1}, ["r: "]),
        ({"lora_alpha": math.inf}, ["lora_alpha: "]),
        ({"lora_dropout": 1.5}, ["lora_dropout: "]),
        ({"rank_pattern": {"q_proj": 0}}, ["rank_pattern"]),
        ({"rank_pattern": {"(!)+": 4}}, ["rank_pattern", "(!)+"]),  # (.+)+! would take for ever
        ({"rank_pattern": {".*.*.*.*!": 4}}, ["rank_pattern", ".*.*.*.*!"]),
        ({"alpha_pattern": {"(": 4}}, ["alpha_pattern", "'('"]),
        ({"alpha_pattern": dict.fromkeys(map(str, range(1001)), 4)}, ["alpha_pattern", "1001"]),
    ],
)
def test_a_config_that_asks_for_something_else_is_refused(
    transformer: nn.Module, copy: Copy, changes: dict[str, Any], told: list[str]
) -> None:
    folder = copy("lora-attention")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(BadDataError, match=facts(*told)):
        adapters.load(transformer, folder)


def test_a_config_that_is_no_utf8_is_named(transformer: nn.Module, copy: Copy) -> None:
    folder = copy("lora-attention")
    file = folder / "adapter_config.json"
    path = b'"base_model_name_or_path": "D:/mod\xe8les"'
    file.write_bytes(file.read_bytes().replace(b'"base_model_name_or_path": ""', path))
    assert path in file.read_bytes()
    with pytest.raises(BadDataError, match=facts(file)):
        adapters.load(transformer, folder)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize(("kind", "key"), [("lora-attention", LORA_KEY), ("lokr-lowrank", LOKR_KEY)])
def test_an_adapter_with_a_value_that_is_not_finite_is_refused(
    transformer: nn.Module, copy: Copy, kind: str, key: str, value: float
) -> None:
    folder = copy(kind)
    (file,) = folder.glob("*.safetensors")
    edit_tensors(file, lambda tensors: tensors[key].view(-1)[-1:].fill_(value))
    with pytest.raises(BadDataError, match=facts(file, "1 of", key)):
        adapters.load(transformer, folder)


def test_what_a_config_leaves_out_is_as_in_peft(transformer: nn.Module, copy: Copy) -> None:
    """Its alpha is 8 then, and the rank of this file is 4."""
    folder = copy("lora-attention")
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    del config["lora_alpha"]
    file.write_text(json.dumps(config))
    layers: dict[str, Any] = dict(adapters.load(transformer, folder).layers)
    assert layers["layers.0.self_attn.q_proj"].scaling["default"] == LoraConfig().lora_alpha / 4 == 2


def test_patterns_and_rslora_scale_as_in_peft(transformer: nn.Module, copy: Copy) -> None:
    folder = copy("lora-attention")
    file = folder / "adapter_config.json"
    patterns = {"alpha_pattern": {"layers.0.self_attn.q_proj": 2}, "rank_pattern": {"k_proj": 4}}
    config = json.loads(file.read_text()) | patterns | {"use_rslora": True, "init_lora_weights": "gaussian"}
    file.write_text(json.dumps(config))
    layers: dict[str, Any] = dict(adapters.load(transformer, folder).layers)
    assert layers["layers.0.self_attn.q_proj"].scaling["default"] == pytest.approx(2 / 4**0.5)
    assert layers["layers.0.self_attn.k_proj"].scaling["default"] == pytest.approx(12 / 4**0.5)


def test_pickles_are_refused(transformer: nn.Module, copy: Copy) -> None:
    folder = copy("lora-attention")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(BadDataError, match=facts("adapter_model.bin", "pickle", "safetensors")):
        adapters.load(transformer, folder)


def test_what_is_not_safetensors_is_refused(transformer: nn.Module, copy: Copy) -> None:
    folder = copy("lora-attention")
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(BadDataError, match=facts(file)):
        adapters.load(transformer, folder)


def test_two_adapters_in_one_folder_are_refused(transformer: nn.Module, copy: Copy) -> None:
    folder = copy("lora-attention")
    shutil.copy(copy("lokr") / "lokr_weights.safetensors", folder)
    with pytest.raises(BadDataError, match=facts(folder, *FILES)):
        adapters.load(transformer, folder)


@pytest.mark.parametrize("below", ["adapter", "final", "checkpoints/epoch_40"])
def test_an_adapter_below_is_named(transformer: nn.Module, copy: Copy, tmp_path: Path, below: str) -> None:
    """As other trainers' outputs have it, with their own state beside."""
    place = tmp_path / "theirs" / below
    place.parent.mkdir(parents=True)
    copy("lora-attention").rename(place)
    (tmp_path / "theirs" / "training_state.pt").write_bytes(b"pickle")
    with pytest.raises(MissingInputError, match=facts(place)):
        adapters.load(transformer, tmp_path / "theirs")


def test_a_folder_without_an_adapter_is_missing_input(
    transformer: nn.Module, copy: Copy, tmp_path: Path
) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(MissingInputError, match=facts(folder, *FILES)):
            adapters.load(transformer, folder)
    folder = copy("lora-attention")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(MissingInputError, match=facts(folder, "adapter_config.json")):
        adapters.load(transformer, folder)
