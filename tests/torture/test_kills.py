"""Thirty kills over two cells, by SIGKILL, at named points and at any time: nothing of it is to be seen in
the results. `make torture` makes hundreds over all cells."""

import itertools

import pytest

from tests.torture.kills import kill
from tests.torture.run import fields, in_cell


@pytest.mark.slow
@pytest.mark.timeout(1200)  # minutes on two quiet cores
@pytest.mark.parametrize(("cell", "seed"), [("lora-adamw", 1), ("lokr-prodigy", 2)])
def test_ten_kills_change_nothing(cell: str, seed: int) -> None:
    with fields(1) as free:
        tally = in_cell(free, "kills", kill, cell, 10, seed, itertools.count())
    assert not tally.failures, "\n".join(tally.failures)
    assert tally.done.total() >= 10
