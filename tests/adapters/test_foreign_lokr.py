"""LoKR files of the ACE-Step app and of other trainers, written by LyCORIS itself on the original decoder.

They hold a module for every linear layer and for the convolution proj_in; where only some were trained, the
others are an update of exactly zero.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lycoris import LycorisNetwork, create_lycoris
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sidestep import adapters
from sidestep.acestep.loading import shapes_alone
from sidestep.acestep.names import diffusers_name
from sidestep.adapters.export import files_for
from sidestep.adapters.targets import layers_of
from sidestep.runtime.errors import BadDataError
from tests.facts import facts

from .conftest import Decode, NewTransformer
from .test_readers import OriginalDecoder, assert_same_function, by_app_lokr, by_comfyui, set_weights

FILE = "lokr_weights.safetensors"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL = ("",)  # every name ends with it
LOW_RANK: dict[str, Any] = {"linear_dim": 2, "linear_alpha": 5, "factor": 4}
FULL: dict[str, Any] = {"linear_dim": 64, "linear_alpha": 5, "factor": 4}
BOTH: dict[str, Any] = {"linear_dim": 1, "linear_alpha": 5, "factor": 4, "decompose_both": True}
TUCKER: dict[str, Any] = LOW_RANK | {"use_tucker": True}


def write_as_the_app(
    transformer: nn.Module, folder: Path, trained: tuple[str, ...], options: dict[str, Any]
) -> dict[str, Tensor]:
    """Write a file as the app's trainer does, and return its tensors.

    The modules whose names end with one of `trained` have an effect.
    """
    LycorisNetwork.apply_preset({"target_name": list(ATTENTION)})
    decoder = OriginalDecoder(transformer)
    named = {key: value for key, value in options.items() if key != "weight_decompose"}
    network = create_lycoris(
        decoder, 1.0, algo="lokr", dora_wd=options.get("weight_decompose", False), **named
    )
    network.apply_to()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in network.loras:
            if layer.lora_name.endswith(trained):
                for parameter in layer.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    config = {"target_modules": list(ATTENTION), **options}
    tensors = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    for layer in network.loras:
        layer.restore()
    header = {"algo": "lokr", "format": "lycoris", "lokr_config": json.dumps(config)}
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / FILE, header)
    return tensors


def modules_of(tensors: dict[str, Tensor]) -> set[str]:
    return {name.split(".")[0] for name in tensors}


def edit(folder: Path, **tensors: Tensor) -> None:
    with safe_open(folder / FILE, "pt") as file:
        header = file.metadata()
    save_file(load_file(folder / FILE) | tensors, folder / FILE, header)


def applied(transformer: nn.Module, tensors: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """W + scale · kron(w1, w2) for every module of a file, by the formula alone."""
    weights = {}
    for path, layer in layers_of(transformer, nn.Linear, nn.Conv1d).items():
        own = {
            name.split(".")[1]: tensor
            for name, tensor in tensors.items()
            if name.split(".")[0] == "lycoris_" + path.replace(".", "_")
        }
        if own:
            base: Any = layer
            out, into, *width = base.weight.shape
            w1 = own["lokr_w1"] if "lokr_w1" in own else own["lokr_w1_a"] @ own["lokr_w1_b"]
            if "lokr_t2" in own:
                w2 = torch.einsum("ijk,ip,jr->prk", own["lokr_t2"], own["lokr_w2_a"], own["lokr_w2_b"])
            elif "lokr_w2" in own:
                w2 = own["lokr_w2"]
            else:
                w2 = own["lokr_w2_a"] @ own["lokr_w2_b"]
            w2 = w2.reshape(out // w1.shape[0], into // w1.shape[1], -1)
            update = torch.einsum("ab,cdk->acbdk", w1, w2).reshape(out, into, *width)
            is_full = "lokr_w1" in own and "lokr_w2" in own
            weights[path] = base.weight.detach() + (1 if is_full else scale) * update
    return weights


@pytest.mark.parametrize("options", [LOW_RANK, FULL, BOTH, TUCKER], ids=["low", "full", "both", "tucker"])
@pytest.mark.parametrize("trained", [ATTENTION, ALL], ids=["attention", "all"])
def test_a_file_of_the_app_computes_what_it_says(
    new_transformer: NewTransformer,
    decode: Decode,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    trained: tuple[str, ...],
) -> None:
    tensors = write_as_the_app(new_transformer(), tmp_path, trained, options)
    assert {"lycoris_proj_in_1", "lycoris_condition_embedder"} < modules_of(tensors)
    fresh = new_transformer()
    with caplog.at_level("INFO"):
        adapter = adapters.load(fresh, tmp_path)
    zero = [path for path in modules_of(tensors) if not path.endswith(trained)]
    assert len(adapter.layers) == len(modules_of(tensors)) - len(zero)
    lines = [record.getMessage() for record in caplog.records if FILE in record.getMessage()]
    assert len(lines) == (1 if zero else 0)
    assert all(f"{len(zero)} of {len(modules_of(tensors))} modules" in line for line in lines)
    scale = options["linear_alpha"] / options["linear_dim"]
    by_formula = set_weights(new_transformer(), applied(new_transformer(), tensors, scale))
    with torch.no_grad():
        output = decode(by_formula)
        assert (output - decode(new_transformer())).abs().max() > 0.01
    assert_same_function(decode, fresh, output)


@pytest.mark.parametrize("options", [LOW_RANK, FULL, BOTH, TUCKER], ids=["low", "full", "both", "tucker"])
def test_exported_it_is_the_same_in_every_reader(
    new_transformer: NewTransformer,
    decode: Decode,
    golden: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
) -> None:
    write_as_the_app(new_transformer(), tmp_path, ALL, options)
    loaded = new_transformer()
    adapters.load(loaded, tmp_path)
    with torch.no_grad():
        output = decode(loaded)
    config = json.loads((golden / "checkpoints/acestep-v15-base/config.json").read_text())
    for format_, read in {"app": by_app_lokr, "comfyui": by_comfyui}.items():
        folder = tmp_path / format_
        folder.mkdir()
        exported = files_for(adapters.load(shapes_alone(config), tmp_path), format_, "x")
        (folder / FILE).write_bytes(exported[FILE if format_ == "app" else "x.safetensors"])
        weights = read(OriginalDecoder(new_transformer()), folder)
        assert_same_function(decode, set_weights(new_transformer(), weights), output)
    with caplog.at_level("WARNING"):
        exported = files_for(adapters.load(shapes_alone(config), tmp_path), "diffusers", "x")
    (tmp_path / "diffusers_lokr_weights.safetensors").write_bytes(
        exported["diffusers_lokr_weights.safetensors"]
    )
    by_diffusers = new_transformer()
    by_diffusers.load_lora_adapter(tmp_path, weight_name="diffusers_lokr_weights.safetensors")
    with torch.no_grad():
        difference = (decode(by_diffusers.eval()) - output).abs().max()
    is_whole = options in (LOW_RANK, BOTH)
    assert (difference <= 1e-4) == is_whole
    assert ("proj_in.1" in caplog.text) != is_whole


def test_an_update_of_zero_by_either_factor_and_with_decomposition(
    new_transformer: NewTransformer, tmp_path: Path
) -> None:
    options = FULL | {"weight_decompose": True}
    tensors = write_as_the_app(new_transformer(), tmp_path, ATTENTION, options)
    trained = {path for path in modules_of(tensors) if path.endswith(ATTENTION)}
    assert len(adapters.load(new_transformer(), tmp_path).layers) == len(trained)
    moved = "lycoris_proj_in_1.dora_scale"  # its factors are zero, the lengths of its rows are not the base's
    edit(tmp_path, **{moved: tensors[moved] * 1.001})
    assert "proj_in.1" in adapters.load(new_transformer(), tmp_path).layers
    name = "lycoris_layers_0_self_attn_q_proj"
    scale = load_file(tmp_path / FILE)["lycoris_layers_0_self_attn_k_proj.dora_scale"]
    assert scale.any()
    write_as_the_app(new_transformer(), tmp_path, ATTENTION, FULL)
    edit(tmp_path, **{f"{name}.lokr_w1": torch.zeros_like(tensors[f"{name}.lokr_w1"])})
    layers = adapters.load(new_transformer(), tmp_path).layers
    assert len(layers) == len(trained) - 1
    assert "layers.0.self_attn.q_proj" not in layers


def test_a_fresh_adapter_that_is_zero_everywhere_keeps_its_modules(
    new_transformer: NewTransformer, tmp_path: Path
) -> None:
    tensors = write_as_the_app(new_transformer(), tmp_path, ("nothing",), LOW_RANK)
    assert len(adapters.load(new_transformer(), tmp_path).layers) == len(modules_of(tensors))


def test_a_transposed_convolution_is_dropped_where_it_is_zero_and_else_refused(
    new_transformer: NewTransformer, tmp_path: Path
) -> None:
    write_as_the_app(new_transformer(), tmp_path, ATTENTION, LOW_RANK)
    zero = {"alpha": torch.tensor(5.0), "lokr_w1": torch.ones(4, 4), "lokr_w2": torch.zeros(16, 16, 2)}
    edit(tmp_path, **{f"lycoris_proj_out_1.{name}": tensor for name, tensor in zero.items()})
    assert "proj_out.1" not in adapters.load(new_transformer(), tmp_path).layers
    edit(tmp_path, **{"lycoris_proj_out_1.lokr_w2": torch.ones(16, 16, 2)})
    fresh = new_transformer()
    with pytest.raises(BadDataError, match=facts("lycoris_proj_out_1", tmp_path / FILE)):
        adapters.load(fresh, tmp_path)
    assert not hasattr(fresh, "lokr")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["lycoris_layers_1_mlp_up_proj.lokr_w1", "lycoris_proj_out_1.lokr_w1"])
def test_what_is_not_a_number_is_not_taken_for_zero(
    new_transformer: NewTransformer, tmp_path: Path, name: str, value: float
) -> None:
    """The other factor of that module is zero: the product would be NaN, not zero."""
    write_as_the_app(new_transformer(), tmp_path, ATTENTION, LOW_RANK)
    zero = {"alpha": torch.tensor(5.0), "lokr_w1": torch.ones(4, 4), "lokr_w2": torch.zeros(16, 16, 2)}
    edit(tmp_path, **{f"lycoris_proj_out_1.{key}": tensor for key, tensor in zero.items()})
    edit(tmp_path, **{name: torch.full_like(load_file(tmp_path / FILE)[name], value)})
    with pytest.raises(BadDataError, match=facts(name, tmp_path / FILE)):
        adapters.load(new_transformer(), tmp_path)


def test_a_module_that_this_model_lacks_is_refused_even_at_zero(
    new_transformer: NewTransformer, tmp_path: Path
) -> None:
    tensors = write_as_the_app(new_transformer(), tmp_path, ATTENTION, LOW_RANK)
    of_a_larger = {
        name.replace("layers_0", "layers_9"): tensor.clone()
        for name, tensor in tensors.items()
        if "layers_0_mlp" in name
    }
    edit(tmp_path, **of_a_larger)
    with pytest.raises(BadDataError, match=facts("layers_9")):
        adapters.load(new_transformer(), tmp_path)


def test_names_reach_the_convolution(new_transformer: NewTransformer) -> None:
    layers = layers_of(new_transformer(), nn.Conv1d)
    assert list(layers) == ["proj_in.1"]
    assert new_transformer().get_submodule(diffusers_name("proj_in.1")) is not None
