"""Notice by real signals, here and in real processes: what a job does, whatever its main thread is in."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from sidestep.runtime.errors import ExitCode
from sidestep.runtime.preemption import RESERVE, Preemption
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
        "    with Preemption(30, is_command=True):\n"
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


def test_while_it_is_deferred_the_second_signal_alone_ends_the_process() -> None:
    codes: list[int] = []
    with Preemption(600, end_process=codes.append) as notice:
        with notice.deferred():
            signal.raise_signal(signal.SIGTERM)
            assert notice.requested and not codes
            signal.raise_signal(signal.SIGINT)
        assert codes == [ExitCode.AGAIN]


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_host_lives_on_after_the_job_that_was_interrupted(number: signal.Signals) -> None:
    """No clock ends it later, nothing is said of an end, and a second signal is its own again."""
    process = start(
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)\n"
        "with Preemption(2.5) as notice, notice.deferred():\n"
        "    print('ready', flush=True)\n"
        "    while not notice.requested: time.sleep(0.01)\n"
        "assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before\n"
        "time.sleep(2)\n"
        "sys.exit(36 if notice.is_interrupt else 35)\n"
    )
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == (36 if number == signal.SIGINT else 35), said
    assert number.name in said and "over" not in said


def test_the_command_s_own_process_still_ends_at_a_second_signal() -> None:
    process = start(
        "with Preemption(60, is_command=True) as notice, notice.deferred():\n"
        "    print('ready', flush=True)\n"
        "    while not notice.requested: time.sleep(0.01)\n"
        "time.sleep(60)\n"
    )
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert ended(process, within=10) == 75
