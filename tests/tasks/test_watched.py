"""A run makes the same bytes whoever watches it, and however badly that goes."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidestep.config.job import JobSpec
from sidestep.config.yaml12 import dump_yaml
from sidestep.lifecycle import watching
from sidestep.runtime import jsonlines
from sidestep.runtime.logs import setup_logging
from tests.receiver import TOKEN, receiver
from tests.runs import outcome, train
from tests.songs import MakeSpec


def test_the_bytes_are_the_same_with_and_without_all_of_it(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON lines; four webhooks: one that works, one is dead, one hangs, one answers 500."""
    monkeypatch.setattr(watching, "SECONDS_TO_SEND", 0.2)
    settings = {"epochs": 1, "adapter": {"dropout": 0.1}}
    unwatched = make_spec("unwatched", **settings)
    train(unwatched)

    setup_logging(as_json=True)
    with receiver() as works, receiver() as hangs, receiver() as fails:
        hangs.is_hanging, fails.status = True, 500
        urls = [works.url, f"http://127.0.0.1:9/{TOKEN}", hangs.url, fails.url]
        watched = make_spec("watched", **settings).changed(
            {"runtime.webhook": urls, "runtime.log_format": "json", "runtime.price_per_hour": 1.5}
        )
        train(watched)
        assert works.events == ["begin", "done"] and hangs.got and fails.got
    jsonlines.about(dict)
    assert outcome(watched) == outcome(unwatched)

    lines = capsys.readouterr().err.splitlines()
    assert {json.loads(line)["job"] for line in lines} == {"my-lora"}
    assert sum("out of reach" in line or "has not answered" in line for line in lines) == 3
    assert TOKEN not in "".join(lines)


IN_TROUBLE = """
import sys, threading
from sidestep.cli import main
from sidestep.lifecycle import prometheus
from tests.nvml import Device, nvml

if "disk" in sys.argv:
    prometheus.replacing = lambda _: threading.Event().wait()  # the disk of the metrics' file
with nvml(Device("GPU-1")) as driver:
    driver.hangs = threading.Event()
    code = main(["train", "--config", sys.argv[1]])
sys.exit(code)
"""
"""A process of the command's on a machine whose driver hangs, and whose disk does where that is asked for."""


def outcome_of_process(spec: JobSpec, *more: str, **environ: str) -> tuple[float, str]:
    """Run it to its end, with 0; how long that took, and what was said on standard error."""
    file = Path(f"{Path(spec.output_place).name}.yaml")
    file.write_bytes(dump_yaml(spec.model_dump(mode="json")))
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_TROUBLE, str(file), *more],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return time.monotonic() - started, done.stderr


@contextmanager
def scrapers(port: int) -> Iterator[list[socket.socket]]:
    """Clients that begin a request and hang, again and again, as soon as there is anything to ask."""
    over, clients = threading.Event(), list[socket.socket]()

    def come() -> None:
        while not over.wait(0.02):
            try:
                client = socket.create_connection(("127.0.0.1", port), timeout=1)
                client.sendall(b"GET /metrics HTTP/1.1\r\n")
                clients.append(client)
            except OSError:
                pass

    coming = threading.Thread(target=come)
    coming.start()
    try:
        yield clients
    finally:
        over.set()
        coming.join()
        for client in clients:
            client.close()


@pytest.mark.slow
def test_whatever_hangs_the_process_comes_to_the_same_end(make_spec: MakeSpec) -> None:
    """Webhooks and apprise that never answer, scrapers that hang, a driver and a disk that do: at once."""
    with socket.create_server(("", 0)) as listener:
        port = int(listener.getsockname()[1])
    settings = {"epochs": 3, "adapter": {"dropout": 0.1}}
    unwatched, watched = make_spec("unwatched", **settings), make_spec("watched", **settings)
    usual, _ = outcome_of_process(unwatched)
    with receiver() as hangs, scrapers(port) as clients:
        hangs.is_hanging = True
        urls = [hangs.url, hangs.url.replace("http://", "json://")]
        took, said = outcome_of_process(
            watched.changed(
                {
                    "runtime.metrics_port": port,
                    "runtime.metrics_file": "job.prom",
                    "runtime.log_format": "json",
                    "runtime.price_per_hour": 2,
                }
            ),
            "disk",
            SIDESTEP_RUNTIME__WEBHOOK=" ".join(urls),
        )
        assert len(hangs.got) >= 2 and len(clients) > 8
    assert outcome(watched) == outcome(unwatched)
    assert took < usual + 20  # of which 3 s are the wait for what is left to send
    lines = [json.loads(line) for line in said.splitlines()]
    # One line for each of the two, when its first try has taken too long, or at the end.
    told = ("out of reach", "has not answered")
    assert sum(any(words in line["message"] for words in told) for line in lines) == 2
    assert TOKEN not in said and not Path("job.prom").exists()
