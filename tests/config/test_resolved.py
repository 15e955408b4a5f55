"""`--dry-run`: the spec that would be run, as a file that runs it, with the origin of every value."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.commands.run import SAYS
from sidestep.config.job import JobSpec, resolve
from sidestep.config.resolved import as_yaml
from sidestep.runtime.errors import ExitCode

JOB = "audio_dir: songs\noutput_dir: out\ndataset_dir: tensors\ntrain:\n  seed: 3\n"


def dry_run(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(line.split()) == 0
    return capsys.readouterr().out


def test_every_value_is_shown_with_its_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("job.yaml").write_text(JOB)
    monkeypatch.setenv("SIDESTEP_TRAIN__EPOCHS", "7")
    out = dry_run(
        "fixed --dry-run --config job.yaml --preset quick-test --lr 1e-5 --target-modules q_proj", capsys
    )
    lines = {" ".join(line.split()) for line in out.splitlines()}
    assert {
        "task: train # sidestep fixed",
        "audio_dir: songs # job.yaml:1",
        "train:",
        "lr: 1e-05 # --lr",
        "epochs: 7 # SIDESTEP_TRAIN__EPOCHS",
        "seed: 3 # job.yaml:5",
        "rank: 16 # preset quick-test",
        'target_modules: ["q_proj"] # --target-modules',
        "model_variant: base # default",
        "region: null # default",
    } <= lines


@pytest.mark.parametrize("command", SAYS)
def test_what_is_shown_is_a_spec_that_does_the_same(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("job.yaml").write_text(JOB)
    Path("again.yaml").write_text(dry_run(f"{command} job.yaml --rank-pattern v_proj=3 --dry-run", capsys))
    shown = json.loads(dry_run(f"{command} job.yaml --rank-pattern v_proj=3 --dry-run --json", capsys))
    assert JobSpec.load("again.yaml") == JobSpec.model_validate(shown["spec"])
    assert shown["origins"]["train.adapter.rank_pattern"] == "--rank-pattern"
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "place", ["my songs", "a: b # c", "null", "1e-4", "- x", "[a", "./'q\"", "Ümläut", ("x " * 600).strip()]
)
def test_any_place_survives(place: str) -> None:
    spec, origins = resolve(arguments={"audio_dir": place, "output_dir": "o"}, environ={})
    Path("job.yaml").write_text(as_yaml(spec, origins))
    assert JobSpec.load("job.yaml").audio_dir == place


def test_a_wrong_spec_is_still_refused() -> None:
    assert main(["train", "--dry-run", "--output-dir", "o", "--lr", "-1"]) == ExitCode.BAD_SPEC


def test_no_torch_is_imported_and_no_rented_machine_given_back(tmp_path: Path) -> None:
    code = (
        "import sys; from sidestep.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(code or 'torch' in sys.modules or 'sidestep.platforms.release' in sys.modules)"
    )
    words = ["run", "--audio-dir", "a", "--output-dir", "o", "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "SIDESTEP_RUNTIME__ON_EXIT": "terminate"},
    )
    assert done.returncode == 0, done.stderr
    assert "on_exit: terminate" in done.stdout
