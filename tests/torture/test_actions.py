"""A little of each action of `make torture`, but for its kills, which `test_kills` has."""

import itertools
from queue import Queue

import pytest

from tests.torture.field import Field
from tests.torture.run import ACTIONS, in_cell

LITTLE = {
    "pauses": 2,
    "pairs": 2,
    "damage": 5,
    "S3 faults": 3,
    "lagging lists": 1,
}
TOO_SLOW = ("one preprocessing, s3", "one dataset", "killed")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("action", "cell"),
    [(action, cell) for action in LITTLE for cell in ACTIONS[action].cells if cell not in TOO_SLOW],
)
def test_a_little_of(field: Field, action: str, cell: str) -> None:
    free: Queue[Field] = Queue()
    free.put(field)
    tally = in_cell(free, action, ACTIONS[action].trial, cell, LITTLE[action], 1, itertools.count())
    assert not tally.failures, "\n".join(tally.failures)
    assert tally.done.total() >= LITTLE[action]
