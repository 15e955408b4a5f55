"""Test runs in forks of one warm process: each in a copy of the tree of its own, some at a time.

The parent imports the third-party modules once and nothing of the project, so a fork begins where Python,
torch and pytest are loaded, and reads the project's files, changed or not, out of its copy.
"""

import contextlib
import importlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from tests.mutants.judge import Failure, Judge
from tests.mutants.mutant import Mutant

FORK = multiprocessing.get_context("fork")
PYTEST = (
    *("-q", "-p", "no:cacheprovider", "--timeout=0"),  # a mutant's tests have a time limit of their own
    "--assert=plain",  # to explain how two files differ takes pytest longer than a mutant has
)
HERE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Task:
    """A test run: `tests` in a copy of `tree`, with `mutant` applied if there is one."""

    tree: Path
    tests: tuple[str, ...]
    limit: float  # seconds, after which it is ended
    mutant: Mutant | None = None


@dataclass
class Outcome:
    """What became of a test run. `trouble` is what kept it from being one."""

    seconds: dict[str, float] = field(default_factory=dict)  # of each test that passed
    failures: list[Failure] = field(default_factory=list)
    trouble: str | None = None
    late: bool = False  # ended at its limit
    took: float = 0.0
    output: str = ""


def warm_up(modules: Iterable[str]) -> None:
    """Import `modules` into this process, as far as they are installed. What they say is not for here."""
    logging.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in modules:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
    logging.disable(logging.NOTSET)


def run_all(tasks: Iterable[Task], workers: int) -> Generator[tuple[Task, Outcome]]:
    """Run the tasks, `workers` at a time; each is given back when it has ended, in whatever order."""
    waiting = deque(tasks)
    running: dict[int, _Fork] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                fork = _Fork(waiting.popleft())
                running[fork.process.sentinel] = fork
            soonest = min(fork.deadline for fork in running.values())
            wait(list(running), timeout=max(soonest - time.monotonic(), 0))
            for sentinel, fork in list(running.items()):
                if not fork.process.is_alive() or time.monotonic() >= fork.deadline:
                    del running[sentinel]
                    yield fork.task, fork.end()
    finally:
        for fork in running.values():
            fork.end()


class _Fork:
    """A process group of its own that runs one task in a scratch folder."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.scratch = Path(tempfile.mkdtemp(prefix="mutant-")).resolve()
        self.started = time.monotonic()
        self.deadline = self.started + task.limit
        self.process = FORK.Process(target=_run, args=(task, self.scratch))
        self.process.start()

    def end(self) -> Outcome:
        """What it found; what is still running of it is killed, and its folder removed."""
        late = self.process.is_alive()
        assert self.process.pid
        self.process.kill()  # where it has not got as far as to have a group
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()
        outcome = Outcome(late=late)
        found = self.scratch / "found.json"
        if found.is_file() and not late:
            values = json.loads(found.read_text())
            outcome.seconds = values["seconds"]
            outcome.failures = [Failure(**failure) for failure in values["failures"]]
            outcome.trouble = values["trouble"]
        elif not late:
            outcome.trouble = f"its process ended with {self.process.exitcode} and found nothing"
        with contextlib.suppress(FileNotFoundError):
            outcome.output = (self.scratch / "output.txt").read_text(errors="replace")
        shutil.rmtree(self.scratch, ignore_errors=True)
        outcome.took = time.monotonic() - self.started
        return outcome


def _run(task: Task, scratch: Path) -> None:
    """What a fork does, up to the end of its process."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with (scratch / "output.txt").open("wb") as output, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    found: dict[str, object] = {"seconds": {}, "failures": [], "trouble": None}
    try:
        judge, trouble = _test(task, scratch)
        found |= {"seconds": judge.seconds, "failures": [asdict(one) for one in judge.failures]}
        found["trouble"] = trouble
    except BaseException:  # noqa: BLE001 - whatever it is, it is told
        found["trouble"] = traceback.format_exc()
    unfinished = scratch / "unfinished.json"
    unfinished.write_text(json.dumps(found))
    unfinished.rename(scratch / "found.json")
    os._exit(0)  # no thread that a test left behind can hold it up


def _test(task: Task, scratch: Path) -> tuple[Judge, str | None]:
    """Run the tests of `task`. The second value says why they were not run; None if they were."""
    tree = scratch / "tree" if task.mutant else task.tree
    judge = Judge(tree, stop_at_kill=task.mutant is not None)
    if task.mutant:
        shutil.copytree(task.tree, tree, symlinks=True)
        task.mutant.apply(tree)
    _move_to(tree)
    if task.mutant and task.mutant.module:
        try:  # first of all, so that no test dies of it, here or in a process that it starts
            module = importlib.import_module(task.mutant.module)
        except BaseException:  # noqa: BLE001 - an import may end in anything
            return judge, f"the mutant cannot be imported\n{traceback.format_exc()}"
        assert Path(str(module.__file__)).is_relative_to(tree), f"{module} is not the mutant"
    folders = [f"--rootdir={tree}", f"--basetemp={scratch / 'pytest'}"]
    also_slow = ["-m", ""] if any("::" in test for test in task.tests) else []  # what a row names runs
    try:
        code = pytest.main([*PYTEST, *also_slow, *folders, *task.tests], plugins=[judge])
    except Exception:  # at pytest's own end, as of what a killed mutant has left open
        if not judge.failures:
            raise
        return judge, None
    if not judge.failures and (code != pytest.ExitCode.OK or not judge.seconds):
        return judge, f"pytest ended with {code!r}, {len(judge.seconds)} tests passed and none failed"
    return judge, None


def _move_to(tree: Path) -> None:
    """Let this process, and those that it starts, find the project in `tree` alone."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    sys.path[:] = [str(tree), *(path for path in sys.path if path and Path(path).resolve() != HERE)]
    os.environ["PYTHONPATH"] = str(tree)
    os.chdir(tree)
