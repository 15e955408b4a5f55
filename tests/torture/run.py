"""`make torture`: two hundred kills over all adapters and optimizers, and what they came to."""

import argparse
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.torture.field import CELLS, Tally, torture, torture_field
from tests.torture.points import POINTS, PREPROCESS

PIPELINE = "pipeline"
SHARES = dict.fromkeys(CELLS, 35) | {"lora-adamw8bit": 20, "lora-adafactor": 20, PIPELINE: 20}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="about how many (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of what is killed when (default: 0)")
    parser.add_argument("--at-a-time", type=int, default=2, help="cells (default: 2)")
    options = parser.parse_args()
    began, code, kills = time.monotonic(), 0, 0
    with ThreadPoolExecutor(options.at_a_time) as threads:
        cells: dict[Future[Tally], str] = {}
        for number, (cell, share) in enumerate(SHARES.items()):
            wanted = max(1, round(options.kills * share / sum(SHARES.values())))
            cells[threads.submit(torture_cell, cell, wanted, options.seed + number)] = cell
        for done in as_completed(cells):
            if error := done.exception():
                code = 1
                print(f"{cells[done]}: FAILED: {type(error).__name__}: {error}", flush=True)
            else:
                kills += done.result().kills.total()
                print(f"{cells[done]}: {done.result()}", flush=True)
    print(f"{kills} kills in {time.monotonic() - began:.0f} s: {'FAILED' if code else 'all runs equal'}")
    return code


def torture_cell(cell: str, kills: int, seed: int) -> Tally:
    """One cell's share, in a folder and with a server of its own."""
    with tempfile.TemporaryDirectory() as folder, torture_field(Path(folder)) as field:
        if cell == PIPELINE:
            few = {"max_steps": 2}
            return torture(field, lambda output: field.pipeline(output, few), PREPROCESS, kills, seed)
        return torture(field, lambda output: field.spec(output, CELLS[cell]), POINTS, kills, seed)


if __name__ == "__main__":
    sys.exit(main())
