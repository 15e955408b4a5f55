"""A training that is cut and goes on: by a real signal, and on a machine of another kind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep.commitlog.log import CommitLog, Record
from sidestep.commitlog.writer import Writer
from sidestep.config.job import JobSpec
from sidestep.lifecycle.reporter import Reporter
from sidestep.runtime.errors import AgainError, SideStepError
from sidestep.runtime.preemption import Preemption
from sidestep.storage.open import open_store
from sidestep.tasks import run
from sidestep.tasks import train as task
from sidestep.tasks.train_log import report_step
from sidestep.training import machine
from tests.songs import MakeSpec


@pytest.fixture
def preemption() -> Iterator[Preemption]:
    with Preemption(end_process=lambda code: None) as preemption:
        yield preemption


def tail(spec: JobSpec) -> Record:
    record = CommitLog(open_store(spec.output_place, spec.storage)).tail()
    assert record
    return record


def state(spec: JobSpec) -> dict[str, Any]:
    """What the newest checkpoint says of itself."""
    content = Path(spec.output_place, tail(spec).folder, "training_state.json").read_text()
    found: dict[str, Any] = json.loads(content)
    return found


def cut_after(step: int, spec: JobSpec, preemption: Preemption, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM comes between two steps."""

    def report(reporter: Reporter, result: Any, *rest: Any) -> None:
        report_step(reporter, result, *rest)
        if result.step == step:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(task, "report_step", report)
        with pytest.raises((AgainError, KeyboardInterrupt)) as error:
            run(spec, preemption)
    assert f"stopped after step {step} of" in str(error.value)


def test_a_signal_lets_a_training_save(
    make_spec: MakeSpec, preemption: Preemption, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(epochs=4)
    cut_after(3, spec, preemption, monkeypatch)
    assert (tail(spec).kind, tail(spec).step) == ("commit", 3)


@pytest.mark.parametrize("is_noticed", [True, False])
def test_what_fails_after_notice_is_no_bug(
    make_spec: MakeSpec, preemption: Preemption, monkeypatch: pytest.MonkeyPatch, is_noticed: bool
) -> None:
    """A signal to a whole group ends a library's own processes, too."""

    def fail(*_: Any) -> None:
        if is_noticed:
            signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("a worker was ended")

    monkeypatch.setattr(task, "report_step", fail)
    with pytest.raises(AgainError if is_noticed else RuntimeError, match="a worker was ended"):
        run(make_spec(), preemption)
    status = json.loads(Path(make_spec().output_place, "status.json").read_text())
    assert status["state"] == ("preempted" if is_noticed else "failed")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_process_group_that_is_signalled_twice_has_saved(
    make_spec: MakeSpec, tmp_path: Path, number: signal.Signals
) -> None:
    """As Slurm, Apptainer, torchrun and wrappers do: to the group, and once more 10 ms later."""
    spec = make_spec(epochs=10_000, checkpoint={"every_steps": 5, "every_minutes": None})
    Path("job.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "sidestep", "train", "--config", "job.json"]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("out/commits/000002.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, number)
        time.sleep(0.01)
        os.killpg(process.pid, number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 75, said
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("preempted", 75)
    assert (tail(spec).kind, tail(spec).step) == ("commit", status["step"])
    assert f"stopped after step {status['step']} of" in status["message"]


def test_on_another_machine_it_goes_on_as_it_was_begun(
    make_spec: MakeSpec, preemption: Preemption, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the choices of the first attempt, and its kind of machine in all later checkpoints."""
    spec, threads = make_spec(epochs=4), torch.get_num_threads()
    cut_after(3, spec, preemption, monkeypatch)
    begun_on = state(spec)["machine"]
    monkeypatch.setattr(machine, "_processor", lambda device: "slide rule")
    try:
        torch.set_num_threads(threads + 1)
        run(spec)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(threads)
    assert state(spec)["machine"] == begun_on
    assert tail(spec).machines == [begun_on, {**begun_on, "processor": "slide rule"}]


def test_it_ends_when_its_last_checkpoint_is_committed(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, commit = make_spec(epochs=1), Writer.commit

    def slow(self: Writer, *given: Any) -> Record:
        time.sleep(0.5)
        return commit(self, *given)

    monkeypatch.setattr(Writer, "commit", slow)
    run(spec)
    assert (tail(spec).kind, tail(spec).step) == ("done", 2)


def test_a_pipeline_that_ends_before_it_trains_has_kept_its_settings(
    tiny_checkpoints: Path, tmp_path: Path
) -> None:
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "a.wav").write_bytes(b"no sound")
    places: dict[str, Any] = {"checkpoint_dir": tiny_checkpoints, "audio_dir": tmp_path / "songs"}
    with pytest.raises(SideStepError, match=r"a\.wav"):
        run(JobSpec.load(task="pipeline", name="begun", output_dir=tmp_path / "out", **places))
    kept = tmp_path / "out" / "job.yaml"
    assert kept.exists() and "name: begun" in kept.read_text()
