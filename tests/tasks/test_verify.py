"""`sidestep verify-resume` tells a machine whose numbers repeat from one whose numbers do not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.tasks import verify
from tests.songs import MakeSpec


@pytest.mark.slow  # four processes that load torch
def test_the_verdict(make_spec: MakeSpec, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spec = make_spec()
    Path("job.json").write_text(spec.model_dump_json())
    assert main(["verify-resume", "job.json", "--steps", "4"]) == 0
    assert "an interrupted run equals an uninterrupted one, bit for bit" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    Path("job.json").write_text(json.dumps(spec.model_dump() | {"dataset_dir": str(tmp_path / "none")}))
    assert main(["verify-resume", "job.json"]) == 66


def test_a_difference_is_found(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose adapters differ from process to process."""
    made = iter(range(3))

    def train(spec: object, expected: int) -> None:
        folder = Path(str(spec.output_dir), "adapter")  # type: ignore[attr-defined]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_model.safetensors").write_text(str(next(made)))

    monkeypatch.setattr(verify, "_train", train)
    Path("job.json").write_text(make_spec().model_dump_json())
    assert main(["verify-resume", "job.json"]) == 72


def test_a_trial_does_not_outlive_its_parent() -> None:
    """Whose death, also by SIGKILL, ends what the trial's standard input is read from."""
    code = (
        "import sys, threading\n"
        "from sidestep.tasks import verify\n"
        "verify.JobSpec.load = lambda file: threading.Event().wait(30)\n"
        "verify._main('job.json')"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as trial:
        assert trial.stdin
        trial.stdin.close()
        assert trial.wait(60) == 75


@pytest.mark.parametrize("steps", ["1", "0", "-3"])
def test_there_must_be_a_middle(make_spec: MakeSpec, steps: str) -> None:
    Path("job.json").write_text(make_spec().model_dump_json())
    assert main(["verify-resume", "job.json", f"--steps={steps}"]) == 64
