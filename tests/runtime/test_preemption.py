"""Notice in real processes, by real signals: what a job does, whatever its main thread is in."""

import signal
import subprocess
import sys
import time

import pytest

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


def test_it_gives_the_signals_back() -> None:
    from sidestep.runtime.preemption import Preemption

    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as notice:
        assert signal.getsignal(signal.SIGTERM) == notice._receive
        assert notice.seconds_left() == float("inf")
    assert signal.getsignal(signal.SIGTERM) == before
