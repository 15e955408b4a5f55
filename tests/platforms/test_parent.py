"""The command that dstack runs, as a real shell process above a stand-in for `sidestep`."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sidestep.runtime.errors import OTHERS, ExitCode, Rerun, codes
from tests.platforms.rendering import ON_S3, render

NOTICES = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
ENDS = '#!/bin/sh\necho "$@" >words\nexit "$CODE"\n'
SAVES = f"""#!{sys.executable} -SE
import os, signal, sys, time
def note(number, frame):
    with open("came", "a") as file:
        print(number, file=file)
for number in {[int(number) for number in NOTICES]}:
    signal.signal(number, note)
open("runs", "w").close()
end = time.monotonic() + 30
while not os.path.exists("came") and time.monotonic() < end:
    time.sleep(0.01)
time.sleep(0.2)  # the state is saved
sys.exit(int(os.environ["CODE"]))
"""

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Start:
    """Starts the rendered command in a session of its own, which is how dstack's runner starts it."""

    def started(source: str, code: int, shell: str | None = None) -> subprocess.Popen[bytes]:
        task = YAML(typ="safe", pure=True).load(render("dstack", ON_S3).text)
        words = shlex.split(task["entrypoint"])  # as dstack does
        Path("sidestep").write_text(source)
        Path("sidestep").chmod(0o755)
        with Path("stderr").open("wb") as stderr:  # and PATH is without any real sidestep
            process = subprocess.Popen(
                [shell or words[0], *words[1:]],
                env={"PATH": f"{Path.cwd()}{os.pathsep}{os.defpath}", "CODE": str(code)},
                stderr=stderr,
                start_new_session=True,
            )
        request.addfinalizer(process.kill)
        return process

    return started


def until_it_runs() -> None:
    deadline = time.monotonic() + 30
    while not Path("runs").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def came() -> list[int]:
    return [int(line) for line in Path("came").read_text().split()]


@pytest.mark.parametrize("code", [*(int(code) for code in ExitCode), *OTHERS])
def test_permanent_codes_become_0_and_all_others_stay(code: int, start: Start) -> None:
    process = start(ENDS, code)
    is_permanent = code in codes(Rerun.PERMANENT)
    assert process.wait(30) == (0 if is_permanent else code)
    said = Path("stderr").read_text()
    assert Path("words").read_text() == "run\n"
    assert [str(code) in line for line in said.splitlines()] == ([True] if is_permanent else [])


@pytest.mark.parametrize("number", NOTICES, ids=lambda number: number.name)
def test_a_signal_is_passed_on_once_and_waited_for(number: signal.Signals, start: Start) -> None:
    """To the parent alone, and again while the job saves: `wait` ends at each, and the job does not."""
    process = start(SAVES, ExitCode.AGAIN)
    until_it_runs()
    process.send_signal(number)
    for _ in range(3):
        time.sleep(0.03)
        process.send_signal(number)
    assert process.wait(30) == ExitCode.AGAIN
    assert came() == [signal.SIGTERM]


@pytest.mark.parametrize("shell", [None, "bash"])
def test_a_group_that_is_signalled_twice(shell: str | None, start: Start) -> None:
    process = start(SAVES, ExitCode.AGAIN, shell)
    until_it_runs()
    for _ in range(2):
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.01)
    assert process.wait(30) == ExitCode.AGAIN
    assert set(came()) == {signal.SIGTERM}


@pytest.mark.parametrize(("code", "told"), [(ExitCode.BUG, 0), (ExitCode.STALLED, 76)])
def test_a_code_after_signals_is_the_job_s_own(code: int, told: int, start: Start) -> None:
    process = start(SAVES, code)
    until_it_runs()
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == told


def test_a_job_that_is_killed_is_tried_again(start: Start) -> None:
    assert start("#!/bin/sh\nkill -KILL $$\n", 0).wait(30) == 137


def test_a_job_that_cannot_be_started_is_tried_again(start: Start) -> None:
    assert start("#!/nowhere/sh\n", 0).wait(30) == 127
