"""Ranks by how much a dataset moves each module, at the parameters of one rank for all."""

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from math import sqrt

UNIT = 4  # ranks are multiples of it, where the common rank is large enough
FLOOR, CEILING = 1 / 4, 4  # of the common rank


def ranks_by_norm(
    norms: Mapping[str, float], shapes: Mapping[str, tuple[int, int]], rank: int
) -> dict[str, int]:
    """A rank for each module of `shapes` ([out, in]), in proportion to its gradient's root mean square.

    A module's norm is divided by √(out · in), as weights of different shapes compare badly. A rank is from
    a quarter of `rank` to four times it, no more than the weight has, and a multiple of 4 (of 1 where `rank`
    is below 16). A module's parameters are rank · (in + out), and all of them together no more than at `rank`
    for all, and less than one unit of the smallest module below, unless every rank is at its ceiling.

    The parameters are dealt out a unit at a time, each to the module that is furthest behind its share
    (Webster's method). Equal ones come in the order of their names.
    """
    unit = UNIT if rank >= 4 * UNIT else 1
    costs = {path: sum(shape) for path, shape in shapes.items()}
    floor = max(unit, round(rank * FLOOR / unit) * unit)
    ranks = {path: min(floor, *shape, rank) for path, shape in shapes.items()}
    left = sum((min(rank, *shape) - ranks[path]) * costs[path] for path, shape in shapes.items())
    shares = {path: norms[path] / sqrt(shape[0] * shape[1]) for path, shape in shapes.items()}

    def behind(path: str) -> tuple[float, str]:
        return -shares[path] / (ranks[path] + unit / 2), path

    waiting = [behind(path) for path in shapes]
    heapify(waiting)
    while waiting:
        _, path = heappop(waiting)
        if unit * costs[path] <= left and ranks[path] + unit <= min(rank * CEILING, *shapes[path]):
            left -= unit * costs[path]
            ranks[path] += unit
            heappush(waiting, behind(path))
    return ranks
