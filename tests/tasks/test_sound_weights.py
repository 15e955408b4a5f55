"""Weights that are NaN or infinite, and a damaged tokenizer, end a job before its first song or step."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sidestep.acestep.loading import load_model, load_text_encoder, load_vae
from sidestep.acestep.weights import check_finite
from sidestep.cli import main
from sidestep.data import encode
from sidestep.data.encode import SongEncoder
from sidestep.runtime.errors import BadDataError, ExitCode
from tests.facts import facts, tells
from tests.songs import song, write_songs
from tests.tasks.preprocessing import write_song

MODEL, VAE, TEXT = (
    "acestep-v15-base/model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "Qwen3-Embedding-0.6B/model.safetensors",
)
IN_DECODER = "decoder.layers.1.mlp.up_proj.weight"
IN_ENCODER = "encoder.lyric_encoder.layers.0.mlp.up_proj.weight"
Edit = Callable[[Tensor], Tensor]


@pytest.fixture
def checkpoints(tiny_checkpoints: Path, tmp_path: Path) -> Path:
    for folder in ("acestep-v15-base", "vae", "Qwen3-Embedding-0.6B"):
        shutil.copytree(tiny_checkpoints / folder, tmp_path / "set" / folder)
    return tmp_path / "set"


def spoil(file: Path, key: str, value: float, dtype: torch.dtype = torch.float32) -> None:
    """One value, the last, of one tensor."""
    weights = load_file(file)
    weights[key] = weights[key].to(dtype)
    weights[key].view(-1)[-1] = value
    save_file(weights, file, {"format": "pt"})


def preprocess(checkpoints: Path) -> int:
    Path("songs").mkdir()
    write_song(Path("songs/a.wav"), seed=1)
    places = ["--checkpoint-dir", str(checkpoints), "--audio-dir", "songs", "--tensor-output", "tensors"]
    return main(["preprocess", *places, "--device", "cpu", "--workspace", "work"])


@pytest.mark.parametrize(
    ("file", "key"),
    [(MODEL, IN_ENCODER), (VAE, "encoder.conv1.bias"), (TEXT, "layers.1.mlp.down_proj.weight")],
)
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_preprocessing_stops_before_the_first_song(
    checkpoints: Path,
    file: str,
    key: str,
    value: float,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def encoded(*_: object) -> None:
        raise AssertionError("a song was encoded")

    monkeypatch.setattr(encode, "encode_audio", encoded)
    spoil(checkpoints / file, key, value)
    assert preprocess(checkpoints) == ExitCode.BAD_DATA
    assert tells(capsys.readouterr().err, key, file)
    assert not list(Path("tensors").glob("*.pt"))


def test_what_a_task_does_not_use_is_not_read(checkpoints: Path) -> None:
    spoil(checkpoints / MODEL, IN_DECODER, float("nan"))
    assert preprocess(checkpoints) == ExitCode.DONE


def test_a_damaged_tokenizer_is_found_before_the_first_song(
    checkpoints: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SongEncoder, "encode_songs", lambda *_, **__: pytest.fail("a song was encoded"))
    (checkpoints / "Qwen3-Embedding-0.6B" / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    assert preprocess(checkpoints) == ExitCode.BAD_DATA
    said = capsys.readouterr().err
    assert "tokenizer.json" in said and "bug" not in said


@pytest.mark.parametrize("key", [IN_DECODER, "null_condition_emb"])
def test_training_stops_before_the_first_step(
    checkpoints: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(checkpoints / MODEL, key, float("inf"))
    write_songs(Path("made"), [song(0), song(1)])
    places = ["--checkpoint-dir", str(checkpoints), "--dataset-dir", "made", "--output-dir", "out"]
    code = main(["fixed", *places, "--rank", "2", "--epochs", "1", "--device", "cpu", "--workspace", "work"])
    assert code == ExitCode.BAD_DATA
    said = capsys.readouterr().err
    assert tells(said, key, MODEL) and "learning rate" not in said
    assert not Path("out/checkpoints").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_in_any_precision(dtype: torch.dtype) -> None:
    whole = torch.ones(3, dtype=dtype)
    check_finite(whole, "x")
    with pytest.raises(BadDataError, match=facts("x")):
        check_finite(torch.tensor([1, float("nan")]).to(dtype), "x")


def test_each_module_is_checked_by_itself(checkpoints: Path) -> None:
    spoil(checkpoints / VAE, "decoder.conv1.bias", float("nan"))
    spoil(checkpoints / TEXT, "norm.weight", float("nan"))
    spoil(checkpoints / MODEL, IN_ENCODER, 1e6, torch.float16)  # overflows
    loads: dict[str, Callable[[], object]] = {
        "decoder.conv1.bias": lambda: load_vae(checkpoints, "cpu", torch.float32),
        "norm.weight": lambda: load_text_encoder(checkpoints, "cpu", torch.float32),
        IN_ENCODER: lambda: load_model(checkpoints, "base", parts=("condition_encoder",)),
    }
    for name, load in loads.items():
        with pytest.raises(BadDataError, match=facts(name)):
            load()
    load_model(checkpoints, "base", parts=("transformer",))


@pytest.mark.parametrize(("step", "what"), [("encode_audio", "latents"), ("encode_conditions", "conditions")])
def test_tensors_that_are_nan_are_not_written(
    checkpoints: Path,
    step: str,
    what: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = getattr(encode, step)

    def spoilt(*given: object) -> Tensor:
        with torch.inference_mode(False):
            tensor: Tensor = made(*given).clone()
        tensor[-1, -1] = float("nan")
        return tensor

    monkeypatch.setattr(encode, step, spoilt)
    assert preprocess(checkpoints) == ExitCode.BAD_DATA
    assert tells(capsys.readouterr().err, what, "a.wav")
    assert not list(Path("tensors").glob("*.pt"))
