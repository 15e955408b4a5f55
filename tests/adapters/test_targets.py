"""Which modules a name chooses."""

import pytest
from pydantic import ValidationError
from torch import nn

from sidestep.acestep.names import decoder_modules
from sidestep.adapters.targets import target_paths
from sidestep.config.adapter import ATTENTION_MODULES, MLP_MODULES, AdapterSpec
from sidestep.config.targets import is_end_of, target_names
from sidestep.runtime.errors import BadSpecError
from tests.facts import facts


def test_attention_in_every_layer_in_the_models_order(transformer: nn.Module) -> None:
    paths = target_paths(transformer, ATTENTION_MODULES)
    assert len(paths) == 4 * 2 * 4  # layers, self- and cross-attention, q k v o
    assert paths[:5] == [
        *(f"layers.0.self_attn.{name}" for name in ATTENTION_MODULES),
        "layers.0.cross_attn.q_proj",
    ]


def test_the_modules_that_a_config_promises_are_those_of_the_model(transformer: nn.Module) -> None:
    assert target_paths(transformer, (*ATTENTION_MODULES, *MLP_MODULES)) == decoder_modules(4)


def test_the_end_of_a_path_and_the_mlp(transformer: nn.Module) -> None:
    paths = target_paths(transformer, ("layers.3.self_attn.o_proj", "up_proj", "layers.3.self_attn.o_proj"))
    assert paths == [
        *(f"layers.{i}.mlp.up_proj" for i in range(3)),
        "layers.3.self_attn.o_proj",
        "layers.3.mlp.up_proj",
    ]
    assert len(target_paths(transformer, MLP_MODULES)) == 4 * 3


@pytest.mark.parametrize(
    "name", ["to_q", "proj", "self_attn", "layers.9.self_attn.q_proj", "condition_embedder"]
)
def test_a_name_that_names_nothing_is_refused_with_what_there_is(transformer: nn.Module, name: str) -> None:
    with pytest.raises(BadSpecError, match=facts(name, "q_proj", "layers.0.self_attn.q_proj")):
        target_paths(transformer, ("q_proj", name))


def test_ends_are_whole_components() -> None:
    assert is_end_of("o_proj", "self_attn.o_proj")
    assert is_end_of("self_attn.o_proj", "self_attn.o_proj")
    assert not is_end_of("proj", "self_attn.o_proj")
    assert not is_end_of("layers.1.mlp.up_proj", "layers.11.mlp.up_proj")


def test_attention_narrows_the_attention_modules_alone(transformer: nn.Module) -> None:
    names = ("q_proj", "up_proj", "layers.1.self_attn.v_proj")
    spec = AdapterSpec(target_modules=names, attention="cross")
    assert target_names(spec) == ("cross_attn.q_proj", "up_proj", "layers.1.self_attn.v_proj")
    paths = target_paths(transformer, target_names(spec))
    assert sum("cross_attn.q_proj" in path for path in paths) == 4
    assert not any("self_attn.q_proj" in path for path in paths)
    assert target_names(AdapterSpec(target_modules=names)) == names


@pytest.mark.parametrize("names", [("up_proj",), ("layers.0.cross_attn.q_proj", "gate_proj")])
def test_an_attention_that_narrows_nothing_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match=facts("attention\n", "target_modules")):
        AdapterSpec(target_modules=names, attention="self")
    assert AdapterSpec(target_modules=names).attention == "both"
