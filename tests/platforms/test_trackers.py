"""Trackers' own packages, for real: MLflow's server on loopback, Trackio on this disk, wandb offline.

Each is installed into an environment of its own, as those of the platforms are.
"""

import json
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from sidestep.config.job import JobSpec
from sidestep.config.trackers import TRACKERS, TrackerName
from sidestep.lifecycle.trackers import Trackers
from sidestep.storage.open import open_store
from tests.platforms.test_readers import READERS, environment_of

pytestmark = [pytest.mark.platforms, pytest.mark.timeout(1200)]
SETTINGS = {"model_variant": "base", "train.adapter": {"rank": 8}}
CANARY = "canary0123456789canary"
ALL = ("mlflow", "trackio", "wandb")


@pytest.fixture(autouse=True)
def canaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Secrets in the environment, and nothing of this user's."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")


def install(package: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its environment's packages are found from now on; the bin folder of it."""
    folder = environment_of(package)
    (packages,) = folder.parent.glob("lib/python*/site-packages")
    monkeypatch.syspath_prepend(packages)
    return folder


def two_attempts(tracker: TrackerName, folder: Path, seconds: float = 60) -> float:
    """A run of six steps, the first three by an attempt that is preempted; how long its ends took."""
    place = str(folder / "out")
    store = open_store(place, JobSpec.load(None, audio_dir=".", output_dir=place).storage)
    waited = 0.0
    for first, last, state, code in ((1, 3, "preempted", 75), (4, 6, "done", 0)):
        trackers = Trackers([tracker])
        trackers.begin(store, "night", SETTINGS, first - 1)
        for step in range(first, last + 1):
            trackers.add("loss/train", 1 / step, step)
            trackers.add("lr/*.q_proj", 1e-4, step)
        trackers.add("loss/train", 9.0, last + 1)  # which is never committed
        trackers.committed(last)
        until, started = time.monotonic() + seconds, time.monotonic()
        trackers.ended(state, code)
        trackers.close(lambda until=until: until - time.monotonic())  # type: ignore[misc]
        waited += time.monotonic() - started
    return waited


def run_of(folder: Path) -> str:
    run: str = json.loads((folder / "out" / "trackers.json").read_text())["run"]
    return run


def losses(rows: list[tuple[int, float]]) -> None:
    assert [step for step, _ in rows] == [1, 2, 3, 4, 5, 6]
    assert [value for _, value in rows] == [pytest.approx(1 / step) for step in range(1, 7)]


def nowhere(folder: Path, *leave_out: str) -> None:
    """No secret is in what was written."""
    written = [file for file in folder.rglob("*") if file.is_file() and file.name not in leave_out]
    assert written
    assert not [file for file in written if CANARY.encode() in file.read_bytes()]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@contextmanager
def mlflow_server(folder: Path, python: Path) -> Iterator[str]:
    """Its address. It takes most of a minute to start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder / "home")}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*map(str, command), "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"],
            stdout=log,
            stderr=log,
            cwd=folder,
            env=environ,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + 240
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < until, (folder / "server.log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)
            server.wait(20)


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    python = install("mlflow", monkeypatch) / "python"
    with mlflow_server(tmp_path, python) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url.replace("://", f"://me:{CANARY}@"))
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "lullabies")
        two_attempts("mlflow", tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as known:
        ((run, name, status, experiment),) = known.execute(
            "select run_uuid, runs.name, status, experiments.name"
            " from runs join experiments using (experiment_id)"
        )
        assert (name, status, experiment) == ("night", "FINISHED", "lullabies")
        losses(
            known.execute("select step, value from metrics where key = 'loss/train' order by step").fetchall()
        )
        rows = known.execute("select count(*) from metrics where key = 'lr/_.q_proj'").fetchone()
        assert rows == (6,)
        assert known.execute("select value from params where key = 'train.adapter.rank'").fetchone() == ("8",)
    assert warnings(caplog) == [] and run in caplog.text and CANARY not in caplog.text
    nowhere(tmp_path)


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    install("trackio", monkeypatch)
    two_attempts("trackio", tmp_path)
    name = f"night-{run_of(tmp_path)[:8]}"
    with closing(sqlite3.connect(tmp_path / "trackio" / "side-step.db")) as known:
        rows = known.execute("select run_name, run_id, step, metrics from metrics order by step").fetchall()
        ((config,),) = known.execute("select config from configs").fetchall()
    assert {row[0] for row in rows} == {name} and len({row[1] for row in rows}) == 1
    losses([(step, json.loads(metrics)["loss/train"]) for _, _, step, metrics in rows])
    assert json.loads(config)["train.adapter.rank"] == 8
    assert warnings(caplog) == []
    nowhere(tmp_path)


def test_wandb_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    python = install("wandb", monkeypatch) / "python"
    two_attempts("wandb", tmp_path)
    done = subprocess.run(
        [python, READERS / "wandb_run.py", tmp_path], capture_output=True, text=True, check=True, timeout=120
    )
    said: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    runs = {(one["run"], one["name"]) for one in said if "run" in one}
    assert runs == {(run_of(tmp_path), "night")}
    points = [one["history"] for one in said if "history" in one]
    losses([(point["step"], point["loss/train"]) for point in points])
    assert [one for one in said if "exit" in one or "preempting" in one] == [
        *({"preempting": True}, {"exit": 75}),
        {"exit": 0},
    ]
    settings = {key: value for one in said for key, value in one.get("config", {}).items()}
    assert settings["train.adapter.rank"] == 8
    assert caplog.text.count("offline, in") == 2 and warnings(caplog) == []
    nowhere(tmp_path)
    hosts = [socket.gethostname(), " ".join(sys.argv)]
    data = b"".join(file.read_bytes() for file in tmp_path.glob("wandb/offline-run-*/files/*"))
    assert not [host for host in hosts if host.encode() in data]


@pytest.mark.parametrize("kind", ["dead", "hanging"])
@pytest.mark.parametrize("tracker", ALL)
def test_a_server_that_is_not_there_is_not_felt(
    tracker: TrackerName,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One that accepts and never answers, too: as the run begins, and as it ends."""
    install(tracker, monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, and nobody reads
        port = silent.getsockname()[1] if kind == "hanging" else 9
        url = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("TRACKIO_SERVER_URL", url)
        monkeypatch.setenv("TRACKIO_WRITE_TOKEN", CANARY)
        started = time.monotonic()
        waited = two_attempts(tracker, tmp_path, seconds=3)
    assert waited < 8 and time.monotonic() - started < 10
    told = warnings(caplog)
    assert 2 <= len(told) <= 4  # of each attempt: that it is out of reach, and what it lacks
    assert {line for line in told if TRACKERS[tracker].title in line} == {*told}
    assert CANARY not in caplog.text


def test_a_wrong_key_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """MLflow's server says 401; wandb has no key at all, and nobody whom it could ask."""
    install("mlflow", monkeypatch)

    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Nothing on the tests' screen."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        two_attempts("mlflow", tmp_path)
        server.shutdown()
    install("wandb", monkeypatch)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY")
    two_attempts("wandb", tmp_path)
    refused = [line for line in warnings(caplog) if "refuses" in line]
    assert [line.partition(" refuses")[0] for line in refused] == ["MLflow"] * 2 + ["Weights & Biases"] * 2
    assert "401" in refused[0] and "key" in refused[2].lower()
