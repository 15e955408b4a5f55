"""Experiment trackers: what they are told and when, and that nothing they do is felt by a job."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidestep.cli import main
from sidestep.config.job import JobSpec
from sidestep.config.trackers import TRACKERS
from sidestep.lifecycle import trackers as module
from sidestep.lifecycle import watching as watching_module
from sidestep.lifecycle.identity import NEUTRAL, flat_settings
from sidestep.lifecycle.trackers import FILE, PUBLIC, Trackers, public_settings, run_id
from sidestep.lifecycle.watching import Watching
from sidestep.runtime import outbox
from sidestep.runtime.errors import AgainError, BadDataError, ExitCode
from sidestep.runtime.preemption import Preemption
from sidestep.storage.local import LocalStore
from sidestep.storage.open import open_store
from tests.runs import settings_of_job
from tests.songs import MakeSpec
from tests.trackers import heard, is_gone, points, with_stand_in

CANARY = "canary0123456789canary"
SETTINGS = {"model_variant": "base", "train.adapter": {"rank": 8}}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = open_store(str(tmp_path / "out"), JobSpec.load(None, audio_dir=".", output_dir="x").storage)
    assert isinstance(store, LocalStore)
    return store


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(outbox, "FIRST_PAUSE", 0.02)
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    caplog.set_level(logging.INFO)


def begun(store: LocalStore, committed: int = 0, *names: Any) -> Trackers:
    trackers = Trackers(names or ("trackio",))
    trackers.begin(store, "night", SETTINGS, committed)
    return trackers


def over(trackers: Trackers, state: str = "done", code: int = 0, seconds: float = 10) -> float:
    """It ends; how long that took."""
    until, started = time.monotonic() + seconds, time.monotonic()
    trackers.ended(state, code)
    trackers.close(lambda: until - time.monotonic())
    return time.monotonic() - started


def wait_for(happened: Callable[[], object]) -> None:
    until = time.monotonic() + 10
    while not happened() and time.monotonic() < until:
        time.sleep(0.01)
    assert happened()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_run_over_two_attempts_is_one_run_and_each_step_is_told_once(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first gives up steps 4 and 5, which it had not committed; the second makes them again."""
    with_stand_in(monkeypatch, tmp_path)
    monkeypatch.setenv("SIDESTEP_RUNTIME__WEBHOOK", f"https://hooks.example.com/{CANARY}")
    first = begun(store)
    for step in range(1, 6):
        first.add("loss/train", 1 / step, step)
        first.add("lr", 1e-4, step)
    first.committed(3)
    over(first, "preempted", 75)
    second = begun(store, 3)
    for step in range(4, 7):
        second.add("loss/train", 1 / step, step)
    second.committed(6)
    over(second)

    told = points(tmp_path)
    assert [(tag, step) for tag, step, _ in told if tag == "loss/train"] == [
        ("loss/train", step) for step in range(1, 7)
    ]
    assert [value for tag, _, value in told if tag == "loss/train"] == [1 / step for step in range(1, 7)]
    assert [step for tag, step, _ in told if tag == "lr"] == [1, 2, 3]
    begins = [said for said in heard(tmp_path) if "name" in said]
    run = json.loads((tmp_path / "out" / FILE).read_text())["run"]
    assert [(said["name"], said["resume"]) for said in begins] == [(f"night-{run[:8]}", "allow")] * 2
    assert begins[0]["config"]["train.adapter.rank"] == 8 and begins[0]["private"] is True
    assert not [name for name in begins[0]["environ"] if name.startswith("SIDESTEP_")]
    assert len([said for said in heard(tmp_path) if said.get("end")]) == 2
    assert warnings(caplog) == []
    assert caplog.text.count(f"Trackio: this machine, project side-step, run night-{run[:8]}") == 2
    assert all(is_gone(said["pid"]) for said in heard(tmp_path))


def test_what_is_not_committed_is_not_told(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_stand_in(monkeypatch, tmp_path)
    trackers = begun(store)
    trackers.add("loss/eval", 1, 0)
    trackers.add("loss/train", 1, 1)
    over(trackers, "failed", 70)
    assert points(tmp_path) == [("loss/eval", 0, 1)]  # of step 0, which needs no commit


@pytest.mark.parametrize("mode", ["hangs at the start", "hangs", "hangs at the end"])
def test_a_library_that_hangs_costs_a_moment_and_its_process_is_gone(
    mode: str,
    store: LocalStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with_stand_in(monkeypatch, tmp_path, mode)
    started = time.monotonic()
    trackers = begun(store)
    trackers.add("lr", 1, 1)
    trackers.committed(1)
    assert time.monotonic() - started < 1
    wait_for(lambda: heard(tmp_path))
    assert over(trackers, seconds=0.5) < 2
    told = warnings(caplog)
    assert "Trackio has not answered" in told[0]
    assert [line for line in told if "1 point" in line] == told[1:] and len(told[1:]) == (
        mode != "hangs at the end"
    )
    assert all(is_gone(said["pid"]) for said in heard(tmp_path))


@pytest.mark.parametrize("mode", ["dies once", "hangs once", "fails once"])
def test_what_fails_is_tried_again(
    mode: str,
    store: LocalStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with_stand_in(monkeypatch, tmp_path, mode)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 1.0)
    trackers = begun(store)
    trackers.add("lr", 1, 1)
    trackers.committed(1)
    wait_for(lambda: points(tmp_path))
    over(trackers)
    assert points(tmp_path) == [("lr", 1, 1)] and heard(tmp_path)[-1].get("end")
    begins = [said["name"] for said in heard(tmp_path) if "name" in said]
    assert len(begins) == (1 if mode == "fails once" else 2) and len({*begins}) == 1
    (told,) = warnings(caplog)
    assert "Trackio is out of reach" in told and CANARY not in caplog.text
    assert caplog.text.count("Trackio is reached again") == 1


def test_what_is_refused_is_told_once_and_not_tried_again(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_stand_in(monkeypatch, tmp_path)
    trackers = begun(store, 0, "wandb")
    for step in (1, 2):
        trackers.add("lr", 1, step)
        trackers.committed(step)
    over(trackers)
    refused, lacks = warnings(caplog)
    assert "Weights & Biases refuses" in refused and "no account has the key" in refused
    assert "lacks 2 points" in lacks and CANARY not in caplog.text
    assert heard(tmp_path) == [{}]


def test_one_that_hangs_does_not_hold_up_the_other(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_stand_in(monkeypatch, tmp_path)
    (tmp_path / "packages" / "wandb.py").write_text("import time; time.sleep(60)")
    trackers = begun(store, 0, "wandb", "trackio")
    trackers.add("lr", 1, 1)
    trackers.committed(1)
    wait_for(lambda: points(tmp_path))
    over(trackers, seconds=0.2)


def test_what_waits_for_a_commit_is_bounded_and_counted(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_stand_in(monkeypatch, tmp_path)
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    trackers = begun(store)
    for step in range(1, 6):
        trackers.add("lr", 1, step)
    trackers.committed(5)
    over(trackers)
    assert [step for _, step, _ in points(tmp_path)] == [3, 4, 5]
    (told,) = warnings(caplog)
    assert "lacks 2 points" in told


def test_signals_to_all_of_a_job_do_not_end_it(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Slurm sends them; Ctrl-C goes to a terminal's group, which it is not in."""
    with_stand_in(monkeypatch, tmp_path)
    trackers = begun(store)
    wait_for(lambda: heard(tmp_path))
    pid = heard(tmp_path)[0]["pid"]
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        os.kill(pid, number)
    assert os.getpgid(pid) != os.getpgrp()
    trackers.add("lr", 1, 1)
    trackers.committed(1)
    over(trackers)
    assert [said["pid"] for said in heard(tmp_path)] == [pid] * 3


ORPHANS = """
import os, signal, sys, time
from sidestep.lifecycle.trackers import _Host
host = _Host("trackio", {"run": "0" * 32, "name": "night", "settings": {}})
import threading
threading.Thread(target=host.send, args=({"points": [["lr", 1, 1, 0]]},), daemon=True).start()
while not os.path.exists(os.environ["STAND_IN_FILE"]):
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_where_the_job_is_killed_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its library hangs."""
    with_stand_in(monkeypatch, tmp_path, "hangs")
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run([sys.executable, "-c", ORPHANS], env={**os.environ, "PYTHONPATH": path}, timeout=60)
    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: is_gone(heard(tmp_path)[0]["pid"]))


@pytest.mark.parametrize("content", [b"{}", b'{"run": "../x"}', b"\xff"])
def test_a_damaged_id_is_made_anew(
    content: bytes, store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    first = run_id(store)
    assert run_id(store) == first
    store.write_bytes(FILE, content)
    again = run_id(store)
    assert again != first and run_id(store) == again
    (told,) = warnings(caplog)
    assert FILE in told


@pytest.mark.parametrize(
    ("failure", "state"),
    [(None, "done"), (BadDataError("no song"), "failed"), (AgainError("stopped"), "preempted")],
)
def test_the_job_s_end_is_theirs(
    failure: BaseException | None, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the seconds that all who watch have together, and told once, though a job says it twice."""
    told: list[Any] = []
    spec = JobSpec.load(None, task="estimate", output_dir=tmp_path / "out", runtime={"trackers": "trackio"})
    watching = Watching(spec, Preemption())
    monkeypatch.setattr(Trackers, "ended", lambda self, state, code: told.append(state))
    monkeypatch.setattr(Trackers, "close", lambda self, left: told.append(left()))
    with watching:
        watching.ended(failure)
        watching.__exit__(None, failure, None)
        assert told[:2] == [state, state] and 0 < told[2] <= watching_module.SECONDS_TO_SEND


def test_outside_its_block_nobody_is_told(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where one task is run by itself, which nobody would end it for."""
    with_stand_in(monkeypatch, tmp_path)
    spec = JobSpec.load(None, task="estimate", output_dir=tmp_path / "out", runtime={"trackers": "trackio"})
    Watching(spec, Preemption()).trackers.begin(store, "night", SETTINGS, 0)
    assert not (tmp_path / "out").exists()


def test_a_package_that_is_missing_is_a_wrong_spec(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Known before anything is looked at: neither of these places exists."""
    places = [
        "--checkpoint-dir",
        "s3://none/x",
        "--output-dir",
        str(tmp_path / "out"),
        "--dataset-dir",
        "none",
    ]
    assert main(["train", "--trackers", "mlflow", "wandb", *places]) == ExitCode.BAD_SPEC
    said = capsys.readouterr().err
    assert "runtime.trackers" in said and "side-step[mlflow,wandb]" in said
    assert not (tmp_path / "out").exists()


def test_an_unknown_tracker_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--trackers", "neptune", "--output-dir", "out"]) == ExitCode.BAD_SPEC
    said = capsys.readouterr().err
    assert "runtime.trackers" in said and "mlflow" in said


PRIVATE = {
    *("dataset", "dataset_content", "init_from", "train.repeats", "train.weights", "train.validation.songs"),
    *("train.adapter.rank_from", "deterministic", "batch_size", "compile", "kernels"),
    *("numerics.fp32", "numerics.bf16", "numerics.fp16"),
}


def test_settings_are_told_by_a_list_of_what_is_public(make_spec: MakeSpec) -> None:
    """Whoever adds a setting decides here, or in PUBLIC: places and names of songs stay here."""
    spec = make_spec(repeats={"0.pt": 2}, validation={"songs": ["1.pt"]})
    fingerprint = settings_of_job(spec) | {"weights": f"{CANARY}@main", "dataset_content": CANARY}
    fingerprint["train.adapter"]["rank_from"] = CANARY
    unknown = {name for name in flat_settings(fingerprint) if "×" not in name} - {*PUBLIC, "weights"}
    assert {name for name in unknown if not name.startswith("train.repeats")} == PRIVATE - {"train.repeats"}
    told = public_settings(fingerprint)
    assert {*told} == {*PUBLIC} and told["train.samples_per_step"] == 2
    assert json.loads(told["train.adapter.target_modules"])
    assert not [word for word in (CANARY, ".pt", spec.output_dir) if str(word) in json.dumps(told)]
    assert NEUTRAL.keys() >= {*PUBLIC} - {"train.samples_per_step"}


@pytest.mark.parametrize(
    "platform", ["docker", "kubernetes", "helm", "slurm", "skypilot", "dstack", "runpod", "vast"]
)
@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_rendered_file_names_their_variables(
    platform: str, tracker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"output_dir": "s3://b/out", "dataset_dir": "s3://b/t", "checkpoint_dir": "s3://b/c"}
    Path("job.yaml").write_text(json.dumps({"task": "train", **places, "runtime": {"trackers": [tracker]}}))
    assert main(["render", platform, "job.yaml"]) == 0
    made = "".join(
        file.read_text() for file in Path().iterdir() if file.name not in ("job.yaml", "sidestep.log")
    )
    said = capsys.readouterr()
    assert CANARY not in made + said.out + said.err
    assert not [name for name in TRACKERS[tracker].variables if name not in made + said.out]  # type: ignore[index]
    others = [name for other, row in TRACKERS.items() if other != tracker for name in row.variables]
    assert not [name for name in others if name in made + said.out]
