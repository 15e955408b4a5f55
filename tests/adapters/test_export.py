"""`sidestep export`: each known format in, the one asked for out, and the same function in its reader."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AceStepPipeline
from torch import Tensor, nn

from sidestep import adapters
from sidestep.adapters.adapter import read_safetensors
from sidestep.cli import main
from sidestep.config.adapter import AdapterSpec
from sidestep.runtime.errors import ExitCode
from sidestep.storage.local import LocalStore
from tests.s3 import S3Server

from .conftest import Decode, MakeEffective, NewTransformer
from .test_readers import OriginalDecoder, assert_same_function, by_app_lokr, by_comfyui, by_peft, set_weights

LORA = AdapterSpec(rank=4, alpha=12, target_modules=("q_proj", "up_proj"), rank_pattern={"up_proj": 3})
MLP_ALONE = AdapterSpec(rank=4, alpha=6, target_modules=("gate_proj",))
DORA = LORA.model_copy(update={"weight_decompose": True})
LOKR = AdapterSpec(type="lokr", rank=2, alpha=5, factor=4, use_scalar=True)
DECOMPOSED = AdapterSpec(type="lokr", rank=2, alpha=5, factor=4, weight_decompose=True)
Publish = Callable[[AdapterSpec], Tensor]
Export = Callable[..., list[str]]
FACTOR_ABOVE_ROOT = AdapterSpec(type="lokr", rank=2, alpha=5, factor=8)


@pytest.fixture
def published(transformer: nn.Module, decode: Decode, make_effective: MakeEffective) -> Publish:
    """Publishes an adapter to my-lora/adapter as training does; returns what the model computes with it."""

    def publish(spec: AdapterSpec) -> Tensor:
        adapter = adapters.inject(transformer, spec, seed=1)
        make_effective(adapter)
        Path("my-lora/adapter").mkdir(parents=True)
        for name, data in adapters.publish(adapter).items():
            Path("my-lora/adapter", name).write_bytes(data)
        with torch.no_grad():
            return decode(transformer.eval())

    return publish


@pytest.fixture
def export(golden: Path) -> Export:
    def run(place: str, format_: str, code: ExitCode = ExitCode.DONE) -> list[str]:
        words = ["export", place, "--format", format_, "--checkpoint-dir", str(golden / "checkpoints")]
        assert main(words) == code
        folder = Path(f"{place}-{format_}")
        return sorted(file.name for file in folder.iterdir()) if folder.exists() else []

    return run


@pytest.mark.parametrize(
    "spec", [LORA, MLP_ALONE, DORA, MLP_ALONE.model_copy(update={"weight_decompose": True})]
)
def test_lora(
    spec: AdapterSpec, published: Publish, export: Export, new_transformer: NewTransformer, decode: Decode
) -> None:
    output = published(spec)
    assert export("my-lora/adapter", "app") == ["adapter_config.json", "adapter_model.safetensors"]
    assert export("my-lora/adapter", "diffusers") == ["pytorch_lora_weights.safetensors"]
    assert export("my-lora/adapter", "comfyui") == ["my-lora.safetensors"]

    weights = by_peft(OriginalDecoder(new_transformer()), Path("my-lora/adapter-app"))
    assert_same_function(decode, set_weights(new_transformer(), weights), output)
    by_diffusers = new_transformer()
    AceStepPipeline(None, None, None, by_diffusers, None, None).load_lora_weights("my-lora/adapter-diffusers")
    assert_same_function(decode, by_diffusers, output)
    Path("my-lora/adapter-comfyui/my-lora.safetensors").rename(
        "my-lora/adapter-comfyui/adapter_model.safetensors"
    )
    weights = by_comfyui(OriginalDecoder(new_transformer()), Path("my-lora/adapter-comfyui"))
    assert_same_function(decode, set_weights(new_transformer(), weights), output)


def test_from_diffusers_and_back(
    published: Publish, export: Export, new_transformer: NewTransformer, decode: Decode
) -> None:
    output = published(LORA)
    export("my-lora/adapter", "diffusers")
    export("my-lora/adapter-diffusers", "app")
    weights = by_peft(OriginalDecoder(new_transformer()), Path("my-lora/adapter-diffusers-app"))
    assert_same_function(decode, set_weights(new_transformer(), weights), output)


def test_lokr(published: Publish, export: Export, new_transformer: NewTransformer, decode: Decode) -> None:
    output = published(LOKR)
    assert export("my-lora/adapter", "app") == ["lokr_weights.safetensors"]
    assert export("my-lora/adapter", "diffusers") == ["diffusers_lokr_weights.safetensors"]
    assert export("my-lora/adapter", "comfyui") == ["my-lora.safetensors"]

    weights = by_app_lokr(OriginalDecoder(new_transformer()), Path("my-lora/adapter-app"))
    assert_same_function(decode, set_weights(new_transformer(), weights), output)
    by_diffusers = new_transformer()
    by_diffusers.load_lora_adapter(
        "my-lora/adapter-diffusers", weight_name="diffusers_lokr_weights.safetensors"
    )
    assert_same_function(decode, by_diffusers, output)
    Path("my-lora/adapter-comfyui/my-lora.safetensors").rename(
        "my-lora/adapter-comfyui/lokr_weights.safetensors"
    )
    weights = by_comfyui(OriginalDecoder(new_transformer()), Path("my-lora/adapter-comfyui"))
    assert_same_function(decode, set_weights(new_transformer(), weights), output)


def test_a_decomposed_lokr_keeps_its_numbers_and_is_refused_where_it_would_change(
    published: Publish, export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    published(DECOMPOSED)
    export("my-lora/adapter", "app")
    before, _ = read_safetensors(Path("my-lora/adapter/lokr_weights.safetensors"))
    after, _ = read_safetensors(Path("my-lora/adapter-app/lokr_weights.safetensors"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert export("my-lora/adapter", "comfyui", ExitCode.USAGE) == []
    assert "weight_decompose" in capsys.readouterr().err


def test_a_lokr_that_diffusers_cannot_represent_is_refused(published: Publish, export: Export) -> None:
    published(FACTOR_ABOVE_ROOT)
    assert export("my-lora/adapter", "diffusers", ExitCode.USAGE) == []


def test_a_folder_that_the_app_cannot_load_by_its_name(
    published: Publish, export: Export, caplog: pytest.LogCaptureFixture, golden: Path
) -> None:
    published(LORA)
    Path("my-lora/adapter").rename("my-lora/soul.v2.1")
    assert export("my-lora/soul.v2.1", "diffusers")
    assert not export("my-lora/soul.v2.1", "app")  # it would be in soul.v2.1-app
    assert Path("my-lora/soul-v2-1-app/adapter_model.safetensors").is_file()
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    for format_, warnings in {"app": 1, "comfyui": 0}.items():
        place = ["--checkpoint-dir", str(golden / "checkpoints"), "--output", f"some.where/{format_}.x"]
        assert main(["export", "my-lora/soul.v2.1", "--format", format_, *place]) == ExitCode.DONE
        told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(told) == warnings
        assert all(f"{format_}-x" in line and f"{format_}.x" in line for line in told)
        caplog.clear()


def test_one_that_is_cut_off_is_no_adapter(
    published: Publish, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor weights of one export beside the configuration of another."""
    published(LORA)
    assert export("my-lora/adapter", "app") == ["adapter_config.json", "adapter_model.safetensors"]

    def cut_off(self: LocalStore, name: str, data: bytes) -> None:
        write(self, name, data)
        raise KeyboardInterrupt

    write = LocalStore.write_bytes
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "write_bytes", cut_off)
        assert export("my-lora/adapter", "app", ExitCode.AGAIN) == ["adapter_model.safetensors"]
    assert export("my-lora/adapter", "app") == ["adapter_config.json", "adapter_model.safetensors"]


def test_from_a_bucket_it_leaves_nothing_outside_the_workspace(
    published: Publish, golden: Path, tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(LORA)
    store = s3_server.store("adapter")
    for file in Path("my-lora/adapter").iterdir():
        store.upload(file, file.name)
    seen = []
    load = adapters.load

    def note(transformer: nn.Module, place: str) -> object:
        seen.append(Path(place))
        return load(transformer, place)

    monkeypatch.setattr(adapters, "load", note)
    words = ["export", store.place, "--format", "app", "--output", "here", "--workspace", "workspace"]
    endpoint = ["--endpoint-url", s3_server.endpoint, "--checkpoint-dir", str(golden / "checkpoints")]
    assert main([*words, *endpoint]) == ExitCode.DONE
    assert seen[0].parent.parent == tmp_path / "workspace/temporary"
    assert not list(seen[0].parent.parent.iterdir())


def test_no_adapter_there(export: Export, capsys: pytest.CaptureFixture[str]) -> None:
    assert export("my-lora/adapter", "app", ExitCode.MISSING) == []
    assert "my-lora/adapter" in capsys.readouterr().err


def test_another_model_s_adapter_is_refused(published: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    published(LORA)
    assert main(["export", "my-lora/adapter", "--format", "app", "--offline"]) == ExitCode.BAD_DATA
    assert "of the wrong shape" in capsys.readouterr().err
