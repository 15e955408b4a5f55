"""Adapter files in the app's formats compute what the app computed with them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sidestep import adapters
from sidestep.acestep.loading import load_model

from .conftest import Decode, NewTransformer


@pytest.mark.parametrize(
    "kind", ["lora-attention", "lora-all", "lokr", "lokr-lowrank", "lokr-dora", "lokr-both"]
)
@pytest.mark.parametrize("variant", ["base", "turbo", "xl-base"])
def test_a_recorded_adapter_gives_the_recorded_output(
    golden: Path, expected: dict[str, Tensor], variant: str, kind: str
) -> None:
    model = load_model(golden / "checkpoints", variant, parts=("transformer",))
    folder = f"acestep-v15-{variant}"
    names = ("hidden_states", "context_latents", "encoder_hidden_states", "timestep")
    inputs = {name: expected[f"{folder}/decoder.{name}"] for name in names}
    adapters.load(model, golden / "adapters" / folder / kind)
    with torch.no_grad():
        output = model.transformer(**inputs, timestep_r=inputs["timestep"], return_dict=False)[0]
    recorded = expected[f"{folder}/adapter.{kind}.output"]
    plain = expected[f"{folder}/decoder.output"]
    assert (output - recorded).abs().max() <= 3e-5 * max(1, float(recorded.abs().max()))
    assert (recorded - plain).abs().max() > 0.1  # a golden adapter that does nothing would prove nothing


@pytest.mark.parametrize("kind", ["lora-all", "lokr", "lokr-lowrank", "lokr-dora", "lokr-both"])
def test_published_again_it_is_the_same_function(
    golden: Path, new_transformer: NewTransformer, decode: Decode, kind: str, tmp_path: Path
) -> None:
    first, second = new_transformer(), new_transformer()
    adapter = adapters.load(first, golden / "adapters" / "acestep-v15-base" / kind)
    for name, data in adapters.publish(adapter).items():
        (tmp_path / name).write_bytes(data)
    adapters.load(second, tmp_path)
    with torch.no_grad():
        assert (decode(first) - decode(second)).abs().max() <= 1e-5


def test_a_trained_scalar_is_folded_into_the_files(
    golden: Path, new_transformer: NewTransformer, decode: Decode, tmp_path: Path
) -> None:
    source = golden / "adapters" / "acestep-v15-base" / "lokr-lowrank" / "lokr_weights.safetensors"
    with safe_open(source, "pt") as opened:
        header = opened.metadata()
    header["lokr_config"] = json.dumps(json.loads(header["lokr_config"]) | {"use_scalar": True})
    save_file(load_file(source), tmp_path / source.name, header)
    first, second = new_transformer(), new_transformer()
    adapter = adapters.load(first, tmp_path)
    with torch.no_grad():
        for name, parameter in adapter.parameters().items():
            if name.endswith(".scalar"):
                assert parameter == 1  # a file's weights hold it already
                parameter.fill_(0.5)
        output = decode(first)
    (tmp_path / source.name).write_bytes(adapters.publish(adapter)[source.name])
    adapters.load(second, tmp_path)
    with torch.no_grad():
        assert (decode(second) - output).abs().max() <= 1e-5
        assert (decode(second) - decode(new_transformer())).abs().max() > 0.01
