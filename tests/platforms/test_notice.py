"""Spot notice in a machine's metadata, from stand-ins of three services on loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sidestep import tasks
from sidestep.cli import main
from sidestep.platforms import notice as module
from sidestep.platforms.notice import CLOUDS, LEAST_SECONDS, Aws, SpotNotice, cloud_here
from sidestep.runtime.errors import ExitCode
from sidestep.runtime.preemption import RESERVE, Preemption
from tests.clock import Clock
from tests.songs import MakeSpec

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
TOKEN = "a token"
ADDRESS = {name: kind.address_variables[0] for name, kind in CLOUDS.items()}


@dataclass
class Service:
    """What the metadata of a machine says, and the questions that were asked."""

    address: str = ""
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)  # by path
    asked: list[str] = field(default_factory=list)

    def reply(self, method: str, path: str, headers: Any) -> tuple[int, str]:
        self.asked.append(f"{method} {path}")
        if path == "/latest/api/token":
            is_asked = method == "PUT" and int(headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0
            return (200, TOKEN) if is_asked else (405, "")
        if path.startswith("/latest/") and headers["X-aws-ec2-metadata-token"] != TOKEN:
            return 401, ""
        if path.startswith("/computeMetadata/") and headers["Metadata-Flavor"] != "Google":
            return 403, ""
        if path.startswith("/metadata/") and (headers["Metadata"] != "true" or "api-version=" not in path):
            return 400, ""
        return self.answers.get(path.partition("?")[0], (404, ""))


@pytest.fixture
def service() -> Iterator[Service]:
    known = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, said = known.reply(self.command, self.path, self.headers)
            self.send_response(code)
            self.send_header("Content-Length", str(len(said.encode())))
            self.end_headers()
            self.wfile.write(said.encode())

        do_PUT = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    known.address = f"http://127.0.0.1:{server.server_port}"
    yield known
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def preemption(clock: Clock) -> Preemption:
    return Preemption(600, clock, end_process=lambda code: None)


def asker(cloud: str, address: str, preemption: Preemption) -> SpotNotice:
    return SpotNotice(
        cloud, preemption, {ADDRESS[cloud]: address, "http_proxy": "http://127.0.0.1:9"}, now=lambda: NOW
    )


AWS = "/latest/meta-data/spot/instance-action"
GOOGLE = "/computeMetadata/v1/instance/preempted"
NAME, EVENTS = "/metadata/instance/compute/name", "/metadata/scheduledevents"


def events(**fields: Any) -> tuple[int, str]:
    event = {"EventId": "1", "EventType": "Preempt", "EventStatus": "Scheduled", "Resources": ["node_1"]}
    event |= {"NotBefore": "Sun, 01 Mar 2026 12:00:20 GMT", "ResourceType": "VirtualMachine"} | fields
    return 200, json.dumps({"DocumentIncarnation": 1, "Events": [event]})


QUIET: dict[str, dict[str, tuple[int, str]]] = {
    "aws": {},
    "gcp": {GOOGLE: (200, "FALSE")},
    "azure": {NAME: (200, "node_1"), EVENTS: (200, '{"DocumentIncarnation": 0, "Events": []}')},
}
NOTICE: dict[str, tuple[dict[str, tuple[int, str]], float]] = {
    "aws": ({AWS: (200, '{"action": "terminate", "time": "2026-03-01T12:02:00Z"}')}, 120),
    "gcp": ({GOOGLE: (200, "TRUE\n")}, 25),
    "azure": ({NAME: (200, "node_1"), EVENTS: events()}, 20),
}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_notice_starts_the_clock(cloud: str, service: Service, preemption: Preemption) -> None:
    asks = asker(cloud, service.address, preemption)
    service.answers = QUIET[cloud]
    assert asks.look() and asks.look() and not preemption.requested
    service.answers, seconds = NOTICE[cloud]
    assert not asks.look()  # there is nothing more to ask for
    assert preemption.seconds_left() == pytest.approx(seconds - RESERVE)
    assert not preemption.is_interrupt


def test_no_more_time_than_the_grace(service: Service, clock: Clock) -> None:
    preemption = Preemption(30, clock, end_process=lambda code: None)
    service.answers = NOTICE["aws"][0]
    asker("aws", service.address, preemption).look()
    assert preemption.seconds_left() == 30 - RESERVE


def test_a_date_that_is_over_leaves_some_seconds(service: Service, preemption: Preemption) -> None:
    service.answers = {NAME: (200, "node_1"), EVENTS: events(NotBefore="", EventStatus="Started")}
    asker("azure", service.address, preemption).look()
    assert preemption.seconds_left() == LEAST_SECONDS - RESERVE


@pytest.mark.parametrize(("second", "is_short"), [(9, True), (10, False)])
def test_a_save_that_may_not_fit_is_not_promised(
    second: int, is_short: bool, service: Service, preemption: Preemption, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Azure's thirty seconds are a maximum: the event's own date counts."""
    told: list[tuple[str, float]] = []
    monkeypatch.setattr(preemption, "announce", lambda why, seconds: told.append((why, seconds)))
    date = f"Sun, 01 Mar 2026 12:00:{second:02} GMT"
    service.answers = {NAME: (200, "node_1"), EVENTS: events(NotBefore=date)}
    asker("azure", service.address, preemption).look()
    ((why, seconds),) = told
    assert seconds == second and ("too short" in why and "newest checkpoint" in why) == is_short


@pytest.mark.parametrize(
    "other",
    [
        {"EventType": "Freeze"},
        {"EventType": "Reboot"},
        {"EventType": "Terminate"},
        {"Resources": ["node_2"]},  # of the same scale set
        {"EventStatus": "Canceled"},
    ],
)
def test_other_events_are_no_notice(other: dict[str, Any], service: Service, preemption: Preemption) -> None:
    service.answers = {NAME: (200, "node_1"), EVENTS: events(**other)}
    assert asker("azure", service.address, preemption).look()
    assert not preemption.requested


def test_a_token_that_is_too_old_is_asked_for_anew(service: Service, preemption: Preemption) -> None:
    asks = asker("aws", service.address, preemption)
    assert asks.look() and asks.look()
    assert [line.split()[0] for line in service.asked] == ["PUT", "GET", "GET"]
    assert isinstance(asks._cloud, Aws)
    asks._cloud._token = "an old one"
    service.answers = NOTICE["aws"][0]
    assert asks.look()  # 401
    assert not asks.look() and preemption.requested


@pytest.mark.parametrize("answer", [(503, ""), (200, ""), (200, "<html>")])
def test_google_s_service_may_be_away_for_a_while(
    answer: tuple[int, str], service: Service, preemption: Preemption
) -> None:
    service.answers = QUIET["gcp"]
    asks = asker("gcp", service.address, preemption)
    assert asks.look()
    service.answers = {GOOGLE: answer}
    assert all(asks.look() for _ in range(20))
    assert not preemption.requested
    service.answers = NOTICE["gcp"][0]
    assert not asks.look() and preemption.requested


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_service_that_is_away_from_the_first_is_asked_on(
    cloud: str, service: Service, preemption: Preemption, caplog: pytest.LogCaptureFixture
) -> None:
    """It is restarted as the job begins: that is another thing than one that never answers."""
    paths = [*NOTICE[cloud][0], AWS]
    service.answers = dict.fromkeys(paths, (503, ""))
    asks = asker(cloud, service.address, preemption)
    assert all(asks.look() for _ in range(20))
    assert not preemption.requested and not [one for one in caplog.records if one.levelname != "DEBUG"]
    service.answers = NOTICE[cloud][0]
    assert not asks.look() and preemption.requested


def test_google_s_first_answer_may_be_empty(service: Service, preemption: Preemption) -> None:
    service.answers = {GOOGLE: (200, "")}
    asks = asker("gcp", service.address, preemption)
    assert all(asks.look() for _ in range(20))
    service.answers = NOTICE["gcp"][0]
    assert not asks.look() and preemption.requested


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_service_that_never_answers_is_given_up(
    cloud: str, preemption: Preemption, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As AWS's in a container, whose answer the hop limit drops. It is one line, after three tries."""
    caplog.set_level("INFO")
    monkeypatch.setattr(module, "TIMEOUT", 0.05)
    get = SpotNotice._get

    def in_time(self: SpotNotice, path: str, method: str = "GET", timeout: float = 0.05, **h: str) -> bytes:
        return get(self, path, method, timeout, **h)

    monkeypatch.setattr(SpotNotice, "_get", in_time)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and says nothing
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        asks = asker(cloud, address, preemption)
        assert [asks.look() for _ in range(3)] == [True, True, False]
    (line,) = caplog.messages
    assert CLOUDS[cloud].name in line and "runtime.spot_notice" in line
    assert not preemption.requested


def test_a_question_takes_a_second_at_most() -> None:
    assert module.TIMEOUT <= 1 and module.EVERY_SECONDS <= 5 and module.TRIES == 3


def test_it_asks_in_a_thread_of_its_own(service: Service) -> None:
    service.answers = QUIET["gcp"]
    codes = list[int]()
    environ = {ADDRESS["gcp"]: service.address}
    with Preemption(600, end_process=codes.append) as preemption, suppress(KeyboardInterrupt):
        with SpotNotice("gcp", preemption, environ, every_seconds=0.01), preemption.deferred():
            until(lambda: len(service.asked) >= 3)
            service.answers = NOTICE["gcp"][0]
            until(lambda: preemption.requested)
        count = len(service.asked)
        assert (count < 100 and "spot notice" in {one.name for one in threading.enumerate()}) or count


def test_what_is_not_deferred_ends_at_once(service: Service) -> None:
    """A pull, say, in which the main thread waits."""
    service.answers = QUIET["gcp"]
    codes = list[int]()
    preemption = Preemption(600, end_process=codes.append)

    def works() -> None:
        environ = {ADDRESS["gcp"]: service.address}
        with preemption, SpotNotice("gcp", preemption, environ, every_seconds=0.01):
            service.answers = NOTICE["gcp"][0]  # only now, as from here on the main thread may be woken
            time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        works()
    assert preemption.requested and not codes


@pytest.mark.parametrize(
    ("files", "environ", "cloud"),
    [
        ({"sys_vendor": "Amazon EC2"}, {}, "aws"),
        ({"sys_vendor": "Xen", "bios_version": "4.11.amazon"}, {}, "aws"),
        ({"sys_vendor": "Amazon EC2"}, {"AWS_EC2_METADATA_DISABLED": "true"}, ""),
        ({"sys_vendor": "Google", "bios_vendor": "Google"}, {}, "gcp"),
        ({"sys_vendor": "Microsoft Corporation"}, {}, ""),  # Hyper-V on somebody's desk
        (
            {
                "sys_vendor": "Microsoft Corporation",
                "chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77",
            },
            {},
            "azure",
        ),
        ({"sys_vendor": "LENOVO"}, {}, ""),
        ({}, {}, ""),
        ({}, {"GCE_METADATA_HOST": "localhost:8080"}, "gcp"),
    ],
)
def test_whose_machine_it_is(
    files: dict[str, str], environ: dict[str, str], cloud: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content + "\n")
    assert cloud_here(environ, tmp_path) == cloud


def test_where_it_is_switched_off_nothing_is_asked(service: Service, preemption: Preemption) -> None:
    with SpotNotice("none", preemption, {ADDRESS["gcp"]: service.address}, every_seconds=0.01):
        time.sleep(0.1)
    assert not service.asked


def test_a_proxy_is_not_asked(
    service: Service, preemption: Preemption, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    service.answers = QUIET["gcp"]
    asks = asker("gcp", service.address, preemption)
    assert asks.look() and asks._has_answered


def test_a_host_that_has_ended_the_job_is_left_alone() -> None:
    """Its own handlers are back, and SIGTERM would end it."""
    with Preemption(600, end_process=lambda code: None) as preemption:
        pass
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("it was signalled"))
    try:
        preemption.announce("a notice", 30)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not preemption.requested


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_command_asks(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def works(spec: Any, preemption: Preemption, **more: Any) -> None:
        with pytest.raises(KeyboardInterrupt):
            until(lambda: False, seconds=20)
        assert preemption.requested
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks, "run", works)
    monkeypatch.setenv(ADDRESS["aws"], service.address)
    service.answers = {AWS: (200, '{"action": "stop", "time": "2999-01-01T00:00:00Z"}')}
    words = ["run", "--audio-dir", "songs", "--output-dir", "out", "--spot-notice", "aws"]
    assert main(words, is_process=False) == ExitCode.AGAIN  # so that this process lives on
    assert len(service.asked) == 2


@pytest.mark.slow
def test_a_training_saves_on_it(service: Service, make_spec: MakeSpec, tmp_path: Path) -> None:
    service.answers = QUIET["aws"]
    spec = make_spec(epochs=10_000, checkpoint={"every_steps": 5, "every_minutes": None})
    Path("job.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "sidestep", "train", "--config", "job.json", "--spot-notice", "aws"]
    environ = {**os.environ, ADDRESS["aws"]: service.address}
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: (tmp_path / "out" / "commits" / "000002.json").exists() or process.poll() is not None)
        in_two_minutes = datetime.fromtimestamp(time.time() + 120, UTC)
        service.answers = {AWS: (200, json.dumps({"action": "stop", "time": in_two_minutes.isoformat()}))}
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 75, said
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert (status["state"], status["last_commit"]["step"]) == ("preempted", status["step"])
