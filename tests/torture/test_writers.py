"""Two attempts at one output: one of them writes, the other one ends with 73, and nothing is mixed."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.torture.field import CELLS, Field, store_of
from tests.torture.outcome import Outcome, check_log, read_outcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STEPS = 12
SETTINGS = CELLS["lora-adamw"] | {"max_steps": STEPS}


@pytest.fixture(scope="module")
def expected(field: Field) -> Outcome:
    """The outcome where nobody disturbs."""
    spec = field.spec(field.new_output(), SETTINGS)
    attempt = field.start(spec)
    assert attempt.end() == 0, attempt.said
    return read_outcome(store_of(spec))


@pytest.fixture(params=["s3", "a local folder"])
def spec(request: pytest.FixtureRequest, field: Field, tmp_path: Path) -> dict[str, Any]:
    output = field.new_output() if request.param == "s3" else str(tmp_path / "output")
    return field.spec(output, SETTINGS)


@pytest.mark.parametrize("together", [True, False], ids=["begun together", "one after the other"])
def test_one_of_two_attempts_trains(
    field: Field, spec: dict[str, Any], expected: Outcome, together: bool
) -> None:
    first = field.start(spec, fresh=True)
    if not together:
        first.wait_until(lambda: len(first.steps) >= 2)
    second = field.start(spec, fresh=together)  # a fork begins before the first one is through
    codes = [attempt.end() for attempt in (first, second)]
    trained, other = sorted((first, second), key=lambda attempt: not attempt.steps)
    assert together or trained is first
    assert trained.steps == list(range(1, STEPS + 1)) and other.steps == []
    # On a busy machine, one of two that begin together may be through before the other has got so far.
    said = {73: "another run is writing to", 0: "Already finished"}[codes[first is trained]]
    assert codes[first is not trained] == 0 and said in other.said
    assert len({record["nonce"] for record in check_log(store_of(spec))}) == 1
    assert read_outcome(store_of(spec)) == expected


@pytest.mark.parametrize("point", ["told", "snapshot", "hashing", "before the record"])
def test_a_writer_that_was_paused_past_its_lease_is_fenced(
    field: Field, spec: dict[str, Any], expected: Outcome, point: str
) -> None:
    paused = field.start(spec, point, 4, signal.SIGSTOP, fresh=True)
    paused.wait_until(lambda: paused.is_stopped)
    other = field.start(spec)
    other.wait_until(lambda: len(other.steps) >= 4)
    os.kill(paused.pid, signal.SIGCONT)
    assert paused.end() == 73, paused.said
    assert re.search("another run has taken .*over.*: this one stops", paused.said)
    assert other.end() == 0, other.said
    records = check_log(store_of(spec))
    assert [record["generation"] for record in records if record["kind"] == "take-over"] == [1, 2]
    assert {record["generation"] for record in records[-5:]} == {2}
    assert other.steps[-1] == STEPS
    assert read_outcome(store_of(spec)) == expected


@pytest.mark.parametrize("other_ends", [True, False], ids=["at the end", "on the way"])
def test_a_writer_that_wakes_before_its_clean_up_deletes_nothing(
    field: Field, spec: dict[str, Any], expected: Outcome, other_ends: bool
) -> None:
    """It was paused after its record, and another one has gone on."""
    paused = field.start(spec, "cleaning up", 4, signal.SIGSTOP, fresh=True)
    paused.wait_until(lambda: paused.is_stopped)
    other = field.start(spec)
    if other_ends:
        assert other.end() == 0, other.said
    else:
        other.wait_until(lambda: len(other.steps) >= 4)
    os.kill(paused.pid, signal.SIGCONT)
    assert paused.end() == 73, paused.said
    assert other_ends or other.end() == 0, other.said
    assert len(check_log(store_of(spec))[-1]["kept"]) == 2
    assert read_outcome(store_of(spec)) == expected
