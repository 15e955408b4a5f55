"""Attempts at a job, in processes that may die at any moment.

As a program this is a process that has imported everything and done nothing, and forks an attempt for each
line that it reads: `{"spec": FILE, "said": FILE, "steps": FILE, "point": NAME or null, "number": N, "signal":
S}`. It answers with the attempt's process id, and then with its exit code, or minus the signal that it died
of. With the line as an argument it is that attempt itself.
"""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from sidestep.cli import main
from tests.torture.points import POINTS, PREPROCESS, signal_at, wrap

WARM = (
    *("sidestep.tasks.train", "sidestep.tasks.preprocess", "sidestep.tasks.limits", "sidestep.storage.s3"),
    *("sidestep.preflight.places", "sidestep.config.sources", "sidestep.data.audio"),
    *("bitsandbytes", "prodigyopt", "transformers.optimization", "lycoris", "peft", "matplotlib.pyplot"),
)


def attempt(order: dict[str, Any]) -> int:
    """Run the command as a user would; the exit code, where it lives to have one."""
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if name := order["point"]:
        signal_at((POINTS | PREPROCESS)[name], order["number"], order["signal"])
    note_steps(Path(order["steps"]))
    return main(["run", "--config", order["spec"]])


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
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = attempt(json.loads(line))
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        os._exit(attempt(json.loads(sys.argv[1])))
    serve()
