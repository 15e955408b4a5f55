"""What Prometheus is told of a job, as its own parser reads it, and that the job goes on whatever happens."""

import logging
import re
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidestep.config.job import JobSpec
from sidestep.lifecycle import prometheus as module
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.prometheus import Prometheus
from sidestep.lifecycle.reporter import Reporter
from sidestep.lifecycle.status import Spent, Status, Validated
from sidestep.lifecycle.watching import Watching
from sidestep.runtime import jsonlines, liveness, tally
from sidestep.runtime.errors import BadDataError, BadSpecError
from sidestep.runtime.gpus import Gpu
from tests.clock import Clock
from tests.documents import ROOT
from tests.nvml import Device, nvml
from tests.receiver import TOKEN

Samples = dict[tuple[str, str], float]
MakeJob = Callable[..., Job]

EVERYTHING = Status(
    name="night-lora",
    task="train",
    attempt=2,
    phase="train",
    step=40,
    steps=500,
    epoch=4,
    epochs=50,
    loss=0.8123,
    learning_rate=1e-4,
    steps_per_second=0.5,
    validation=Validated(step=20, held_out=0.81, trained=0.7),
    exit_code=75,
    spent=Spent(preemptions=1, seconds={"pull": 60, "train": 3540}),
    gpus=(
        Gpu(index=0, utilization=93, memory_used=1000, memory_total=4000, temperature=61, power=70.5),
        Gpu(index=1),
    ),
)


@pytest.fixture(autouse=True)
def nobody_told() -> Iterator[None]:
    yield
    jsonlines.about(dict)


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """An estimate, with these settings of `runtime`."""

    def make(**runtime: Any) -> Job:
        output = tmp_path / "out"
        return Job(JobSpec.load(None, name="night", task="estimate", output_dir=output, runtime=runtime))

    return make


def parsed(text: str) -> Samples:
    """(name, value of its one label or "") → value, by the client's own parser."""
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(status: Status, price: float | None = 2.0) -> str:
    return Prometheus(lambda: status, price).page().decode()


def scraped(port: int) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return parsed(response.read().decode())


def free_port() -> int:
    with socket.create_server(("", 0)) as listener:
        return int(listener.getsockname()[1])


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_everything_that_is_known_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "_totals", Counter({tally.BYTES: 5, tally.SONGS: 3}))
    liveness.sign_of_life()
    found = parsed(of(EVERYTHING))
    states = {label for name, label in found if name == "sidestep_state"}
    assert states == {"running", "preempted", "failed", "done"}
    last = found.pop(("sidestep_last_sign_of_life_timestamp_seconds", ""))
    assert 0 <= time.time() - last < 5
    assert found.pop(("sidestep_signs_of_life_total", "")) == liveness.signs() > 0
    assert {key: value for key, value in found.items() if value} == {
        ("sidestep_job_info", "2,night-lora,train"): 1,
        ("sidestep_state", "running"): 1,
        ("sidestep_phase", "train"): 1,
        ("sidestep_step", ""): 40,
        ("sidestep_steps", ""): 500,
        ("sidestep_epoch", ""): 4,
        ("sidestep_epochs", ""): 50,
        ("sidestep_loss", ""): 0.8123,
        ("sidestep_held_out_loss", ""): 0.81,
        ("sidestep_learning_rate", ""): 1e-4,
        ("sidestep_steps_per_second", ""): 0.5,
        ("sidestep_spent_seconds_total", "pull"): 60,
        ("sidestep_spent_seconds_total", "train"): 3540,
        ("sidestep_cost_total", ""): 2,
        ("sidestep_preemptions_total", ""): 1,
        ("sidestep_songs_total", ""): 3,
        ("sidestep_moved_bytes_total", ""): 5,
        ("sidestep_exit_code", ""): 75,
        ("sidestep_gpu_utilization_ratio", "0"): pytest.approx(0.93),
        ("sidestep_gpu_memory_used_bytes", "0"): 1000,
        ("sidestep_gpu_memory_size_bytes", "0"): 4000,
        ("sidestep_gpu_temperature_celsius", "0"): 61,
        ("sidestep_gpu_power_watts", "0"): 70.5,
    }


def test_what_is_not_known_is_not_told() -> None:
    names = {name for name, _ in parsed(of(Status(name="night", task="train"), None))}
    assert "sidestep_step" not in names and "sidestep_exit_code" not in names
    assert "sidestep_cost_total" not in names and not [name for name in names if "gpu" in name]
    assert ("sidestep_exit_code", "") in parsed(of(EVERYTHING.model_copy(update={"exit_code": 0})))


def test_the_page_s_table_is_what_is_told() -> None:
    """Name, kind and labels of each metric, in docs/watching.md."""
    table = {
        name: (kind, labels)
        for name, kind, labels in re.findall(
            r"^\| `(sidestep_\w+)` \| (\w+) \| ((?:`\w+`(?:, )?)*) ?\|",
            (ROOT / "docs" / "watching.md").read_text(),
            re.M,
        )
    }
    told = {
        sample.name: (family.type, ", ".join(f"`{label}`" for label in sorted(sample.labels)))
        for family in text_string_to_metric_families(of(EVERYTHING))
        for sample in family.samples
    }
    assert table == told


def test_an_endpoint_while_the_job_runs(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_EVERY", 0.02)
    port = free_port()
    job = make_job(metrics_port=port, price_per_hour=4, webhook=f"http://127.0.0.1:9/{TOKEN}")
    clock = Clock()
    with nvml(Device("GPU-1", use=93)), Watching(job.spec, job.preemption) as watching:
        assert scraped(port)["sidestep_phase", "pull"] == 1
        with Reporter(job, 3600, clock, watching=watching) as reporter:
            reporter.begin("estimate")
            clock.now += 1800
            reporter.update(step=3, loss=0.5)
            until = time.monotonic() + 5
            while "sidestep_step" not in {name for name, _ in scraped(port)} and time.monotonic() < until:
                time.sleep(0.02)
            found = scraped(port)
            text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read()
            assert TOKEN.encode() not in text
            reporter.tell()
            told = Status.read((Path(job.output_store.place) / "status.json").read_bytes(), "")
    assert (found.get(("sidestep_step", "")), found.get(("sidestep_phase", "estimate"))) == (3, 1)
    assert found.get(("sidestep_spent_seconds_total", "estimate")) == 1800
    assert found.get(("sidestep_cost_total", "")) == 2
    assert found.get(("sidestep_job_info", "1,night,estimate")) == 1
    assert found.get(("sidestep_gpu_utilization_ratio", "0")) == pytest.approx(0.93)
    assert [gpu.utilization for gpu in told.gpus] == [93]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_scrapers_that_hang_keep_no_job_from_its_end(make_job: MakeJob) -> None:
    port = free_port()
    job = make_job(metrics_port=port)
    with Watching(job.spec, job.preemption) as watching, Reporter(job, 3600, watching=watching) as reporter:
        reporter.begin("estimate")
        clients = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(20)]
        for client in clients:
            client.sendall(b"GET /metrics HTTP/1.1\r\n")
        started = time.monotonic()
    assert time.monotonic() - started < 2
    for client in clients:
        client.close()


def test_a_port_in_use_costs_a_line(make_job: MakeJob, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
        job = make_job(metrics_port=port)
        with Watching(job.spec, job.preemption) as watching, Reporter(job, 3600, watching=watching) as it:
            it.begin("estimate")
    (told,) = warnings(caplog)
    assert f"runtime.metrics_port {port} cannot be had (Address already in use)" in told
    assert Status.read((Path(job.output_store.place) / "status.json").read_bytes(), "").state == "done"


@pytest.mark.parametrize(("failure", "code", "state"), [(None, 0, "done"), (BadDataError("x"), 65, "failed")])
def test_the_file_has_the_end_in_it(
    make_job: MakeJob, tmp_path: Path, failure: Exception | None, code: int, state: str
) -> None:
    file = tmp_path / "textfiles" / "night.prom"
    job = make_job(metrics_file=file)

    def work() -> None:
        with Watching(job.spec, job.preemption) as watching, Reporter(job, 3600, watching=watching) as it:
            it.begin("estimate")
            it.update(step=3)
            if failure:
                raise failure

    if failure is None:
        work()
    else:
        with pytest.raises(type(failure)):
            work()
    found = parsed(file.read_text())
    assert found.get(("sidestep_exit_code", "")) == code and found.get(("sidestep_state", state)) == 1
    assert found.get(("sidestep_step", "")) == 3
    assert [one.name for one in file.parent.iterdir()] == ["night.prom"]  # no part of one is left


def test_an_end_before_there_is_a_status_is_in_the_file(make_job: MakeJob, tmp_path: Path) -> None:
    """As where songs or credentials are missing."""
    job = make_job(metrics_file=tmp_path / "night.prom")
    with pytest.raises(BadDataError), Watching(job.spec, job.preemption):
        raise BadDataError("no songs")
    found = parsed((tmp_path / "night.prom").read_text())
    assert (found.get(("sidestep_exit_code", "")), found.get(("sidestep_state", "failed"))) == (65, 1)


def test_the_file_is_written_again_and_again_and_never_in_part(tmp_path: Path) -> None:
    file, step = tmp_path / "job.prom", 0

    def read() -> Status:
        nonlocal step
        step += 1
        return EVERYTHING.model_copy(update={"step": step})

    prometheus = Prometheus(read, file=str(file), every=0.001)
    prometheus.start()
    seen, until = set[float | None](), time.monotonic() + 5
    while len(seen) < 5 and time.monotonic() < until:
        if file.exists():
            found = parsed(file.read_text())
            seen.add(found.get(("sidestep_step", "")))
            assert ("sidestep_gpu_power_watts", "0") in found  # the last line
    prometheus.stop()
    assert len(seen) >= 5


def test_a_file_that_cannot_be_written_costs_a_line(
    make_job: MakeJob, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taken").touch()
    job = make_job(metrics_file=tmp_path / "taken" / "job.prom")
    with Watching(job.spec, job.preemption) as watching, Reporter(job, 3600, watching=watching) as reporter:
        reporter.begin("estimate")
    (told,) = warnings(caplog)
    assert "runtime.metrics_file" in told and "job.prom" in told


def test_a_disk_that_hangs_keeps_no_job_from_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(module, "replacing", lambda _: over.wait(30))
    prometheus = Prometheus(lambda: EVERYTHING, file=str(tmp_path / "job.prom"))
    prometheus.start()
    started = time.monotonic()
    prometheus.stop(0.2)
    assert time.monotonic() - started < 1
    over.set()


@pytest.mark.parametrize(
    ("setting", "fact"),
    [
        ({"metrics_file": "/run/job.txt"}, ".prom"),
        ({"metrics_file": "s3://b/job.prom"}, "local"),
        ({"metrics_port": 0}, "metrics_port"),
        ({"metrics_port": 65536}, "metrics_port"),
    ],
)
def test_what_is_no_port_or_no_file_is_refused(setting: dict[str, Any], fact: str) -> None:
    with pytest.raises(BadSpecError, match=fact):
        JobSpec.load(None, task="estimate", output_dir="out", runtime=setting)


def test_without_the_settings_nothing_is_loaded_or_started(make_job: MakeJob) -> None:
    job = make_job()
    with Watching(job.spec, job.preemption) as watching:
        assert watching._prometheus is None
