"""Notice by real signals, here and in real processes: what a job does, whatever its main thread is in."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from sidestep.runtime import interrupts
from sidestep.runtime.errors import ExitCode
from sidestep.runtime.preemption import RESERVE, Preemption
from tests.clock import Clock
from tests.facts import tells

BEGIN = "from sidestep.runtime.preemption import Preemption\nimport signal, sys, time\n"
SOON = "from sidestep.runtime import interrupts\ninterrupts.ONE_NOTICE = 0.2\n"
OTHERS = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]


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


@pytest.mark.parametrize("number", interrupts.SIGNALS)
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


def test_a_later_signal_ends_it_there_and_then() -> None:
    process = start(
        f"{SOON}with Preemption(60) as notice, notice.deferred():\n"
        "    print('ready', flush=True)\n"
        "    while True: time.sleep(0.01)\n"
    )
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert ended(process, within=5) == 75


@pytest.mark.parametrize("later", interrupts.SIGNALS)
@pytest.mark.parametrize("seconds", [0.0, 0.02, 1.0, 2.9])
def test_signals_within_three_seconds_are_one_notice(seconds: float, later: signal.Signals) -> None:
    """Also two of Ctrl-C: nobody can tell a key pressed twice from a wrapper that passes on what came."""
    clock, codes = Clock(), list[int]()
    with Preemption(600, clock, end_process=codes.append) as notice, notice.deferred():
        signal.raise_signal(signal.SIGTERM)
        left = notice.seconds_left()
        clock.now += seconds
        signal.raise_signal(later)
        assert notice.requested and not codes
        assert notice.seconds_left() == left - seconds  # counted from the first one


def test_their_three_seconds_begin_with_the_first_one() -> None:
    clock, codes = Clock(), list[int]()
    with Preemption(600, clock, end_process=codes.append) as notice, notice.deferred():
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
            clock.now += 1
        assert not codes
        signal.raise_signal(signal.SIGTERM)
        assert codes == [ExitCode.AGAIN]


def test_what_follows_at_once_does_not_disturb_the_cleaning_up() -> None:
    codes: list[int] = []
    with Preemption(600, end_process=codes.append):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # raises nothing
        signal.raise_signal(signal.SIGINT)
    assert not codes


def test_the_kernel_s_reminders_are_no_second_word() -> None:
    """SIGXCPU comes each second from the soft limit to the hard one."""
    clock, codes = Clock(), list[int]()
    with Preemption(600, clock, end_process=codes.append) as notice, notice.deferred():
        for _ in range(20):
            signal.raise_signal(signal.SIGXCPU)
            clock.now += 1
        assert notice.requested and not codes


def test_a_signal_after_other_notice_is_the_first_one() -> None:
    """What stands in a machine's metadata is followed by a SIGTERM, while the state is saved."""
    clock, codes = Clock(), list[int]()
    with Preemption(60, clock, end_process=codes.append) as notice, notice.deferred():
        notice.request("metadata")
        clock.now += 20
        signal.raise_signal(signal.SIGTERM)
        assert not codes
        assert notice.seconds_left() == 40 - RESERVE


def test_a_second_word_leaves_no_more_time() -> None:
    clock = Clock()
    notice = Preemption(30, clock, end_process=lambda code: None)
    notice.request("metadata")
    notice.set_grace(120)
    clock.now += 5
    notice.request("metadata")
    assert notice.seconds_left() == 25 - RESERVE


@pytest.mark.parametrize("number", OTHERS)
def test_what_is_ignored_at_the_start_stays_ignored(number: signal.Signals) -> None:
    process = start(
        f"signal.signal({int(number)}, signal.SIG_IGN)\n{SOON}"
        "from sidestep.runtime.interrupts import end_at_once, raise_them\n"
        "end_at_once(); raise_them()\n"
        "with Preemption(60, is_command=True) as notice, notice.deferred():\n"
        "    print('ready', flush=True)\n"
        "    while not notice.requested: time.sleep(0.01)\n"
        "    sys.exit(34)\n"
    )
    process.send_signal(number)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert ended(process, within=10) == 34


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_a_shell_in_the_background_ignores_is_notice_all_the_same(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Preemption(600, end_process=lambda code: None) as notice, notice.deferred():
            signal.raise_signal(number)
            assert notice.requested
    finally:
        signal.signal(number, before)


def test_a_host_keeps_the_signals_that_it_has_a_use_for() -> None:
    came = list[int]()
    before = signal.signal(signal.SIGUSR1, lambda number, _: came.append(number))
    try:
        with Preemption(600, end_process=lambda code: None) as notice, notice.deferred():
            signal.raise_signal(signal.SIGUSR1)
            heard = [notice.requested]
            signal.raise_signal(signal.SIGUSR2)
            heard.append(notice.requested)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (came, heard) == ([signal.SIGUSR1], [False, True])
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL


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


def test_while_it_is_deferred_a_later_signal_alone_ends_the_process() -> None:
    clock, codes = Clock(), list[int]()
    with Preemption(600, clock, end_process=codes.append) as notice:
        with notice.deferred():
            signal.raise_signal(signal.SIGTERM)
            assert notice.requested and not codes
            clock.now += 3
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


def test_the_command_s_own_process_still_ends_at_a_later_signal() -> None:
    process = start(
        f"{SOON}with Preemption(60, is_command=True) as notice, notice.deferred():\n"
        "    print('ready', flush=True)\n"
        "    while not notice.requested: time.sleep(0.01)\n"
        "time.sleep(60)\n"
    )
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert ended(process, within=10) == 75


def test_a_signal_by_which_the_launcher_ends_the_others_is_no_notice() -> None:
    """It says which of them was lost, and nobody is told that the machine goes."""
    process = start(
        "import os, logging\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "os.environ['SIDE_STEP_ENDS'] = str(noted := os.memfd_create('ends'))\n"
        "os.write(noted, b'1 137\\n')\n"
        "with Preemption(30) as notice, notice.deferred():\n"
        "    notice.listen(lambda: print('notice', flush=True))\n"
        "    print('ready', flush=True)\n"
        "    while not notice.requested: time.sleep(0.01)\n"
        "    time.sleep(0.5)\n"
    )
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert tells(err, "SIGTERM", "rank 1 was lost with 137") and "saving" not in err
    assert "notice" not in out
