"""What the platforms' own packages make of what is rendered: SkyPilot's and dstack's parsers, Vast's client.

Each is installed into an environment of its own, below build/platforms. They may let misspelt keys pass, so
it is the values they end up with that are compared.
"""

import hashlib
import json
import os
import re
import shlex
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


def environment_of(package: str, version: str = "") -> Path:
    """The bin folder of an environment with `package` alone, by default of requirements/platforms.txt."""
    pins = f"{package}=={version}" if version else (ROOT / "requirements" / "platforms.txt").read_text()
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
        assert resources["use_spot"] is True and resources["disk_size"] == 86
        recovery = {name: value for name, value in resources["job_recovery"].items() if value is not None}
        codes = [72, 73, 74, 75, 76, 137, 143]
        assert recovery == {"max_restarts_on_errors": 0, "recover_on_exit_codes": codes}
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
    words = shlex.split(said.pop("entrypoint"))
    assert words[:2] == ["/bin/sh", "-c"] and words[3:] == ["sh", "sidestep", "run"]
    resources = said.pop("resources")
    assert resources["memory"]["min"] == 16.0 and resources["cpu"]["count"]["min"] == 4
    assert resources["gpu"] == {
        "vendor": "nvidia",
        "name": None,
        "count": {"min": 1, "max": 1},
        "memory": {"min": 24.0, "max": None},
        "total_memory": None,
        "compute_capability": [8, 0],
    }
    assert said == {
        "type": "task",
        "name": "sidestep-my-lora",
        "image": IMAGE,
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
    instances: list[dict[str, Any]] = []
    offer = {"id": 4711, "min_bid": 0.2, "dph_total": 0.25, "cpu_ram": 64000, "gpu_frac": 1.0}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            said = json.loads(body) if body else None
            path = self.path.partition("?")[0]
            asked.append((self.command, path, said))
            status, answer = 200, dict[str, Any](success=True, new_contract=1)
            if path == "/api/v0/bundles/":
                answer = {"offers": [{**offer, "id": 4710}, offer]}
            elif path == "/api/v1/instances/":
                answer = {"instances": instances, "next_token": None}
            elif path == "/api/v0/asks/4710/":
                status, answer = 410, {"success": False, "error": "no_such_ask", "msg": "it is rented"}
            elif path == "/api/v0/asks/4711/":
                row = {"id": 1, "label": json.loads(body)["label"], "actual_status": "loading"}
                instances.append({**row, "start_date": 0.0, "extra_env": []})
            else:  # what the package asks for itself
                status, answer = 404, {}
            self.send_response(status)
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


def submit_to_vast(url: str, values: dict[str, Any]) -> str:
    """Run the rendered script with Vast's own package; what was said."""
    text = render("vast", values).text.replace("LOOKS = (2, 5, 15)", "LOOKS = (0,)")
    Path("job.py").write_text(text)
    environ = {"HOME": str(Path("home").absolute()), "VAST_URL": url, "VAST_API_KEY": "none"}
    environ["PATH"] = f"{environment_of('vastai')}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([sys.executable, "job.py"], env=environ, capture_output=True, text=True)
    assert done.returncode == 0 and "Unrecognized field" not in done.stderr, done.stderr
    return done.stderr


def test_vast(vast_api: tuple[str, list[tuple[str, str, Any]]]) -> None:
    """Its package knows each field of the query; a refusal, which is no failure to it, is seen."""
    url, asked = vast_api
    values = {**ON_S3, "audio_dir": "s3://studio/my songs=x"}
    submit_to_vast(url, values)
    bodies = {path: body for _, path, body in asked}
    query = bodies["/api/v0/bundles/"]
    assert query["cuda_max_good"] == {"gte": "13.0"} and query["gpu_ram"] == {"gte": 24000.0}
    assert query["compute_cap"] == {"gte": "800"} and query["cpu_ram"] == {"gte": 16000.0}
    assert query["duration"] == {"gte": 86400.0} and query["dph_total"] == {"lte": "0.4"}
    assert query["gpu_arch"] == {"eq": "nvidia"} and query["cpu_arch"] == {"eq": "amd64"}
    assert query["inet_down"] == {"gte": "200"} and query["inet_up"] == {"gte": "50"}
    assert query["inet_down_cost"] == query["inet_up_cost"] == {"lte": "0.02"}
    assert query["disk_space"] == {"gte": "36"} and query["allocated_storage"] == 36
    assert query["type"] == "bid" and query["order"] == [["dph_total", "asc"]]
    assert query["rentable"] == query["verified"] == {"eq": True}
    assert "/api/v0/asks/4710/" in bodies
    instance = bodies["/api/v0/asks/4711/"]
    assert instance["image"] == IMAGE and instance["runtype"] == "args" and instance["args"] == ["run"]
    assert instance["price"] == 0.22 and instance["disk"] == 36 and instance["onstart"] is None
    assert instance["cancel_unavail"] is True and instance["label"].startswith("sidestep-my-lora-")
    spec, _ = resolve(environ=instance["env"])
    assert spec.audio_dir == "s3://studio/my songs=x" and spec.runtime.on_exit == "terminate"

    before = len(asked)
    assert instance["label"] in submit_to_vast(url, values)
    assert not any("asks" in path for _, path, _ in asked[before:])


@pytest.mark.parametrize("package", ["skypilot", "dstack"])
def test_google_s_places_and_the_hub_s(package: str) -> None:
    """Google's machines alone; a token that may be missing is no reason to refuse the file."""
    places = {"checkpoint_dir": "hf://ACE-Step/Ace-Step1.5", "output_dir": "gs://studio/runs"}
    Path("job.yaml").write_text(json.dumps({**ON_S3, **places}))
    task = read_by(package, render(package, {}, Path("job.yaml")).text)
    if package == "dstack":
        assert task["backends"] == ["gcp"]
        assert task["env"]["HF_TOKEN"] == "${{ secrets.HF_TOKEN }}"
    else:
        assert {resources["cloud"] for resources in task["resources"]} == {"GCP"}
        assert "--env HF_TOKEN" in task["run"]
