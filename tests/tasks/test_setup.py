"""Models as users bring them: fine-tunes of every base, and every way in which one can be wrong."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sidestep.acestep.loading import load_model
from sidestep.cli import main
from sidestep.config.job import JobSpec
from sidestep.data.preprocessed import Preprocessed
from sidestep.lifecycle.job import Job
from sidestep.runtime.errors import BadSpecError, MachineError
from sidestep.tasks import setup
from sidestep.tasks.setup import TrainingSetup, prepare_setup, sampling_config
from sidestep.training.machine import choose_machine
from tests.runs import train
from tests.s3 import S3Server
from tests.songs import MakeSpec

BASE = "acestep-v15-base"


@pytest.fixture
def finetune(tiny_checkpoints: Path, tmp_path: Path) -> Callable[..., Path]:
    """A set with `my-finetune` in it; entries of its config by keyword, None to leave one out."""

    def make(**changes: Any) -> Path:
        folder = tmp_path / "checkpoints" / "my-finetune"
        shutil.copytree(tiny_checkpoints / BASE, folder)
        config = json.loads((folder / "config.json").read_text()) | changes
        config = {key: value for key, value in config.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(config))
        return folder.parent

    return make


def setup_of(spec: JobSpec) -> TrainingSetup:
    job = Job(spec)
    return prepare_setup(job, Preprocessed(job.tensors), choose_machine(spec.runtime))


def changed(spec: JobSpec, **changes: Any) -> JobSpec:
    return JobSpec.load(None, **(spec.model_dump() | changes))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_model_s_copy_that_vanishes_before_it_is_loaded(
    make_spec: MakeSpec,
    s3_server: S3Server,
    tiny_checkpoints: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    models = s3_server.store("models")
    for file in (tiny_checkpoints / BASE).iterdir():
        models.upload(file, f"{BASE}/{file.name}")
    spec = make_spec(checkpoint_dir=models.place, storage={"endpoint_url": s3_server.endpoint})
    load = load_model

    def delete_and_load(root: Path, folder: str, *rest: Any, **settings: Any) -> Any:
        (root / folder / name).unlink()
        return load(root, folder, *rest, **settings)

    monkeypatch.setattr(setup, "load_model", delete_and_load)
    with pytest.raises(MachineError, match=name):
        setup_of(spec)
    monkeypatch.setattr(setup, "load_model", load)
    assert setup_of(spec).model.variant == BASE


@pytest.mark.parametrize(("base_model", "is_turbo"), [("base", False), ("turbo", True), (None, False)])
def test_a_fine_tune_is_trained_as_its_base_is(
    make_spec: MakeSpec,
    finetune: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
    base_model: str | None,
    is_turbo: bool,
) -> None:
    caplog.set_level(logging.INFO)
    checkpoints = finetune(is_turbo=None, timestep_mu=None, timestep_sigma=None)
    spec = make_spec(checkpoint_dir=checkpoints, model_variant="my-finetune", epochs=1)
    assert train(changed(spec, base_model=base_model)).steps == 2
    assert f"leaves out is_turbo, timestep_mu, timestep_sigma: as in {base_model or 'base'}" in caplog.text
    assert ("distilled to eight timesteps" in caplog.text) == is_turbo


def test_a_fine_tune_s_own_timestep_law_wins(make_spec: MakeSpec, finetune: Callable[..., Path]) -> None:
    checkpoints = finetune(timestep_mu=0.5, timestep_sigma=None)
    spec = make_spec(checkpoint_dir=checkpoints, model_variant="my-finetune")
    sampling = sampling_config(spec, setup_of(spec).model.config, torch.float32)
    assert (sampling.mu, sampling.sigma) == (0.5, 1.0)
    given = make_spec(checkpoint_dir=checkpoints, model_variant="my-finetune", timestep_mu=-1)
    assert sampling_config(given, setup_of(given).model.config, torch.float32).mu == -1


def test_t_is_drawn_in_the_machine_s_precision(make_spec: MakeSpec) -> None:
    spec = make_spec()
    config = {"timestep_mu": -0.4, "timestep_sigma": 1.0}
    drawn = [sampling_config(spec, config, dtype).timestep(0) for dtype in (torch.float32, torch.bfloat16)]
    assert torch.equal(drawn[0].bfloat16().float(), drawn[1]) and drawn[0] != drawn[1]


def test_the_encoders_are_never_in_memory(make_spec: MakeSpec, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    spec = make_spec()
    ground = setup_of(spec)
    assert ground.model.parts.keys() == {"transformer"}
    assert caplog.text.count("no encoder is in memory") == 1
    with pytest.raises(BadSpecError, match="cannot be switched off: training never loads the encoders"):
        changed(spec, runtime={"offload_encoder": False})


def edit(edit_weights: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """An edit of the weights file."""

    def apply(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        edit_weights(weights)
        save_file(weights, folder / "model.safetensors")

    return apply


def cut_short(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def lose_a_shard(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": dict.fromkeys(weights, "model-00002-of-00002.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


WEIGHT = "decoder.layers.1.cross_attn.k_proj.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "a missing shard": (lose_a_shard, 66, "model-00002-of-00002.safetensors"),
    "a truncated file": (cut_short, 65, "model.safetensors is cut short"),
    "a key too many": (
        edit(lambda weights: weights.update({"decoder.layers.7.surprise": torch.zeros(2)})),
        65,
        "not known: decoder.layers.7.surprise",
    ),
    "a key too few": (
        edit(lambda weights: weights.pop(WEIGHT)),
        65,
        "missing: decoder.layers.1.cross_attn.k_proj",
    ),
    "a wrong shape": (
        edit(lambda weights: weights.update({WEIGHT: torch.zeros(3, 3)})),
        65,
        "decoder.layers.1.cross_attn.k_proj.weight [3, 3], config.json wants [32, 64]",
    ),
    "a config of something else": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "qwen3"}'),
        65,
        "config.json is not an ACE-Step 1.5 model's",
    ),
    "no config at all": (lambda folder: (folder / "config.json").unlink(), 66, "has no config.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_wrong_model_is_one_clear_message(
    make_spec: MakeSpec, finetune: Callable[..., Path], capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    spec = make_spec()
    spoil, code, message = DAMAGES[damage]
    checkpoints = finetune()
    spoil(checkpoints / "my-finetune")
    words = ["train", "--dataset-dir", spec.tensors_place, "--output-dir", "out", "--device", "cpu"]
    assert main([*words, "--checkpoint-dir", str(checkpoints), "--model-variant", "my-finetune"]) == code
    shown = capsys.readouterr().err
    assert message in shown and "my-finetune" in shown
    assert "Traceback" not in shown
    assert not any(Path("out", name).exists() for name in ("adapter", "commits", "checkpoints", "loss.png"))


def test_an_unknown_variant_names_those_there_are(
    make_spec: MakeSpec, tiny_checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--dataset-dir", make_spec().tensors_place, "--output-dir", "out"]
    assert main([*words, "--checkpoint-dir", str(tiny_checkpoints), "--model-variant", "sft"]) == 66
    shown = capsys.readouterr().err
    assert "no model variant 'sft'" in shown
    assert "base (acestep-v15-base), turbo (acestep-v15-turbo), xl-base (acestep-v15-xl-base)" in shown
    assert "Traceback" not in shown


def test_an_unknown_base_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--output-dir", "out", "--base-model", "bass"]) == 78
    assert "must be one of turbo, base, sft, xl-turbo, xl-base, xl-sft" in capsys.readouterr().err
