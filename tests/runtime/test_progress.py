"""The lines in a log and the bar on a terminal, by a clock of the test's own."""

import logging
import os
import pty
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from sidestep.runtime.progress import track


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "sidestep.progress"]


def test_a_line_every_ten_seconds_and_at_the_end(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sidestep")
    with track("Encoding", 40, "songs", clock=clock) as bar:
        for _ in range(25):
            clock.now += 1
            bar.advance(1, note="12.3 audio s/s")
    assert said(caplog) == [
        "Encoding: 10 of 40 songs (25%), 1 song/s, 30 s left, 12.3 audio s/s",
        "Encoding: 20 of 40 songs (50%), 1 song/s, 20 s left, 12.3 audio s/s",
        "Encoding: stopped, 25 of 40 songs in 25 s, 1 song/s, 12.3 audio s/s",
    ]


def test_the_rate_is_of_late(clock: Clock) -> None:
    """A slow start, such as a compilation, does not spoil the time left; a stall does not hide."""
    with track("Training", 1000, "steps", clock=clock) as bar:
        clock.now += 300
        bar.advance()
        for _ in range(200):
            clock.now += 0.5
            bar.advance()
        assert "2 steps/s, 6 min 40 s left" in bar.status()
        clock.now += 30
        assert "1 step/s, 13 min" in bar.status()


def test_what_an_earlier_run_did_is_no_speed(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sidestep")
    with track("Training", 100, "steps", done=60, clock=clock) as bar:
        clock.now += 10
        bar.advance(20)
    assert said(caplog) == [
        "Training: 80 of 100 steps (80%), 2 steps/s, 10 s left",
        "Training: stopped, 80 of 100 steps (20 steps now) in 10 s, 2 steps/s",
    ]


def test_an_unknown_total_promises_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sidestep")
    with track("Listing", None, "files", clock=clock) as bar:
        assert bar.status() == "0 files"
        clock.now += 20
        bar.advance(5)
    assert said(caplog) == [
        "Listing: 5 files, 0.2 files/s",
        "Listing: done, 5 files in 20 s, 0.2 files/s",
    ]


def test_bytes_and_slow_things(clock: Clock) -> None:
    with track("Pulling", 4_600_000_000, "B", clock=clock) as bar:
        clock.now += 10
        bar.advance(1_200_000_000)
        assert bar.status() == "1.2 GB of 4.6 GB (26%), 120.0 MB/s, 28 s left"
    with track("Encoding", 2, "songs", clock=clock) as bar:
        clock.now += 60
        bar.advance()
        assert bar.status() == "1 of 2 songs (50%), 60 s each, 1 min 00 s left"


def test_nothing_to_do(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sidestep")
    with track("Pulling", 0, "B", clock=clock):
        pass
    assert said(caplog) == ["Pulling: done, 0 bytes in 0 s"]


def test_a_failure_is_not_called_done(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sidestep")

    def fail() -> None:
        with track("Training", 3, "steps", clock=clock) as bar:
            clock.now += 2
            bar.advance()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert said(caplog) == ["Training: stopped, 1 of 3 steps in 2 s, 0.5 steps/s"]


@pytest.mark.parametrize(
    ("unit", "total", "line"),
    [
        ("steps", 1, "done, 1 step in 2 s, 0.5 steps/s"),
        ("batches", 1, "done, 1 batch in 2 s, 0.5 batches/s"),
        ("steps", 2, "stopped, 1 of 2 steps in 2 s, 0.5 steps/s"),
    ],
)
def test_one_is_no_plural_and_half_is_not_done(
    unit: str, total: int, line: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sidestep")
    with track("This", total, unit, clock=clock) as bar:
        clock.now += 2
        bar.advance()
    assert said(caplog) == [f"This: {line}"]


def test_threads_may_advance_it() -> None:
    def advance(times: int) -> None:
        for _ in range(times):
            bar.advance()

    with track("Pulling", 8000, "B") as bar, ThreadPoolExecutor(8) as threads:
        list(threads.map(advance, [1000] * 8))
    assert bar.done == 8000


def test_a_terminal_gets_a_bar_and_no_lines() -> None:
    """In a real terminal; the log's line for the file is there, below what the screen shows."""
    program = (
        "import logging, sys; from sidestep.runtime.progress import track\n"
        "logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format='%(levelname)s %(message)s')\n"
        "with track('Pulling [all] songs', 10, 'songs') as bar: bar.advance(10, note='from far')\n"
    )
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        text=True,
        timeout=60,
    )
    os.close(theirs)
    screen = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert done.stdout.startswith("DEBUG Pulling [all] songs: done, 10 songs in ")
    assert "Pulling [all] songs" in screen and "━━━" in screen
    assert "10 of 10 songs (100%)" in screen and "from far" in screen
