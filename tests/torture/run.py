"""`make torture`: what attempts may meet, hundreds of times, and what it came to.

A trial is one run and all that is done to it. Trial NUMBER of an action in a cell is the same each time:

    python -m tests.torture.run --only "pauses/s3" --seed 0 --number 17
"""

import argparse
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from tests.torture.damage import STATES, damage
from tests.torture.faults import ONLY, fail, lag
from tests.torture.field import CELLS, Field, torture_field
from tests.torture.kills import PIPELINE, kill
from tests.torture.pairs import STARTS, pair
from tests.torture.pauses import pause
from tests.torture.ranks import lose
from tests.torture.tally import Tally, table

FAILURES_AT_MOST = 8  # of one cell, which then is given up


@dataclass(frozen=True)
class Action:
    """Something to do to attempts.

    Attributes:
        trial: does it to one run in a field, and counts it; fails where a promise is broken.
        cells: how often it is to be done, by cell.
    """

    trial: Callable[[Field, str, random.Random, Tally], None]
    cells: dict[str, int]


ACTIONS = {
    "kills": Action(
        kill, dict.fromkeys(CELLS, 90) | {"lora-adamw8bit": 45, "lora-adafactor": 45, PIPELINE: 60}
    ),
    "pauses": Action(pause, {"s3": 40, "local": 40}),
    "pairs": Action(pair, STARTS),
    "ranks": Action(lose, {"lora-adamw": 30, "lokr-prodigy": 10, "lora-judged": 10}),
    "damage": Action(damage, dict.fromkeys(STATES, 80)),
    "S3 faults": Action(fail, dict.fromkeys(ONLY, 50)),
    "lagging lists": Action(lag, {"undisturbed": 8, "killed": 8}),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1, help="of all that is to be done (default: 1)")
    parser.add_argument("--only", default="", help="actions and cells whose name has this in it")
    parser.add_argument("--number", type=int, help="the one trial to be made of each of these")
    parser.add_argument("--seed", type=int, default=0, help="of what happens when (default: 0)")
    parser.add_argument("--at-a-time", type=int, default=2, help="cells (default: 2)")
    options = parser.parse_args()
    began, tallies = time.monotonic(), dict[str, Tally]()
    with fields(options.at_a_time) as free, ThreadPoolExecutor(options.at_a_time) as threads:
        cells = {}
        for name, action, cell, wanted in _chosen(options.only):
            numbers = itertools.count() if options.number is None else [options.number]
            most = max(1, round(wanted * options.share))
            arguments = (free, name, action.trial, cell, most, options.seed, numbers)
            cells[threads.submit(in_cell, *arguments)] = name, cell
        for done in as_completed(cells):
            (name, cell), tally = cells[done], done.result()
            tallies.setdefault(name, Tally()).add(tally)
            for failure in tally.failures:
                print(failure, flush=True)
            print(f"{name}/{cell}: {tally.done.total()} in {tally.seconds:.0f} s", flush=True)
    print(table({name: tallies[name] for name in ACTIONS if name in tallies}))
    failed = sum(len(tally.failures) for tally in tallies.values())
    print(f"{time.monotonic() - began:.0f} s: {f'{failed} trials FAILED' if failed else 'all as promised'}")
    return bool(failed)


@contextmanager
def fields(count: int) -> Iterator[Queue[Field]]:
    """So many fields, each with a server of its own."""
    free: Queue[Field] = Queue()
    with ExitStack() as stack:
        for _ in range(count):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            free.put(stack.enter_context(torture_field(Path(folder))))
        yield free


def in_cell(
    free: Queue[Field],
    name: str,
    trial: Callable[[Field, str, random.Random, Tally], None],
    cell: str,
    wanted: int,
    seed: int,
    numbers: Iterable[int],
) -> Tally:
    """Make trials in one of the fields that are free, until `wanted` things are done."""
    field, tally, began = free.get(), Tally(), time.monotonic()
    field.codes = tally.codes
    try:
        for number in numbers:
            try:
                trial(field, cell, random.Random(f"{seed}/{name}/{cell}/{number}"), tally)
            except Exception as error:  # noqa: BLE001 - whatever it is, the other trials go on
                field.stop()
                again = f'--only "{name}/{cell}" --seed {seed} --number {number}'
                tally.failures.append(f"FAILED {again}\n  {type(error).__name__}: {error}")
            if tally.done.total() >= wanted or len(tally.failures) >= FAILURES_AT_MOST:
                break
    finally:
        free.put(field)
    tally.seconds = time.monotonic() - began
    return tally


def _chosen(only: str) -> Iterator[tuple[str, Action, str, int]]:
    for name, action in ACTIONS.items():
        for cell, wanted in action.cells.items():
            if only in f"{name}/{cell}":
                yield name, action, cell, wanted


if __name__ == "__main__":
    sys.exit(main())
