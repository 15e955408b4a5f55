"""`sidestep run` and its kin: the spec that a line makes, above all for the guide's commands."""

import json
import shlex
import sys
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sidestep.cli import main
from sidestep.data.survey import Survey, write_survey
from sidestep.lifecycle.finish import TrainResult
from sidestep.runtime.errors import ExitCode
from sidestep.storage.open import open_store
from tests.facts import tells
from tests.fake_tasks import Tasks

CHECKPOINTS = "--checkpoint-dir ../ACE-Step-1.5/checkpoints --model-variant base"
# Each command of the guide, and what of the spec it is about.
GUIDE = {
    f"fixed {CHECKPOINTS} --preprocess --dataset-json ./my_dataset.json --audio-dir ./my_audio "
    "--tensor-output ./my_tensors": {
        "task": "preprocess",
        "checkpoint_dir": "../ACE-Step-1.5/checkpoints",
        "dataset_json": "./my_dataset.json",
        "audio_dir": "./my_audio",
        "output_place": "./my_tensors",
        "tensors_place": "./my_tensors",
    },
    f"fixed {CHECKPOINTS} --preprocess --audio-dir ./my_audio --tensor-output ./my_tensors": {
        "task": "preprocess",
        "dataset_json": None,
    },
    f"fixed {CHECKPOINTS} --dataset-dir ./my_tensors --output-dir ./output/my_lora --epochs 100 --lr 1e-4": {
        "task": "train",
        "train.mode": "corrected",
        "train.epochs": 100,
        "train.lr": 1e-4,
        "train.adapter.type": "lora",
        "output_place": "./output/my_lora",
    },
    f"fixed {CHECKPOINTS} --adapter-type lokr --dataset-dir ./my_tensors --output-dir ./output/my_lokr "
    "--epochs 100": {"train.adapter.type": "lokr"},
    "fixed --checkpoint-dir ../ACE-Step-1.5/checkpoints --model-variant my-custom-finetune --base-model base "
    "--dataset-dir ./my_tensors --output-dir ./output/finetune_lora": {
        "model_variant": "my-custom-finetune",
        "base_model": "base",
    },
    f"fixed {CHECKPOINTS} --dataset-dir ./my_tensors --output-dir ./output/my_lora "
    "--resume-from ./output/my_lora/checkpoint-epoch-50": {
        "train.resume_from": "./output/my_lora/checkpoint-epoch-50"
    },
    f"estimate {CHECKPOINTS} --dataset-dir ./my_tensors --estimate-batches 5 --top-k 16": {
        "task": "estimate",
        "estimate.batches": 5,
        "estimate.top_k": 16,
        "tensors_place": "./my_tensors",
    },
}


@pytest.mark.parametrize(("line", "expected"), GUIDE.items())
def test_the_guide_s_commands(line: str, expected: dict[str, Any], tasks: Tasks) -> None:
    assert main(shlex.split(line)) == 0
    (spec,) = tasks.specs
    assert {name: reduce(getattr, name.split("."), spec) for name in expected} == expected


def test_only_what_is_typed_may_go_back(
    tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restarted container reads the same file and variables again."""
    line, wish = ["train", "--dataset-dir", "t", "--output-dir", "o"], "checkpoint-epoch-50"
    (tmp_path / "job.yaml").write_text(f"train: {{resume_from: {wish}}}")
    told = []
    for flags in (["--resume-from", wish], ["--config", str(tmp_path / "job.yaml")], []):
        if not flags:
            monkeypatch.setenv("SIDESTEP_TRAIN__RESUME_FROM", wish)
        assert main([*line, *flags]) == 0
        told.append((tasks.specs[-1].train.resume_from, tasks.may_go_back))
    assert told == [(wish, True), (wish, False), (wish, False)]


@pytest.mark.parametrize(
    ("command", "task", "mode"),
    [
        ("run", "pipeline", "vanilla"),
        ("preprocess", "preprocess", "vanilla"),
        ("estimate", "estimate", "vanilla"),
        ("train", "train", "vanilla"),
        ("train --mode corrected", "train", "corrected"),
        ("fixed", "train", "corrected"),
        ("vanilla", "train", "vanilla"),
        ("vanilla --preprocess", "preprocess", "vanilla"),
        ("run --task estimate", "estimate", "vanilla"),
    ],
)
def test_what_a_command_says_goes_over_the_spec(command: str, task: str, mode: str, tasks: Tasks) -> None:
    Path("job.yaml").write_text("audio_dir: a\noutput_dir: o\ntrain: {mode: vanilla}\n")
    assert main([*command.split(), "--config", "job.yaml"]) == 0
    assert (tasks.specs[0].task, tasks.specs[0].train.mode) == (task, mode)


def test_an_estimate_can_be_read_as_json(
    tasks: Tasks, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ModuleType("sidestep.tasks.estimate")
    monkeypatch.setattr(made, "report", lambda spec: {"of": spec.output_place}, raising=False)
    monkeypatch.setitem(sys.modules, "sidestep.tasks.estimate", made)
    assert main(["estimate", "--output-dir", "o", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"of": "o"}
    assert len(tasks.specs) == 1


@pytest.mark.parametrize("command", ["train", "fixed", "vanilla", "run"])
def test_so_can_what_a_training_made(command: str, tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    tasks.made = TrainResult("o/adapter", "o/runs", 3, 2.5, 1.5)
    assert main([command, "--audio-dir", "a", "--output-dir", "o", "--json"]) == 0
    made = {"adapter": "o/adapter", "runs": "o/runs", "steps": 3, "first_loss": 2.5, "last_loss": 1.5}
    none_held_out: dict[str, Any] = {"best_step": None, "best_held_out": None, "held_out": {}}
    assert json.loads(capsys.readouterr().out) == {**made, **none_held_out}


@pytest.mark.parametrize("command", ["preprocess", "fixed --preprocess"])
def test_so_can_what_tensors_are_of(command: str, tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*command.split(), "--audio-dir", "a", "--tensor-output", "t", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) == {"tensors": str(Path("t").resolve()), "dataset": None}
    survey = Survey(count=1, measured=0, hours=0.0)
    write_survey(open_store("t", tasks.specs[0].storage), survey)
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["dataset"] == survey.model_dump(mode="json")


def test_flag_and_spec_problems_are_one_report(capsys: pytest.CaptureFixture[str]) -> None:
    Path("job.yaml").write_text("lr: 3\n")
    assert main(["train", "--config", "job.yaml", "--epcohs", "3", "--rank", "0"]) == ExitCode.USAGE
    problems = capsys.readouterr().err.splitlines()[2:]
    facts = [("--epcohs",), ("lr", "job.yaml:1"), ("train.adapter.rank = '0'", "--rank"), ("output_dir",)]
    assert len(problems) == len(facts)
    assert all(fact in line for line, of_it in zip(problems, facts, strict=True) for fact in of_it)


@pytest.mark.parametrize("words", [["job.yaml", "--epcohs", "--json"], ["--epcohs=3", "job.yaml"]])
def test_a_spec_s_file_counts_beside_a_misspelt_flag(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the file comes first; behind a flag that is not known, it may be that flag's value."""
    Path("job.yaml").write_text("output_dir: out\n")
    assert main(["train", *words]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "--epcohs" in said
    is_first = words[0] == "job.yaml"
    assert ("output_dir" not in said and "'job.yaml'" not in said) == is_first


def test_names_of_songs_are_words_as_the_shell_gives_them(
    tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--dataset-dir", "t", "--output-dir", "o"]
    line = """--validation-songs 'c [x]' "Night Drive" --weights 'Night Drive=2' a=b=0.5"""
    assert main([*command, *shlex.split(line)]) == ExitCode.DONE
    train = tasks.specs[-1].train
    assert train.validation.songs == ("c [x]", "Night Drive")
    assert train.weights == {"Night Drive": 2, "a=b": 0.5}
    assert main([*command, "--weights", "Night", "Drive=2"]) == ExitCode.BAD_SPEC  # without quotes
    assert tells(capsys.readouterr().err, "train.weights", "['Night', 'Drive=2']", "--weights", "demo-*=0.5")
