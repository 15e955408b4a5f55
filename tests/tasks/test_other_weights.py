"""Tensors know which encoders made them; those that other encoders made are refused, or taken knowingly."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sidestep.cli import main
from sidestep.runtime.errors import ExitCode
from sidestep.training.loop import Trainer
from tests.tasks.preprocessing import write_song

BASE = "acestep-v15-base"
MODEL, VAE, TEXT = (
    f"{BASE}/model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "Qwen3-Embedding-0.6B/model.safetensors",
)
Run = Callable[..., int]


def change(file: Path, prefix: str) -> None:
    """Weights of another training: the same names and shapes."""
    weights = load_file(file)
    names = [name for name in sorted(weights) if name.startswith(prefix)]
    weights[names[-1]] = weights[names[-1]] * 1.01 + 0.001
    save_file(weights, file, {"format": "pt"})


@pytest.fixture
def other(tiny_checkpoints: Path, tmp_path: Path) -> Path:
    """Another place of the same set, for a test to change."""
    for folder in (BASE, "vae", "Qwen3-Embedding-0.6B"):
        shutil.copytree(tiny_checkpoints / folder, tmp_path / "set" / folder)
    return tmp_path / "set"


@pytest.fixture(scope="module")
def made_once(tiny_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a song, and the tensors that base made of it."""
    folder = tmp_path_factory.mktemp("made-once")
    (folder / "songs").mkdir()
    write_song(folder / "songs" / "a.wav", seed=1)
    places = ["--checkpoint-dir", str(tiny_checkpoints), "--audio-dir", "songs", "--tensor-output", "made"]
    with contextlib.chdir(folder):
        assert main(["preprocess", *places, "--device", "cpu", "--workspace", "work"]) == ExitCode.DONE
    return folder


@pytest.fixture
def made(made_once: Path) -> Path:
    """Those tensors, for a test to change."""
    shutil.copytree(made_once, ".", dirs_exist_ok=True)
    return Path("made")


@pytest.fixture
def run(made: Path) -> Run:
    def command(name: str, checkpoints: Path, *more: str) -> int:
        places = ["--checkpoint-dir", str(checkpoints), "--dataset-dir", str(made), "--output-dir", "out"]
        sizes = ["--rank", "2", "--epochs", "1", "--estimate-batches", "1"] if name != "plan" else []
        return main([name, *places, "--device", "cpu", "--workspace", "work", *sizes, *more])

    return command


def test_the_index_says_what_made_the_tensors(made: Path, other: Path, tiny_checkpoints: Path) -> None:
    weights = json.loads((made / "index.json").read_text())["weights"]
    assert weights["variant"] == BASE
    parts = {"vae", "text_encoder", "condition_encoder"}
    assert set(weights["digests"]) == set(weights["headers"]) == parts
    places = ["--checkpoint-dir", str(tiny_checkpoints), "--audio-dir", "songs", "--tensor-output", "made"]
    assert main(["preprocess", *places, "--device", "cpu", "--workspace", "work"]) == ExitCode.DONE
    assert json.loads((made / "index.json").read_text())["weights"] == weights  # nothing was made anew


@pytest.mark.parametrize(
    ("file", "prefix", "told"),
    [(MODEL, "encoder.", "condition encoder"), (VAE, "encoder.", "VAE"), (TEXT, "layers.", "text encoder")],
)
def test_other_encoders_are_refused_before_the_first_step(
    run: Run, other: Path, file: str, prefix: str, told: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("a step was made"))
    change(other / file, prefix)
    for command in ("train", "estimate"):
        assert run(command, other) == ExitCode.BAD_SPEC
        said = capsys.readouterr().err
        assert told in said and BASE in said and "accept_other_weights" in said


def test_the_silence_is_the_condition_encoder_s(
    run: Run, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = other / BASE / "silence_latent.pt"
    torch.save(torch.load(file, weights_only=True) * 1.001, file)
    assert run("train", other) == ExitCode.BAD_SPEC
    assert "condition encoder" in capsys.readouterr().err


def test_another_decoder_is_no_difference(run: Run, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(other / MODEL, "decoder.layers.0.mlp.up_proj")
    assert run("train", other) == ExitCode.DONE
    assert "made with" not in capsys.readouterr().err


def test_the_same_weights_in_shards_are_no_difference(run: Run, other: Path) -> None:
    folder = other / BASE
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for number in (1, 2):
        keys = sorted(weights)[number - 1 :: 2]
        name = f"model-0000{number}-of-00002.safetensors"
        save_file({key: weights[key] for key in keys}, folder / name, {"format": "pt"})
    assert run("train", other) == ExitCode.DONE


def test_any_weights_are_taken_where_the_spec_says_so(
    run: Run, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(other / MODEL, "encoder.")
    change(other / VAE, "encoder.")
    assert run("train", other, "--accept-other-weights") == ExitCode.DONE
    said = capsys.readouterr().err
    assert all(fact in said for fact in ("accept_other_weights", "VAE", "condition encoder"))


def test_a_fine_tune_of_the_model_that_made_the_tensors_goes_on_working(
    run: Run, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The guide's line, with a fine-tune whose decoder and encoder both differ from base's."""
    (other / BASE).rename(other / "my-custom-finetune")
    change(other / "my-custom-finetune" / "model.safetensors", "decoder.layers.0.mlp.up_proj")
    change(other / "my-custom-finetune" / "model.safetensors", "encoder.")
    line = ("--model-variant", "my-custom-finetune", "--base-model")
    assert run("train", other, *line, "sft") == ExitCode.BAD_SPEC
    capsys.readouterr()
    assert run("train", other, *line, "base") == ExitCode.DONE
    said = capsys.readouterr().err
    assert "my-custom-finetune" in said and BASE in said
    change(other / VAE, "encoder.")
    assert run("train", other, *line, "base", "--output-dir", "out2") == ExitCode.BAD_SPEC


def test_an_index_of_an_older_version_says_nothing(run: Run, made: Path, other: Path) -> None:
    content = json.loads((made / "index.json").read_text())
    del content["weights"]
    (made / "index.json").write_text(json.dumps(content))
    change(other / MODEL, "encoder.")
    assert run("train", other) == ExitCode.DONE


def test_a_set_that_only_trains_may_lack_the_other_encoders(run: Run, other: Path) -> None:
    shutil.rmtree(other / "vae")
    shutil.rmtree(other / "Qwen3-Embedding-0.6B")
    assert run("train", other) == ExitCode.DONE


def test_a_plan_compares_names_and_shapes(run: Run, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(other / MODEL, "encoder.")
    assert run("plan", other, "--check-only", "--task", "train") == ExitCode.DONE
    said = capsys.readouterr()
    assert BASE in said.out + said.err and "content not read" in " ".join((said.out + said.err).split())
    config = json.loads((other / "vae" / "config.json").read_text()) | {"decoder_channels": 8}
    (other / "vae" / "config.json").write_text(json.dumps(config))
    weights = load_file(other / VAE)
    weights["decoder.conv1.bias"] = weights["decoder.conv1.bias"][:-1].clone()
    save_file(weights, other / VAE, {"format": "pt"})
    assert run("plan", other, "--check-only", "--task", "train") == ExitCode.BAD_SPEC
    said = capsys.readouterr()
    assert "VAE" in said.out + said.err


def test_a_plan_sees_another_model_s_weights_of_the_same_shapes(
    run: Run, other: Path, tiny_checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a sample of the bytes; the same bytes in shards, and another decoder, are no difference."""
    plan = ("plan", "--check-only", "--task", "train", "--elsewhere")
    turbo = ("--model-variant", "turbo")
    for words, code in (((), ExitCode.DONE), (turbo, ExitCode.BAD_SPEC)):
        assert run(plan[0], tiny_checkpoints, *plan[1:], *words) == code
    said = " ".join(capsys.readouterr().out.split())
    assert "FAIL encoders" in said and BASE in said and "condition encoder" in said
    for taken in (("--accept-other-weights",), ("--base-model", "base")):
        assert run(plan[0], tiny_checkpoints, *plan[1:], *turbo, *taken) == ExitCode.DONE
    weights = load_file(other / MODEL)
    (other / MODEL).unlink()
    for number in (1, 2):
        keys = sorted(weights)[number - 1 :: 2]
        shard = {key: weights[key] * (2 if key.startswith("decoder.") else 1) for key in keys}
        save_file(shard, other / BASE / f"model-0000{number}-of-00002.safetensors", {"format": "pt"})
    assert run(plan[0], other, *plan[1:]) == ExitCode.DONE
    vae = {name: tensor * 1.01 for name, tensor in load_file(other / VAE).items()}
    save_file(vae, other / VAE, {"format": "pt"})
    assert run(plan[0], other, *plan[1:]) == ExitCode.BAD_SPEC
    assert "VAE" in capsys.readouterr().out


def test_an_index_without_samples_is_compared_by_names_and_shapes(
    run: Run, made: Path, tiny_checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((made / "index.json").read_text())
    del content["weights"]["samples"]
    (made / "index.json").write_text(json.dumps(content))
    for variant, state in (("base", "ok"), ("turbo", "skipped")):
        words = ("--check-only", "--task", "train", "--model-variant", variant)
        assert run("plan", tiny_checkpoints, *words) == ExitCode.DONE
        assert f"{state} encoders" in " ".join(capsys.readouterr().out.split())
