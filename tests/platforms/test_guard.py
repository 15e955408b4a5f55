"""The guard above a job on a rented machine, in real processes that end and hang as jobs do."""

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

from sidestep.config.schema import RuntimeSpec
from sidestep.platforms import guard
from sidestep.runtime.interrupts import SIGNALS
from tests.clock import Clock
from tests.platforms.providers import RUNPOD, StandIn, provider
from tests.songs import MakeSpec

Start = Callable[..., "subprocess.Popen[str]"]

PREPARED = """
import ctypes, os, resource, signal, sys, time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from sidestep.platforms import guard, release
from sidestep.runtime import interrupts, liveness
from sidestep.runtime.errors import AgainError, BadDataError
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
signal.alarm(120)  # neither the guard nor the job outlives a test that was killed
os.register_at_fork(after_in_child=lambda: signal.alarm(120))
guard.LOOKS_EVERY = 0.05
release.PROVIDERS = tuple(replace(one, api=os.environ["API"]) for one in release.PROVIDERS)
command = os.getpid()
"""
ENTERED = """
from sidestep.__main__ import entry
entry()
"""


def program(work: str, before: str = "") -> str:
    """The command, whose job says that it runs and then does `work`."""
    return (
        f"{PREPARED}{before}\n"
        "def work(spec, preemption, **more):\n"
        "    Path('new').write_text(f'{os.getpid()} {os.getppid()}')\n"
        "    Path('new').rename('runs')\n"
        f"{indent(work, '    ')}\n"
        "tasks = ModuleType('sidestep.tasks')\n"
        "tasks.run, tasks.__path__ = work, [str(Path(guard.__file__).parents[1] / 'tasks')]\n"
        "sys.modules['sidestep.tasks'] = tasks\n"
        f"{ENTERED}"
    )


SAVES = """\
with preemption.deferred():
    Path('defers').touch()
    while not preemption.requested: time.sleep(0.005)
    time.sleep(0.2)
    with open('saved', 'a') as file: file.write('once ')
raise AgainError('its progress is saved')"""


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with provider() as known:
        yield known


@pytest.fixture
def start(stand_in: StandIn) -> Iterator[Start]:
    """Starts `sidestep run` on a rented machine, in a process group of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(
        code: str,
        *flags: str,
        on_exit: str = "terminate",
        words: tuple[str, ...] = ("run", "--audio-dir", "songs", "--output-dir", "out"),
        through: tuple[str, ...] = (),
        **options: Any,
    ) -> "subprocess.Popen[str]":
        command = [*through, sys.executable, "-c", code, *words, "--on-exit", on_exit, *flags]
        with Path("stderr").open("w") as said:
            process = subprocess.Popen(
                command,
                env={**os.environ, **RUNPOD, "API": stand_in.url},
                start_new_session=True,
                text=True,
                **{"stdout": subprocess.DEVNULL, "stderr": said, **options},
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def running() -> tuple[int, int]:
    """The job and what is above it, once it runs."""
    until(Path("runs").exists)
    job, above = map(int, Path("runs").read_text().split())
    return job, above


def deferring() -> None:
    """Return once the job is where a notice waits for it: before, one would end it at once."""
    until(Path("defers").exists)


def saved() -> str:
    """What the job has saved."""
    return Path("saved").read_text() if Path("saved").exists() else ""


def said() -> str:
    return Path("stderr").read_text()


@pytest.mark.parametrize(
    ("ends", "code", "released"),
    [
        ("return", 0, 1),
        ("raise BadDataError('no song')", 65, 1),
        ("raise AgainError('it is saved')", 75, 0),
        ("os._exit(75)", 75, 0),
        ("os._exit(3)", 3, 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, 1),
        ("ctypes.string_at(0)", 139, 1),
        ("os.abort()", 134, 1),
    ],
)
def test_it_ends_as_the_job_and_gives_the_machine_back_once(
    ends: str, code: int, released: int, start: Start, stand_in: StandIn
) -> None:
    process = start(program(ends))
    assert process.wait(30) == code
    assert len(stand_in.asked) == released, said()
    job, above = running()
    assert above == process.pid != job
    assert (f"code {code}" in said()) == (code > 128)
    assert "Traceback" not in said()


def test_a_machine_that_is_kept_has_no_guard(start: Start, stand_in: StandIn) -> None:
    process = start(program("return"), on_exit="none")
    assert process.wait(30) == 0
    assert running() == (process.pid, os.getpid()) and not stand_in.asked


def test_a_range_test_has_one(start: Start, stand_in: StandIn) -> None:
    killed = "from sidestep.runtime import folders\nfolders.provide_folders = lambda path: work(None, None)"
    process = start(
        program("os.kill(os.getpid(), signal.SIGKILL)", killed),
        words=("lr-find", "--dataset-dir", "tensors", "--output-dir", "out"),
    )
    assert process.wait(30) == 137 and len(stand_in.asked) == 1


@pytest.mark.parametrize("is_group", [True, False], ids=["group", "guard"])
def test_a_notice_that_comes_twice_is_one(is_group: bool, start: Start, stand_in: StandIn) -> None:
    process = start(program(SAVES))
    deferring()
    send = os.killpg if is_group else os.kill
    send(process.pid, signal.SIGTERM)
    time.sleep(0.01)
    send(process.pid, signal.SIGTERM)
    assert process.wait(30) == 75
    assert saved() == "once " and not stand_in.asked


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_each_notice_is_passed_on(number: signal.Signals, start: Start, stand_in: StandIn) -> None:
    process = start(program(SAVES))
    deferring()
    process.send_signal(number)
    assert process.wait(30) == 75
    assert saved() == "once " and not stand_in.asked


def test_one_that_comes_before_the_job_runs_waits_for_it(start: Start, stand_in: StandIn) -> None:
    early = (
        "fork = os.fork\n"
        "def signalled():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    Path('forked').touch()\n"
        "    return fork()\n"
        "os.fork = signalled"
    )
    assert start(program(SAVES, early)).wait(30) == 75
    assert Path("forked").exists() and not stand_in.asked


def test_a_later_one_ends_the_job_at_once(start: Start, stand_in: StandIn) -> None:
    waits = "with preemption.deferred(): Path('defers').touch(); time.sleep(60)"
    process = start(program(waits, "interrupts.ONE_NOTICE = 0.2"))
    deferring()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.4)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 75 and not stand_in.asked


def test_what_is_ignored_from_the_start_stays_so(start: Start, stand_in: StandIn) -> None:
    process = start(program("time.sleep(0.4)"), through=("nohup",))
    running()
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(30) == 0 and len(stand_in.asked) == 1


def test_a_child_s_end_that_is_ignored_from_the_start(start: Start, stand_in: StandIn) -> None:
    ignored = "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    assert start(program("os.kill(os.getpid(), signal.SIGKILL)", ignored)).wait(30) == 137
    assert len(stand_in.asked) == 1


def test_without_its_guard_the_job_goes_on_and_gives_the_machine_back(
    start: Start, stand_in: StandIn
) -> None:
    process = start(program("while os.getppid() == command: time.sleep(0.01)"))
    job, above = running()
    os.kill(above, signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    until(lambda: not Path(f"/proc/{job}").exists() or "State:\tZ" in Path(f"/proc/{job}/status").read_text())
    assert len(stand_in.asked) == 1


def test_where_no_process_is_to_be_had_the_job_goes_on(start: Start, stand_in: StandIn) -> None:
    none = "def fork(): raise BlockingIOError(11, 'Resource temporarily unavailable')\nos.fork = fork"
    process = start(program(SAVES.replace("raise", "if not preemption.requested: raise"), none))
    assert running() == (process.pid, os.getpid())
    assert "No guard" in said() and "Resource temporarily unavailable" in said()
    deferring()
    process.send_signal(signal.SIGTERM)  # which is blocked no longer
    assert process.wait(30) == 0 and len(stand_in.asked) == 1


HUNG = ("--hung-minutes", "0.01", "--stall-minutes", "0.005", "--first-step-minutes", "0.005")
NATIVE = """\
libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)  # called with Python's lock held
for _ in range(2): libc.pthread_mutex_lock(mutex)"""  # which no signal ends


def test_a_hang_in_native_code_is_ended(start: Start, stand_in: StandIn) -> None:
    began = time.monotonic()
    process = start(program(NATIVE), *HUNG, "--grace-seconds", "1")
    assert process.wait(30) == 76
    assert time.monotonic() - began >= 1.6  # told to end, and killed after the grace
    assert len(stand_in.asked) == 1
    assert "JOB HANGS" in said() and "runtime.hung_minutes (0.01)" in said()


def test_a_job_that_the_kernel_does_not_let_die_costs_no_machine(start: Start, stand_in: StandIn) -> None:
    held = (
        "kill = os.kill\n"
        "os.kill = lambda process, number: number == signal.SIGKILL or kill(process, number)\n"
        "guard.SECONDS_TO_DIE = 0.2"
    )
    process = start(program(NATIVE, held), *HUNG, "--grace-seconds", "1")
    job, _ = running()
    try:
        assert process.wait(30) == 76 and len(stand_in.asked) == 1
        assert "does not even die" in said()
    finally:
        os.kill(job, signal.SIGKILL)


def test_who_waits_and_hangs_then_is_ended_too(start: Start, stand_in: StandIn) -> None:
    process = start(
        program(f"with liveness.waiting():\n{indent(NATIVE, '    ')}"), *HUNG, "--grace-seconds", "1"
    )
    assert process.wait(30) == 76 and len(stand_in.asked) == 1


def test_a_job_that_was_stopped_can_still_save(start: Start, stand_in: StandIn) -> None:
    stops = f"with preemption.deferred(): os.kill(os.getpid(), signal.SIGSTOP)\n{SAVES}"
    process = start(program(stops), *HUNG)
    assert process.wait(30) == 76
    assert saved() == "once " and len(stand_in.asked) == 1


@pytest.mark.parametrize(
    "work",
    [
        "for _ in range(13): time.sleep(0.1); liveness.sign_of_life()",
        "with liveness.waiting(): time.sleep(1.3)",
    ],
    ids=["advances", "waits"],
)
def test_what_advances_or_waits_does_not_hang(work: str, start: Start, stand_in: StandIn) -> None:
    assert start(program(work), *HUNG).wait(30) == 0, said()
    assert len(stand_in.asked) == 1


@pytest.mark.parametrize(("awaits", "code"), [(True, 0), (False, 76)])
def test_until_the_first_step_it_may_take_longer(
    awaits: bool, code: int, start: Start, stand_in: StandIn
) -> None:
    work = f"liveness.begin(Path(), lambda: {awaits})\ntime.sleep(1.1)"
    process = start(program(work), *HUNG, "--first-step-minutes", "10")
    assert process.wait(30) == code, said()


@pytest.mark.parametrize(
    ("runtime", "awaits", "bound"),
    [
        ({}, False, ("hung_minutes", 30)),
        ({}, True, ("first_step_minutes", 60)),
        ({"stall_minutes": 40}, False, ("stall_minutes", 40)),
        ({"hung_minutes": 90}, True, ("hung_minutes", 90)),
        ({"hung_minutes": None}, True, None),
        ({"stall_minutes": None}, False, None),
        ({"first_step_minutes": None}, True, None),
    ],
)
def test_the_larger_bound_applies_and_null_is_never(
    runtime: dict[str, Any], awaits: bool, bound: tuple[str, float] | None
) -> None:
    page = mmap.mmap(-1, 2)
    page[1] = awaits
    setting, minutes = guard._Guard(0, page, RuntimeSpec(**runtime), set())._bound()
    assert (None if minutes is None else (setting, minutes)) == bound


def test_time_in_which_the_machine_slept_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(os, "kill", lambda job, number: told.append(number))
    clock = Clock()
    above = guard._Guard(0, mmap.mmap(-1, 2), RuntimeSpec(hung_minutes=20), set(), clock)
    clock.now += 24 * 3600
    above._look()
    for _ in range(20 * 60 - 3):
        clock.now += 1
        above._look()
    assert told == []
    clock.now += 1
    above._look()
    assert told == [signal.SIGTERM, signal.SIGCONT]


def test_it_buries_orphans_as_a_first_process_must(start: Start) -> None:
    adopting = "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)"  # PR_SET_CHILD_SUBREAPER
    orphaned = (
        "import subprocess\n"
        "orphan = subprocess.check_output(['sh', '-c', 'sleep 0.1 >&- & echo $!'], text=True).strip()\n"
        "until = time.monotonic() + 5\n"
        "while Path('/proc', orphan).exists() and time.monotonic() < until: time.sleep(0.02)\n"
        "os._exit(9 if Path('/proc', orphan).exists() else 8)"
    )
    assert start(program(orphaned, adopting)).wait(30) == 8


def test_without_any_open_stream(start: Start, stand_in: StandIn) -> None:
    closed = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
    assert start(program("os.kill(os.getpid(), signal.SIGKILL)"), through=closed).wait(30) == 137
    assert len(stand_in.asked) == 1


def test_where_nobody_reads_any_more(start: Start, stand_in: StandIn) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ends = program("os.kill(os.getpid(), signal.SIGKILL)")
    process = start(ends, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing)
    os.close(writing)
    assert process.wait(30) == 137 and len(stand_in.asked) == 1


def test_what_is_printed_is_printed_once_and_the_same(start: Start) -> None:
    outputs = []
    for on_exit in ("none", "terminate"):
        before = "print('said before', flush=False)"
        code = program("print('from the job')\nraise BadDataError('no song')", before)
        process = start(code, "--json", on_exit=on_exit, stdout=subprocess.PIPE)
        outputs.append(process.communicate(timeout=30)[0])
    assert outputs[0] == outputs[1]
    assert json.loads(outputs[1].partition("from the job\n")[2])["error"]["exit_code"] == 65


@pytest.mark.slow
def test_a_training_on_a_rented_machine_saves_once(
    make_spec: MakeSpec, start: Start, stand_in: StandIn, tmp_path: Path
) -> None:
    """The whole group is signalled twice within 20 ms, in mid-training; its guard has loaded no torch."""
    spec = make_spec(epochs=10_000, checkpoint={"every_steps": 5, "every_minutes": None})
    Path("job.json").write_text(spec.model_dump_json())
    process = start(PREPARED + ENTERED, words=("train", "--config", "job.json"))
    until(lambda: list(tmp_path.glob("out/commits/000002.json")))
    about = Path(f"/proc/{process.pid}/status").read_text()
    assert "Threads:\t1\n" in about
    assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text()
    for _ in range(2):
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.01)
    assert process.wait(60) == 75, said()
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("preempted", 75)
    assert not stand_in.asked


@pytest.mark.slow
def test_a_training_that_is_killed_gives_the_machine_back(
    make_spec: MakeSpec, start: Start, stand_in: StandIn, tmp_path: Path
) -> None:
    spec = make_spec(epochs=10_000, checkpoint={"every_steps": 5, "every_minutes": None})
    Path("job.json").write_text(spec.model_dump_json())
    process = start(PREPARED + ENTERED, words=("train", "--config", "job.json"))
    until(lambda: list(tmp_path.glob("out/commits/000002.json")))
    (job,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(job), signal.SIGKILL)
    assert process.wait(30) == 137 and len(stand_in.asked) == 1
