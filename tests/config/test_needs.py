"""Which places a task needs: said in one report with all else, wherever a task is to be run."""

import subprocess
import sys
from pathlib import Path

import pytest

import sidestep
from sidestep.cli import main
from sidestep.config.job import JobSpec, resolve
from sidestep.config.needs import NEEDS, check_needs
from sidestep.runtime.errors import BadSpecError, ExitCode


@pytest.mark.parametrize(
    ("task", "given", "missing"),
    [
        ("preprocess", {"dataset_dir": "t"}, ["audio_dir"]),
        ("preprocess", {"audio_dir": "a"}, ["dataset_dir"]),
        ("preprocess", {}, ["audio_dir", "dataset_dir"]),
        ("estimate", {}, ["dataset_dir"]),
        ("train", {"dataset_dir": "t"}, ["output_dir"]),
        ("pipeline", {}, ["audio_dir", "output_dir"]),
        ("pipeline", {"output_dir": "o", "dataset_json": None}, ["audio_dir"]),
        ("preprocess", {"dataset_json": "d.json", "dataset_dir": "t"}, []),
        ("preprocess", {"audio_dir": "a", "output_dir": "o"}, []),
        ("estimate", {"output_dir": "o"}, []),
        ("estimate", {"dataset_dir": "t"}, []),
        ("train", {"output_dir": "o"}, []),
    ],
)
def test_the_places_that_a_task_needs(task: str, given: dict[str, str], missing: list[str]) -> None:
    """The same ones of a spec made in Python, when it is run, and of one that is loaded."""
    spec = JobSpec.model_validate({"task": task, **given})
    if not missing:
        check_needs(spec)
        assert JobSpec.load(task=task, **given) == spec
        return
    with pytest.raises(BadSpecError) as refused:
        check_needs(spec)
    with pytest.raises(BadSpecError) as loaded:
        JobSpec.load(task=task, **given)
    assert str(loaded.value) == str(refused.value)
    lines = [line.strip() for line in str(refused.value).splitlines()[1:]]
    assert [line.partition(" ")[0] for line in lines] == missing
    assert all(f"task {task} needs" in line for line in lines)


@pytest.mark.parametrize(
    ("task", "given", "is_hinted"),
    [
        ("pipeline", {"dataset_dir": "t", "output_dir": "o"}, True),
        ("pipeline", {"output_dir": "o"}, False),
        ("preprocess", {"dataset_dir": "t"}, False),  # where its tensors are to go
        ("pipeline", {"dataset_dir": "t", "audio_dir": "a"}, False),
    ],
)
def test_tensors_without_songs_are_to_be_trained_on(
    task: str, given: dict[str, str], is_hinted: bool
) -> None:
    with pytest.raises(BadSpecError) as refused:
        JobSpec.load(task=task, **given)
    assert ("--task train" in str(refused.value)) == is_hinted


def test_every_task_says_what_it_needs() -> None:
    assert list(NEEDS) == JobSpec.model_json_schema()["properties"]["task"]["enum"]


def test_what_is_missing_comes_with_all_else_that_is_wrong() -> None:
    with pytest.raises(BadSpecError) as refused:
        resolve(arguments={"task": "estimate", "train": {"lr": -1}, "outptu_dir": "o"}, environ={})
    assert [line.split(" ")[2] for line in str(refused.value).splitlines()[1:]] == [
        *("outptu_dir", "train.lr", "dataset_dir"),
    ]


@pytest.mark.parametrize("task", [3, ["train"], "dance"])
def test_a_task_that_there_is_not_needs_nothing(task: object) -> None:
    with pytest.raises(BadSpecError) as refused:
        resolve(arguments={"task": task}, environ={})
    assert "a problem" in str(refused.value).splitlines()[0]


def test_a_spec_that_lacks_a_place_is_not_run() -> None:
    """Nothing was touched or loaded before."""
    with pytest.raises(BadSpecError, match="output_dir"):
        sidestep.run(JobSpec(task="train", dataset_dir="t"))
    assert not any(Path().iterdir())
    code = (
        "import sys, sidestep; from sidestep.runtime.errors import BadSpecError\n"
        "try: sidestep.run(sidestep.JobSpec(task='train'))\n"
        "except BadSpecError: sys.exit('torch' in sys.modules)\n"
        "sys.exit(2)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_where_no_task_is_run_none_is_missing() -> None:
    spec, origins = resolve(environ={}, needs_places=False)
    assert (spec.task, spec.output_dir, origins["task"]) == ("pipeline", None, "default")


@pytest.mark.parametrize("command", ["run", "render docker", "plan", "verify-resume", "run --dry-run"])
def test_commands_about_a_job_ask_for_its_places(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.split()) == ExitCode.BAD_SPEC
    assert "output_dir (not given)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["status gone", "export gone --format app", "presets list", "plan --offline --check-only"]
)
def test_commands_about_no_job_do_not(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) in (ExitCode.DONE, ExitCode.MISSING)
    assert "not given" not in capsys.readouterr().err
