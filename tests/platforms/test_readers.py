"""What the platforms' own packages make of what is rendered: SkyPilot's and dstack's parsers, Vast's client.

Each is installed into an environment of its own, below build/platforms. They may let misspelt keys pass, so
it is the values they end up with that are compared.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.job import resolve
from tests.platforms.rendering import IMAGE, ON_S3, ROOT, SPECS, render

pytestmark = [pytest.mark.platforms, pytest.mark.timeout(1200)]
READERS = Path(__file__).with_name("readers")
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def environment_of(package: str) -> Path:
    """The bin folder of an environment with `package` alone, at the version of requirements/platforms.txt."""
    pins = (ROOT / "requirements" / "platforms.txt").read_text()
    found = re.search(rf"^{package}==\S+", pins, re.M)
    assert found is not None
    folder = ROOT / "build" / "platforms" / f"{package}-{hashlib.sha256(found[0].encode()).hexdigest()[:8]}"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", found[0]], check=True)
        (folder / "ready").touch()
    return folder / "bin"


def read_by(package: str, text: str) -> dict[str, Any]:
    """What the package's parser makes of `text`. It sees nothing of this user's settings."""
    Path("file.yml").write_text(text)
    environ = {"HOME": str(Path("home").absolute()), "PATH": os.environ["PATH"]}
    environ |= {"SKYPILOT_DISABLE_USAGE_COLLECTION": "1", "LC_ALL": "C.UTF-8"}
    command = [str(environment_of(package) / "python"), str(READERS / f"{package}_task.py"), "file.yml"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return read


def test_skypilot() -> None:
    config = SPECS / "s3" / "pipeline.yaml"
    task = read_by("skypilot", render("skypilot", {"train": {"seed": 7}}, config).text)
    assert task["name"] == "my-lora"
    assert task["file_mounts"] == {"/tmp/sidestep/job.yaml": str(config)}
    assert task["secrets"] == [f"secrets:{name}" for name in SECRETS]  # to be given by --secret
    assert {"L4": 1} in [resources["accelerators"] for resources in task["resources"]]
    assert {resources["cloud"] for resources in task["resources"]} == {"AWS", "GCP", "Azure"}
    for resources in task["resources"]:
        assert resources["use_spot"] is True and resources["disk_size"] == 200
        recovery = {name: value for name, value in resources["job_recovery"].items() if value is not None}
        assert recovery == {"max_restarts_on_errors": 3, "recover_on_exit_codes": [75]}
    run = task["run"].replace("\\\n", " ").split()
    assert run[:2] == ["docker", "run"] and run[-2:] == [IMAGE, "run"]
    assert run[run.index("--stop-timeout") + 1] == "30"
    assert "/tmp/sidestep/job.yaml:/etc/sidestep/job.yaml:ro" in run
    variables = [word for option, word in zip(run, run[1:]) if option == "--env"]  # noqa: B905, RUF007
    assert variables == ["SIDESTEP_TRAIN__SEED=7", "SIDESTEP_RUNTIME__GRACE_SECONDS=20", *SECRETS]


def test_dstack() -> None:
    task = read_by("dstack", render("dstack", {**ON_S3, "train": {"lr": 1e-05}}).text)
    said = {name: value for name, value in task.items() if value not in (None, [], False)}
    environ = said.pop("env")
    assert said.pop("resources")["gpu"] == {
        "vendor": "nvidia",
        "name": None,
        "count": {"min": 1, "max": 1},
        "memory": {"min": 24.0, "max": None},
        "total_memory": None,
        "compute_capability": None,
    }
    assert said == {
        "type": "task",
        "name": "sidestep-my-lora",
        "image": IMAGE,
        "entrypoint": "sidestep run",
        "spot_policy": "auto",
        "home_dir": "/root",  # its default, without effect
        "retry": {"on_events": ["no-capacity", "interruption", "error"], "duration": 24 * 3600},
    }
    assert {name: environ.pop(name) for name in SECRETS} == {
        name: f"${{{{ secrets.{name} }}}}" for name in SECRETS
    }
    spec, _ = resolve(environ=environ)
    assert spec.train.lr == 1e-05 and spec.runtime.grace_seconds == 8


@pytest.fixture
def vast_api() -> Iterator[tuple[str, list[tuple[str, str, Any]]]]:
    """A stand-in for Vast's API, which has one offer: its address, and what it was asked."""
    asked: list[tuple[str, str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append((self.command, self.path, json.loads(body) if body else None))
            offers = {"offers": [{"id": 4711, "min_bid": 0.2}]}
            answer = offers if "bundles" in self.path else {"success": True, "new_contract": 1}
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_GET = do_PUT = do_POST

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_vast(vast_api: tuple[str, list[tuple[str, str, Any]]]) -> None:
    url, asked = vast_api
    Path("job.sh").write_text(render("vast", {**ON_S3, "audio_dir": "s3://studio/my songs=x"}).text)
    environ = {"HOME": str(Path("home").absolute()), "VAST_URL": url, "VAST_API_KEY": "none"}
    environ["PATH"] = f"{environment_of('vastai')}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "job.sh"], env=environ, check=True)
    bodies = {path: body for _, path, body in asked}
    query = bodies["/api/v0/bundles/"]
    assert query["cuda_max_good"] == {"gte": "13.0"} and query["gpu_ram"] == {"gte": 24000.0}
    assert query["type"] == "bid" and query["order"] == [["dph_total", "asc"]]
    instance = bodies["/api/v0/asks/4711/"]
    assert instance["image"] == IMAGE and instance["runtype"] == "args" and instance["args"] == ["run"]
    assert instance["price"] == 0.22 and instance["disk"] == 100 and instance["onstart"] is None
    spec, _ = resolve(environ=instance["env"])
    assert spec.audio_dir == "s3://studio/my songs=x" and spec.runtime.on_exit == "terminate"
