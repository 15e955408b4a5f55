"""Work in the background: in order, one at a time, and not waited for by the end of the process."""

import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from sidestep.runtime.background import OneWorker


def test_calls_are_made_in_order_one_at_a_time() -> None:
    worker, made, at_work = OneWorker("test"), [], threading.Lock()

    def work(number: int, name: str) -> str:
        assert at_work.acquire(blocking=False)
        time.sleep(0.02)
        made.append(number)
        at_work.release()
        return name * number

    futures = [worker.submit(partial(work, number, name="x")) for number in range(4)]
    assert [future.result(10) for future in futures] == ["", "x", "xx", "xxx"]
    assert made == [0, 1, 2, 3]


def test_a_failure_is_for_whoever_asks_and_ends_nothing_else() -> None:
    worker = OneWorker("test")
    failing, next_one = worker.submit(lambda: int("no number")), worker.submit(lambda: int("7"))
    with pytest.raises(ValueError, match="no number"):
        failing.result(10)
    assert next_one.result(10) == 7


def test_the_end_of_the_process_waits_for_none_of_it() -> None:
    code = (
        "import time\n"
        "from sidestep.runtime.background import OneWorker\n"
        "OneWorker('stuck').submit(lambda: time.sleep(3600))\n"
        "raise SystemExit(7)"
    )
    began = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 7
    assert time.monotonic() - began < 30
