"""What adding up gradients over ranks costs: ordered against all_reduce, and both against the passes of one.

    python -m tests.bench.ranks [RANKS]

Processes with gloo on one machine, an adapter's worth of numbers and no model; the two take turns. Each
number is the milliseconds of a step's sums, the median of its rounds and their range.
"""

import os
import socket
import statistics
import sys
import time

import torch
from torch.nn import Parameter

from sidestep.runtime.preemption import Preemption
from sidestep.runtime.ranks import LISTENER_VARIABLE, rank_in
from sidestep.training.parallel import AllReduced, Ordered
from sidestep.training.team import met

NUMBERS = 4_000_000  # float32, 16 MB: rank 64 on q, k, v, o of a model of width 640
SAMPLES = 8  # of a step
ROUNDS = 9


def main(count: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pids = []
        for rank in range(count):
            if pid := os.fork():
                pids.append(pid)
                continue
            names = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
            names |= {"MASTER_PORT": listener.getsockname()[1], LISTENER_VARIABLE: listener.fileno()}
            os.environ.update({name: str(value) for name, value in names.items()})
            _measure()
            os._exit(0)
    for pid in pids:
        os.waitpid(pid, 0)


def _measure() -> None:
    rank = rank_in(os.environ)
    assert rank
    with met(rank, Preemption()) as team:
        parameter = Parameter(torch.zeros(NUMBERS))
        kinds = [Ordered(team, [parameter], 1), AllReduced(team, [parameter], 1)]
        took: dict[str, list[float]] = {type(sums).__name__: [] for sums in kinds}
        piece = torch.randn(NUMBERS)
        for turn in range(ROUNDS + 1):
            for sums in kinds:
                began = time.perf_counter()
                sums.begin()
                for first in range(0, SAMPLES, team.count):
                    dealt = [[position] for position in range(first, min(first + team.count, SAMPLES))]
                    losses = None
                    if team.rank < len(dealt):
                        parameter.grad = piece.clone() if parameter.grad is None else parameter.grad + piece
                        losses = torch.zeros(1)
                    sums.add(dealt, losses)
                sums.finish(SAMPLES)
                parameter.grad = None
                if turn:  # the first warms up
                    took[type(sums).__name__].append(1000 * (time.perf_counter() - began))
        if team.rank == 0:
            for name, each in took.items():
                print(f"{name}: {statistics.median(each):.0f} ms ({min(each):.0f}–{max(each):.0f})")
            pairs = zip(took["Ordered"], took["AllReduced"], strict=True)
            print(f"ratio: {statistics.median(one / other for one, other in pairs):.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 2)
