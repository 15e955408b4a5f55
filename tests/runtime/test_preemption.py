"""Notice by real signals, here and in real processes: what a job does, whatever its main thread is in."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from sidestep.runtime.errors import ExitCode
from sidestep.runtime.preemption import RESERVE, SIGNALS, Preemption
from tests.clock import Clock

BEGIN = "from sidestep.runtime.preemption import Preemption\nimport signal, sys, time\n"


def start(code: str) -> subprocess.Popen[str]:
    """A process that runs `code`, once it has said that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def ended(process: subprocess.Popen[str], within: float) -> int:
    began = time.monotonic()
    process.communicate(timeout=within + 20)
    assert time.monotonic() - began < within
    return process.returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_where_nothing_is_lost_the_work_ends_at_once(number: signal.Signals) -> None:
    process = start(
        "try:\n"
        "    with Preemption(30):\n"
        "        print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(33)\n"
    )
    process.send_signal(number)
    assert ended(process, within=10) == 33


def test_held_it_is_a_flag_and_the_time_that_is_left() -> None:
    process = start(
        "with Preemption(30) as notice, notice.deferred():\n"
        "    print('ready', flush=True)\n"
        "    while not notice.requested: time.sleep(0.01)\n"
        "    sys.exit(34 if 25 < notice.seconds_left() <= 29 else 1)\n"
    )
    process.send_signal(signal.SIGTERM)
    assert ended(process, within=10) == 34


@pytest.mark.parametrize(
    "stuck",
    [
        "while True: time.sleep(0.01)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, []); time.sleep(60)",
        "import threading; threading.Event().wait()",
    ],
)
def test_the_process_ends_within_the_grace_whatever_it_is_in(stuck: str) -> None:
    process = start(
        f"with Preemption(3) as notice, notice.deferred():\n    print('ready', flush=True)\n    {stuck}\n"
    )
    process.send_signal(signal.SIGTERM)
    assert ended(process, within=4) == 75


def test_a_second_signal_ends_it_there_and_then() -> None:
    process = start(
        "with Preemption(60) as notice, notice.deferred():\n"
        "    print('ready', flush=True)\n"
        "    while True: time.sleep(0.01)\n"
    )
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert ended(process, within=5) == 75


@pytest.fixture
def own_signals() -> Iterator[None]:
    """After notice, they are not given back: a second signal ends the process at once."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_time_runs_from_the_notice_on() -> None:
    clock = Clock()
    notice = Preemption(600, clock, end_process=lambda code: None)
    clock.now = 1000
    notice.request()
    assert notice.requested and notice.seconds_left() == 600 - RESERVE
    clock.now += 200
    assert notice.seconds_left() == 400 - RESERVE


def test_at_its_end_the_process_ends() -> None:
    ended, codes = threading.Event(), []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    Preemption(RESERVE + 0.05, end_process=end).request()
    assert ended.wait(10) and codes == [ExitCode.AGAIN]


@pytest.mark.usefixtures("own_signals")
def test_while_it_is_deferred_the_second_signal_alone_ends_the_process() -> None:
    codes: list[int] = []
    with Preemption(600, end_process=codes.append) as notice:
        with notice.deferred():
            signal.raise_signal(signal.SIGTERM)
            assert notice.requested and not codes
            signal.raise_signal(signal.SIGINT)
        assert codes == [ExitCode.AGAIN]


@pytest.mark.usefixtures("own_signals")
def test_after_what_is_deferred_a_signal_ends_the_work_again() -> None:
    with Preemption(600, end_process=lambda code: None) as notice:
        with notice.deferred():
            pass
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_it_gives_the_signals_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as notice:
        assert signal.getsignal(signal.SIGTERM) == notice._receive
        assert notice.seconds_left() == float("inf")
    assert signal.getsignal(signal.SIGTERM) == before
