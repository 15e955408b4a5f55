"""What is sent without anybody waiting for it: order, bounds, outages, and the end."""

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from sidestep.runtime.outbox import FIRST_PAUSE, LONGEST_PAUSE, Outbox, RefusedError
from tests.clock import Clock

LONG = 30.0  # seconds that no test takes


@pytest.fixture
def open_again() -> Iterator[threading.Event]:
    """What hangs waits for this, and gets it at the test's end at the latest."""
    event = threading.Event()
    yield event
    event.set()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


class Service:
    """Takes what is sent after it has failed so many times; 500 as often as the clock is below `until`."""

    def __init__(self, clock: Clock, until: float = 0) -> None:
        self.clock, self.until = clock, until
        self.got: list[int] = []
        self.tries = 0

    def __call__(self, item: int) -> None:
        self.tries += 1
        if self.clock() < self.until:
            raise OSError("HTTP Error 500: Internal Server Error")
        self.got.append(item)


def test_in_their_order(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(Clock())
    outbox = Outbox("The service", service)
    for item in range(5):
        outbox.put(item)
    outbox.close(LONG)
    assert service.got == [0, 1, 2, 3, 4]
    assert not warnings(caplog)


def test_an_hour_of_500_is_tried_again_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    service = Service(clock, until=3600)
    outbox = Outbox("The service", service, pause=clock.sleep)
    for item in range(3):
        outbox.put(item)
    deadline = time.monotonic() + LONG
    while len(service.got) < 3 and time.monotonic() < deadline:
        threading.Event().wait(0.001)
    outbox.close(LONG)
    assert service.got == [0, 1, 2]
    assert clock.slept[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert max(clock.slept) == LONGEST_PAUSE and service.tries < 80
    assert (
        len(warnings(caplog)) == 1 and "The service" in warnings(caplog)[0] and "500" in warnings(caplog)[0]
    )
    assert sum("again" in record.getMessage() for record in caplog.records) == 2  # once at each end


def test_whoever_puts_in_goes_on_though_nothing_gets_through(
    open_again: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """The queue is bounded; what is newest is kept."""
    got: list[int] = []
    begun = threading.Event()

    def hang(item: int) -> None:
        begun.set()
        open_again.wait(LONG)
        got.append(item)

    outbox = Outbox("The service", hang, most=2)
    outbox.put(0)
    assert begun.wait(LONG)
    started = time.monotonic()
    for item in range(1, 1000):
        outbox.put(item)
    assert time.monotonic() - started < 1
    open_again.set()
    outbox.close(LONG)
    assert got == [0, 998, 999]


@pytest.mark.parametrize("is_hanging", [True, False])
def test_the_end_waits_no_longer_than_it_may(
    is_hanging: bool, open_again: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the pause between two tries would be long; the loss is told once."""
    tries: list[int] = []

    def send(item: int) -> None:
        tries.append(item)
        if is_hanging:
            open_again.wait(LONG)
        raise OSError("connection refused")

    outbox = Outbox("The service", send)
    outbox.put(0)
    outbox.put(1)
    started = time.monotonic()
    outbox.close(0.2)
    assert time.monotonic() - started < 2
    assert len(warnings(caplog)) == 1
    assert set(tries) == ({0} if is_hanging else {0, 1})
    outbox.put(2)
    assert set(tries) <= {0, 1}


def test_what_is_refused_for_good_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    tries: list[int] = []

    def refuse(item: int) -> None:
        tries.append(item)
        raise RefusedError("404 no such hook")

    clock, both = Clock(), threading.Event()
    outbox = Outbox[int](
        "The service", lambda item: both.set() if item == 2 else refuse(item), pause=clock.sleep
    )
    for item in range(3):
        outbox.put(item)
    assert both.wait(LONG)
    outbox.close(LONG)
    assert tries == [0, 1] and clock.slept == []
    assert len(warnings(caplog)) == 1 and "404" in warnings(caplog)[0]


def test_nothing_runs_where_nothing_is_sent() -> None:
    before = threading.active_count()
    Outbox("The service", Service(Clock())).close(LONG)
    assert threading.active_count() == before


@pytest.mark.parametrize("gets_through", [True, False])
def test_what_is_given_up_is_told_no_more(
    gets_through: bool, open_again: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """Though it gets through, or fails, after all: whoever closed has said that it did not."""
    caplog.set_level(logging.INFO)
    over = threading.Event()

    def send(item: int) -> None:
        open_again.wait(LONG)
        if not gets_through:
            raise OSError("connection refused")

    outbox = Outbox("The service", send, pause=lambda _: over.set())
    outbox.put(0)
    outbox.close(0.1)
    open_again.set()
    for thread in [thread for thread in threading.enumerate() if thread.name == "outbox"]:
        thread.join(LONG)
    assert len(warnings(caplog)) == 1 and "has not answered" in caplog.text
    assert "reached again" not in caplog.text
