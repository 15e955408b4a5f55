"""Attempts at a job, in processes that may die at any moment.

As a program this is a process that has imported everything and done nothing, and forks an attempt for each
line that it reads, an `Order` as JSON. It answers "began PID" and later, in the order of the ends, "ended PID
CODE", where the code is the exit code, or minus the signal that it died of. With the line as an argument it
is that attempt itself.
"""

import json
import os
import select
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from sidestep.cli import main
from sidestep.storage.open import open_store
from sidestep.storage.retry import Limits, Retry
from tests.torture.points import JUDGED, OF_ANY_RANK, POINTS, PREPROCESS, signal_at, wrap

WARM = (
    *("sidestep.tasks.train", "sidestep.tasks.preprocess", "sidestep.tasks.limits", "sidestep.storage.s3"),
    *("sidestep.preflight.places", "sidestep.config.sources", "sidestep.data.audio"),
    *("bitsandbytes", "prodigyopt", "transformers.optimization", "lycoris", "peft", "matplotlib.pyplot"),
)
IMPATIENT = Limits(Retry(seconds=8, first_pause=0.1, longest_pause=1), connect_seconds=2, read_seconds=2)


@dataclass(frozen=True)
class Order:
    """One attempt: `command`, of which the output goes to the file `said`."""

    command: Sequence[str]
    said: str
    steps: str  # the file in which it notes each step that it makes
    point: str | None = None  # at the call `number` of which it gets the signal `signal`
    number: int = 0
    signal: int = 0
    at: float | None = None  # when it begins, by the monotonic clock that all processes share
    is_impatient: bool = False  # with a store, so that faults cost no minutes
    environ: Mapping[str, str] = field(default_factory=dict)  # variables that it alone has

    def as_json(self) -> str:
        return json.dumps(asdict(self))


def attempt(order: Order) -> int:
    """Run the command as a user would; the exit code, where it lives to have one."""
    said = os.open(order.said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.chdir(Path(order.said).parent)
    os.environ.update(order.environ)
    if order.point:
        signal_at((POINTS | PREPROCESS | JUDGED | OF_ANY_RANK)[order.point], order.number, order.signal)
    if order.is_impatient:
        (open_store.__kwdefaults__ or {})["limits"] = IMPATIENT
    note_steps(Path(order.steps))
    if order.at is not None:
        time.sleep(max(0, order.at - time.monotonic()))
    return main(order.command)


def note_steps(path: Path) -> None:
    """Write down each step that is made, as it is made."""

    def around(report: Any) -> Any:
        def noted(reporter: Any, result: Any, *rest: Any) -> None:
            with path.open("a") as file:
                file.write(f"{result.step}\n")
            report(reporter, result, *rest)

        return noted

    wrap("sidestep.tasks.train:report_step", around)


def serve() -> None:
    for module in WARM:
        import_module(module)
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"a process that forks has {threads} threads"
    print("ready", flush=True)
    children: dict[int, int] = {}  # by what tells of their ends
    while True:
        ready = select.select([sys.stdin, *children], [], [])[0]
        for descriptor in [descriptor for descriptor in ready if descriptor in children]:
            pid = children.pop(descriptor)
            os.close(descriptor)
            print("ended", pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                return
            pid = os.fork()
            if pid == 0:
                _be_an_attempt(line)
            children[os.pidfd_open(pid)] = pid
            print("began", pid, flush=True)


def _be_an_attempt(line: str) -> None:
    code = 1
    try:
        code = attempt(Order(**json.loads(line)))
    finally:
        os._exit(code)


if __name__ == "__main__":
    if sys.argv[1:]:
        _be_an_attempt(sys.argv[1])
    serve()
