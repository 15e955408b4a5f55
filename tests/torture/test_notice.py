"""SIGTERM with five seconds of grace, when the last upload fits into them and when it does not."""

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.faults import FaultyServer, faulty_server
from tests.torture.field import CELLS, Field, store_of
from tests.torture.outcome import check_log, read_outcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STEPS = 24
GRACE = 5


@pytest.fixture(scope="module")
def proxy(field: Field) -> Iterator[FaultyServer]:
    with faulty_server(field.server.endpoint) as proxy:
        yield proxy


@pytest.mark.parametrize(("rate", "fits"), [(1e6, True), (2e3, False)])
def test_what_is_saved_after_notice(field: Field, proxy: FaultyServer, rate: float, fits: bool) -> None:
    checkpoint = {"every_epochs": 100, "every_steps": 10, "every_minutes": None}
    settings = CELLS["lora-adamw"] | {"max_steps": STEPS, "checkpoint": checkpoint}
    calm = field.spec(field.new_output(), settings)
    assert field.start(calm).end() == 0
    spec = field.spec(field.new_output(), settings, storage={"endpoint_url": proxy.endpoint})
    spec["runtime"]["grace_seconds"] = GRACE
    store = store_of(calm | {"output_dir": spec["output_dir"]})

    proxy.up = 0
    attempt = field.start(spec)
    attempt.wait_until(lambda: len(attempt.steps) > 11)
    attempt.wait_until(lambda: "Saved checkpoints/checkpoint-step-10" in attempt.said)
    proxy.up = rate
    os.kill(attempt.pid, signal.SIGTERM)
    began = time.monotonic()
    assert attempt.end() == 75, attempt.said
    assert time.monotonic() - began < GRACE
    proxy.up = 0

    made, newest = attempt.steps[-1], check_log(store)[-1]
    assert newest["step"] == (made if fits else 10), attempt.said
    if fits:
        status = json.loads(store.read_bytes("status.json"))
        assert (status["state"], status["exit_code"]) == ("preempted", 75)
        assert f"stopped after step {made} of {STEPS}: all of it is saved in the output" in status["message"]
    # What a dead process had sent may still arrive, and be taken for a sign of life: then it is 73.
    for _ in range(5):
        again = field.start(spec)
        code = again.end()
        if code != 73:
            break
    assert code == 0, again.said
    assert again.steps == list(range(newest["step"] + 1, STEPS + 1))
    assert read_outcome(store) == read_outcome(store_of(calm))
