"""The command line: the guide's commands, help, and one line and the right code for whatever goes wrong."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import sidestep
from sidestep.cli import main
from sidestep.commands import COMMANDS
from sidestep.config.job import JobSpec
from sidestep.runtime.errors import AgainError, ExitCode, MissingInputError
from sidestep.runtime.preemption import Preemption

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


class Tasks(ModuleType):
    """Stands in for sidestep.tasks: keeps the specs that it is to run, and fails as it is told."""

    def __init__(self) -> None:
        super().__init__("sidestep.tasks")
        self.__path__ = [str(Path(sidestep.__file__).parent / "tasks")]  # its modules are the real ones
        self.specs: list[JobSpec] = []
        self.failure: BaseException | None = None

    def run(self, spec: JobSpec, preemption: Preemption | None = None) -> None:
        self.specs.append(spec)
        if self.failure:
            raise self.failure


@pytest.fixture(autouse=True)
def tasks(monkeypatch: pytest.MonkeyPatch) -> Tasks:
    stand_in = Tasks()
    monkeypatch.setitem(sys.modules, "sidestep.tasks", stand_in)
    monkeypatch.setattr(sidestep, "tasks", stand_in, raising=False)
    return stand_in


def look_up(spec: JobSpec, name: str) -> Any:
    value: Any = spec
    for part in name.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(("line", "expected"), GUIDE.items())
def test_the_guide_s_commands(line: str, expected: dict[str, Any], tasks: Tasks) -> None:
    assert main(shlex.split(line)) == 0
    (spec,) = tasks.specs
    assert {name: look_up(spec, name) for name in expected} == expected


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


def test_root_help_lists_the_commands_and_is_quick() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run = subprocess.run([sys.executable, "-m", "sidestep", "--help"], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert run.returncode == 0
        assert all(f"  {command} " in run.stdout for command in COMMANDS)
        assert max(map(len, run.stdout.splitlines())) <= 80
    assert min(seconds) < 0.3


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == ExitCode.USAGE
    assert capsys.readouterr().out.startswith("usage: sidestep COMMAND")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "--version"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: sidestep {command}")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for flag in ("--help", "--help-all")[: 2 if "--help-all" in COMMANDS[command].parser().flags else 1]:
        assert main([command, flag]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80


def test_no_help_loads_torch() -> None:
    code = (
        "import sys; from sidestep.cli import main\n"
        f"for command in {list(COMMANDS)}: main([command, '--help'])\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split()[0] == "sidestep"


def test_schema_is_a_json_schema_with_descriptions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert schema["title"] == "Side-Step job spec"
    assert "Seconds" in schema["$defs"]["PreprocessSpec"]["properties"]["max_duration"]["description"]
    assert not Path("sidestep.log").exists()


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("fixde", 64, "error: there is no command 'fixde'; did you mean `sidestep fixed`?"),
        ("tain --lr 1", 64, "did you mean `sidestep train`?"),
        ("xyz", 64, "error: there is no command 'xyz'; there are wizard, run, preprocess"),
        ("train --output-dir o --epcohs 3", 64, "--epcohs (command line): is not known; did you mean --epoc"),
        ("train --output-dir o --lr", 64, "error: argument --lr/--learning-rate: expected one argument"),
        ("fixed --output-dir o --mode vanilla", 64, "--mode (command line): cannot be set here"),
        ("run job.yaml more.yaml", 64, "a spec file is given as --config job.yaml"),
        ("run job.yaml", 66, "error: there is no job spec at job.yaml"),
        ("schema --json", 64, "error: unrecognized arguments: --json"),
        ("tiny-checkpoint", 64, "error: the following arguments are required: DIR"),
        ("train", 78, "output_dir (not given): task train needs a place for its results"),
        ("train --output-dir o --epochs 0", 78, "train.epochs = '0' (--epochs): must be a whole number"),
        ("run --config nowhere.yaml", 66, "error: there is no job spec at nowhere.yaml"),
    ],
)
def test_wrong_commands(
    line: str, code: int, message: str, tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error
    assert not tasks.specs


def test_json_is_for_what_is_read(
    tasks: Tasks, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ModuleType("sidestep.tasks.estimate")
    monkeypatch.setattr(made, "report", lambda spec: f"of {spec.output_place}", raising=False)
    monkeypatch.setitem(sys.modules, "sidestep.tasks.estimate", made)
    assert main(["estimate", "--output-dir", "o", "--json"]) == 0
    assert capsys.readouterr().out == "of o"
    assert main(["train", "--output-dir", "o", "--json"]) == ExitCode.USAGE
    assert "--json goes with --dry-run and with estimate" in capsys.readouterr().err
    assert len(tasks.specs) == 1


def test_flag_and_spec_problems_are_one_report(capsys: pytest.CaptureFixture[str]) -> None:
    Path("job.yaml").write_text("lr: 3\n")
    assert main(["train", "--config", "job.yaml", "--epcohs", "3", "--rank", "0"]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert error.startswith("error: 4 problems in the job spec\n")
    for field in (
        "--epcohs (command line)",
        "lr (job.yaml:1)",
        "train.adapter.rank = '0' (--rank)",
        "output_dir",
    ):
        assert f"\n  {field}" in error


@pytest.mark.parametrize(
    ("failure", "code", "line"),
    [
        (MissingInputError("no songs in s3://studio"), 66, "error: no songs in s3://studio"),
        (AgainError("another writer took over"), 75, "another writer took over"),
        (KeyboardInterrupt(), 75, "Interrupted; the same command goes on from what is saved"),
        (
            ModuleNotFoundError(name="peft"),
            72,
            "error: the package peft is not installed for {python}\n"
            "  `make setup` makes .venv with all packages; `uv run` takes that one, as does a shell after "
            "`source .venv/bin/activate`",
        ),
        (
            ModuleNotFoundError("no x", name="sidestep.x"),
            70,
            "error: a bug in Side-Step: ModuleNotFoundError: no x (traceback: {log})",
        ),
        (KeyError("x"), 70, "error: a bug in Side-Step: KeyError: 'x' (traceback: {log})"),
    ],
)
def test_failures_are_one_line_and_a_code(
    failure: BaseException, code: int, line: str, tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks.failure = failure
    assert main(["train", "--output-dir", "o"]) == code
    log = Path.cwd() / "sidestep.log"
    assert capsys.readouterr().err == line.format(log=log, python=sys.executable) + "\n"
    if not isinstance(failure, KeyboardInterrupt):
        assert "Traceback (most recent call last)" in log.read_text()


def test_a_bug_without_a_log_file_shows_its_traceback(
    tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("sidestep.log").mkdir()
    tasks.failure = ZeroDivisionError("oops")
    assert main(["train", "--output-dir", "o"]) == ExitCode.BUG
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert error.endswith("error: a bug in Side-Step: ZeroDivisionError: oops (traceback: above)\n")


def test_a_reader_that_leaves_is_no_failure() -> None:
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run([sys.executable, "-m", "sidestep", "schema"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (run.returncode, run.stderr) == (0, b"")


def test_standard_output_may_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["schema"]) == 0


def test_tiny_checkpoint_and_demo_are_called_with_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    tiny, demo = ModuleType("sidestep.acestep.tiny"), ModuleType("sidestep.tasks.demo")
    monkeypatch.setattr(tiny, "write_tiny_checkpoint", lambda *args: calls.append(args), raising=False)
    monkeypatch.setattr(demo, "demo", lambda *args: calls.append(args), raising=False)
    monkeypatch.setitem(sys.modules, "sidestep.acestep", ModuleType("sidestep.acestep"))
    monkeypatch.setitem(sys.modules, "sidestep.acestep.tiny", tiny)
    monkeypatch.setitem(sys.modules, "sidestep.tasks.demo", demo)
    assert main(["tiny-checkpoint", "ck", "--variants", "base", "turbo", "--seed", "3"]) == 0
    assert main(["demo"]) == 0
    assert main(["demo", "there"]) == 0
    assert calls == [(Path("ck"), ["base", "turbo"], 3), (Path("demo"),), (Path("there"),)]


def test_train_py_is_the_same_command() -> None:
    script = Path(__file__).parents[1] / "train.py"
    run = subprocess.run([sys.executable, script, "fixde"], capture_output=True, text=True)
    assert run.returncode == ExitCode.USAGE
    assert "did you mean `sidestep fixed`?" in run.stderr


def test_the_public_interface(tasks: Tasks) -> None:
    spec = sidestep.JobSpec.load(audio_dir="a", output_dir="o")
    sidestep.run(spec)
    assert tasks.specs == [spec]
    assert {"JobSpec", "run", "acestep", "adapters"} <= set(dir(sidestep))
    with pytest.raises(AttributeError, match="has no attribute 'runn'"):
        _ = sidestep.runn  # type: ignore[attr-defined]
