"""The script that is rendered for RunPod, against a stand-in for its API: what is rented, and how often."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from sidestep.config.job import resolve
from sidestep.platforms import rent_runpod
from sidestep.platforms.runpod import GPUS, body
from sidestep.runtime.errors import ExitCode
from tests.platforms.rendering import ON_S3, job, render

KEY = "rpa_not-to-be-seen"

# CreatePodRequest, with ContainerConfig and CreateGpuConfig, of
# https://docs.runpod.io/api-reference-v2/pods/create-a-pod
VERSION = {"type": "string", "pattern": r"^\d+\.\d+$"}
CREATE_POD_REQUEST = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "image", "gpu"],
    "properties": {
        **{name: {"type": "string", "minLength": 1} for name in ("name", "image", "args", "templateId")},
        "disk": {"type": "integer", "minimum": 1},
        "ports": {"type": "array", "items": {"type": "string"}},
        "env": {"type": "object", "additionalProperties": {"type": "string"}},
        "registry": {"type": ["string", "null"]},
        "cloud": {"enum": ["SECURE", "COMMUNITY"]},
        "gpu": {
            "type": "object",
            "additionalProperties": False,
            "required": ["id"],
            "properties": {
                "id": {"type": "string"},
                "count": {"type": "integer", "minimum": 1},
                "allowedCudaVersions": {"type": "array", "items": VERSION},
                "minCudaVersion": VERSION,
            },
        },
        "dataCenterIds": {"type": "array", "items": {"type": "string"}},
    },
}


def gpu(name: str, secure: float, availability: str | None = "HIGH", community: float = 9) -> dict[str, Any]:
    """A row of the catalog, as GET /v2/catalog/gpus documents it."""
    stock = {} if availability is None else {"availability": availability}
    price = {"secure": secure, "community": community}
    return {"id": name, "name": name, "manufacturer": "NVIDIA", "memory": 24, "price": price, **stock}


@dataclass
class StandIn:
    """RunPod's API on this machine."""

    url: str = ""
    gpus: list[dict[str, Any]] = field(default_factory=list)
    pods: list[dict[str, Any]] = field(default_factory=list)
    late: list[dict[str, Any]] = field(default_factory=list)  # made, and listed from the next POST on
    answers: list[tuple[str, Any]] = field(default_factory=list)  # to the next POSTs; then all goes well
    reading: list[int] = field(default_factory=list)  # to the next GETs; then all goes well
    asked: list[tuple[str, str, str | None, Any]] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def made(self) -> list[str]:
        """The GPUs that were asked for."""
        return [body["gpu"]["id"] for method, _, _, body in self.asked if method == "POST"]


@pytest.fixture
def runpod(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    known = StandIn(gpus=[gpu("NVIDIA L4", 0.39), gpu("NVIDIA GeForce RTX 4090", 0.59), gpu(GPUS[1], 0.27)])

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, said: Any, **headers: str) -> None:
            text = json.dumps(said).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def refuse(self, status: int, detail: str = "no", **headers: str) -> None:
            self.answer(status, {"title": "t", "status": status, "detail": detail}, **headers)

        def note(self, said: Any = None) -> None:
            known.asked.append((self.command, self.path, self.headers["Authorization"], said))

        def do_GET(self) -> None:
            self.note()
            if known.reading:
                self.refuse(known.reading.pop(0), f"not with {KEY}", Location="/v2/elsewhere")
            elif self.path == "/v2/pods":
                self.answer(200, {"pods": known.pods})
            elif "include=AVAILABILITY" in self.path and "product=POD" not in self.path:
                self.refuse(400, "include=AVAILABILITY requires product")
            else:
                self.answer(200, {"gpus": known.gpus})

        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.note(said)
            errors = [error.message for error in Draft202012Validator(CREATE_POD_REQUEST).iter_errors(said)]
            what: str
            more: Any
            what, more = known.answers.pop(0) if known.answers else ("made", None)
            known.pods += known.late
            known.late = []
            pod = {
                "id": f"pod{len(known.asked)}",
                "name": said["name"],
                "status": "PROVISIONING",
                "cost": 0.0,
            }
            if errors:
                self.refuse(422, "; ".join(errors))
            elif what == "refused":
                self.refuse(more, "there are no longer any instances available", Retry_After="7")
            elif what == "lost":  # made, but the answer does not arrive; or not made
                {"made": known.pods, "late": known.late, "not": []}[more].append(pod)
                self.close_connection = True
            elif what == "broken":
                known.pods.append(pod)
                self.wfile.write(b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\n<htm")
            else:
                known.pods.append(pod)
                self.answer(201, {**pod, **(more or {})})

        def do_DELETE(self) -> None:
            self.note()
            known.pods = [one for one in known.pods if one["id"] != self.path.rpartition("/")[2]]
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known.url = f"http://127.0.0.1:{server.server_port}/v2"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    for name in ("MAX_PRICE", "GPUS", "CLOUD"):
        monkeypatch.delenv(name, raising=False)
    yield known
    server.shutdown()
    thread.join()
    server.server_close()


POD = body(job("runpod", ON_S3))


@pytest.fixture
def submit(runpod: StandIn, capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[int, str]]:
    """Run the script's main: its exit code, and what it said."""

    def run() -> tuple[int, str]:
        code = rent_runpod.main(POD, GPUS, 0.8, runpod.url, runpod.slept.append)
        said = "".join(capsys.readouterr())
        assert KEY not in said
        return code, said

    return run


Submit = Callable[[], tuple[int, str]]


def test_the_rendered_script_makes_the_job_s_pod(runpod: StandIn) -> None:
    rendered = render("runpod", {**ON_S3, "train": {"lr": 1e-4}}, file="my job.py")
    assert rendered.command == "python3 'my job.py'" and "AWS_SECRET_ACCESS_KEY" in rendered.text
    Path("my job.py").write_text(rendered.text.replace(rent_runpod.API, runpod.url))
    environ = {"RUNPOD_API_KEY": KEY, "PATH": ""}
    done = subprocess.run([sys.executable, "-S", "my job.py"], env=environ, capture_output=True, text=True)
    assert done.returncode == 0 and KEY not in done.stdout + done.stderr + rendered.text
    (sent,) = [said for method, _, _, said in runpod.asked if method == "POST"]
    assert {said for _, _, said, _ in runpod.asked} == {f"Bearer {KEY}"}
    assert sent["args"] == "run" and sent["gpu"] == {"count": 1, "minCudaVersion": "13.0", "id": GPUS[1]}
    secrets = {name: value for name, value in sent["env"].items() if not name.startswith("SIDESTEP_")}
    # https://docs.runpod.io/pods/templates/secrets: {{ RUNPOD_SECRET_secret_name }}
    assert secrets == {
        name: f"{{{{ RUNPOD_SECRET_{name} }}}}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    }
    spec, _ = resolve(environ={name: value for name, value in sent["env"].items() if name not in secrets})
    assert spec.train.lr == 1e-4 and spec.runtime.on_exit == "terminate"
    assert spec.runtime.price_per_hour == 0.27


def test_the_cheapest_in_stock_or_what_is_preferred(
    runpod: StandIn, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    runpod.gpus = [gpu("NVIDIA L40S", 0.5), gpu("NVIDIA A40", 0.3), gpu("NVIDIA L4", 0.2, "NONE")]
    runpod.gpus += [gpu("NVIDIA RTX A6000", 0.1, None), gpu("Tesla V100-SXM2-32GB", 0.1)]
    assert submit()[0] == 0 and runpod.made() == ["NVIDIA A40"]
    runpod.pods, runpod.asked = [], []
    monkeypatch.setenv("GPUS", "NVIDIA L4, NVIDIA L40S,NVIDIA A40")
    assert submit()[0] == 0 and runpod.made() == ["NVIDIA L40S"]
    runpod.pods, runpod.asked = [], []
    monkeypatch.setenv("CLOUD", "COMMUNITY")
    assert submit()[0] == ExitCode.AGAIN and runpod.made() == []  # the price there is 9
    assert any("cloud=COMMUNITY" in path for _, path, _, _ in runpod.asked)


@pytest.mark.parametrize(("most", "code"), [("0.26", ExitCode.AGAIN), ("0.27", 0), ("1", 0)])
def test_no_more_is_paid_than_the_limit(
    runpod: StandIn, submit: Submit, monkeypatch: pytest.MonkeyPatch, most: str, code: int
) -> None:
    monkeypatch.setenv("MAX_PRICE", most)
    got, said = submit()
    assert got == code and len(runpod.made()) == (code == 0)
    assert code == 0 or f"MAX_PRICE={most}" in said


def test_a_pod_that_costs_more_than_was_said_is_given_back(runpod: StandIn, submit: Submit) -> None:
    runpod.answers = [("made", {"cost": 2.5})]
    assert submit()[0] == 0
    assert len(runpod.made()) == 2 and len(runpod.pods) == 1
    assert [method for method, _, _, _ in runpod.asked].count("DELETE") == 1


@pytest.mark.parametrize("status", [400, 403])
def test_the_next_gpu_where_one_cannot_be_placed(runpod: StandIn, submit: Submit, status: int) -> None:
    runpod.answers = [("refused", status)]
    assert submit()[0] == 0
    assert runpod.made() == [GPUS[1], "NVIDIA L4"]


def test_nothing_to_be_had_is_worth_another_try(runpod: StandIn, submit: Submit) -> None:
    runpod.answers = [("refused", 400)] * 3
    code, said = submit()
    assert code == ExitCode.AGAIN and len(runpod.made()) == 3
    assert said.count("no longer any instances") == 3 and "NVIDIA L4, $0.39" in said
    runpod.gpus = []
    assert submit()[0] == ExitCode.AGAIN


@pytest.mark.parametrize(
    ("status", "code"), [(401, ExitCode.ACCESS), (402, ExitCode.ACCESS), (422, ExitCode.BAD_SPEC)]
)
def test_what_no_other_gpu_mends_ends_it(runpod: StandIn, submit: Submit, status: int, code: int) -> None:
    runpod.answers = [("refused", status)]
    got, said = submit()
    assert got == code and str(status) in said and len(runpod.made()) == 1


def test_a_limit_of_calls_is_waited_for(runpod: StandIn, submit: Submit) -> None:
    runpod.answers = [("refused", 429)]
    assert submit()[0] == 0
    assert runpod.made() == [GPUS[1]] * 2 and runpod.slept == [7]


@pytest.mark.parametrize(
    ("readings", "code"),
    [([503, 429], 0), ([503] * 9, ExitCode.STORAGE), ([401], ExitCode.ACCESS), ([403], ExitCode.ACCESS)],
)
def test_an_api_that_does_not_answer(runpod: StandIn, submit: Submit, readings: list[int], code: int) -> None:
    runpod.reading = readings
    assert submit()[0] == code and len(runpod.made()) == (code == 0)


def test_an_api_out_of_reach(runpod: StandIn, submit: Submit) -> None:
    runpod.url = "http://127.0.0.1:1/v2"
    assert submit()[0] == ExitCode.STORAGE and len(runpod.slept) == 3


@pytest.mark.parametrize("answer", [("lost", "made"), ("broken", None)])
def test_an_answer_that_is_lost_makes_no_second_pod(
    runpod: StandIn, submit: Submit, answer: tuple[str, Any]
) -> None:
    runpod.answers = [answer]
    code, said = submit()
    assert code == 0 and len(runpod.pods) == len(runpod.made()) == 1 and runpod.pods[0]["id"] in said


@pytest.mark.parametrize("fault", [("lost", "not"), ("refused", 503)])
def test_what_was_not_made_is_asked_for_again_once_it_was_looked_for(
    runpod: StandIn, submit: Submit, fault: tuple[str, Any]
) -> None:
    runpod.answers = [fault]
    assert submit()[0] == 0 and len(runpod.pods) == 1
    methods = [method for method, _, _, _ in runpod.asked]
    first, second = (place for place, method in enumerate(methods) if method == "POST")
    assert methods[first + 1 : second] == ["GET"] * 3 and runpod.slept == [2, 5, 15]


def test_a_pod_that_comes_late_is_the_only_one(runpod: StandIn, submit: Submit) -> None:
    runpod.answers = [("lost", "late")]
    code, said = submit()
    assert code == 0 and len(runpod.made()) == 2 and len(runpod.pods) == 1
    assert runpod.pods[0]["id"] in said and runpod.asked[-1][:2] == ("DELETE", "/v2/pods/pod7")


def test_a_job_that_runs_is_not_rented_for_again(runpod: StandIn, submit: Submit) -> None:
    assert submit()[0] == 0
    code, said = submit()
    assert code == 0 and len(runpod.made()) == 1 and runpod.pods[0]["id"] in said
    runpod.pods[0]["status"] = "EXITED"
    code, said = submit()
    assert code == ExitCode.TAKEN and len(runpod.made()) == 1 and "EXITED" in said
    runpod.pods[0]["status"] = "TERMINATED"
    assert submit()[0] == 0 and len(runpod.made()) == 2


def test_another_output_is_another_machine() -> None:
    names = {
        body(job("runpod", {**ON_S3, **more}))["name"]
        for more in ({}, {"train": {"lr": 1}}, {"output_dir": "s3://studio/runs/another"})
    }
    assert len(names) == 2  # of one output there is one writer, whatever else is changed


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("RUNPOD_API_KEY", "", ExitCode.ACCESS),
        ("MAX_PRICE", "cheap", ExitCode.USAGE),
        ("MAX_PRICE", "-1", ExitCode.USAGE),
        ("CLOUD", "ANY", ExitCode.USAGE),
    ],
)
def test_what_is_missing_or_wrong_is_said_before_anything_is_asked(
    runpod: StandIn, submit: Submit, monkeypatch: pytest.MonkeyPatch, name: str, value: str, code: int
) -> None:
    monkeypatch.setenv(name, value)
    got, said = submit()
    assert got == code and name in said and runpod.asked == []


def test_a_redirect_does_not_take_the_key_along(runpod: StandIn, submit: Submit) -> None:
    runpod.reading = [302]
    assert submit()[0] == ExitCode.BAD_SPEC and len(runpod.asked) == 1


def test_the_codes_are_those_of_the_table() -> None:
    named = {
        "WRONG_USE": ExitCode.USAGE,
        "UNAVAILABLE": ExitCode.STORAGE,
        "TAKEN": ExitCode.TAKEN,
        "AGAIN": ExitCode.AGAIN,
        "NO_ACCESS": ExitCode.ACCESS,
        "WRONG_POD": ExitCode.BAD_SPEC,
    }
    assert {name: getattr(rent_runpod, name) for name in named} == named
