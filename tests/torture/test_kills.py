"""Thirty kills over two cells, by SIGKILL, at named points and at any time: nothing of it is to be seen in
the results. `make torture` makes two hundred over all cells."""

from pathlib import Path

import pytest

from tests.torture.field import CELLS, torture, torture_field
from tests.torture.points import POINTS


@pytest.mark.slow
@pytest.mark.timeout(1200)  # minutes on two quiet cores
@pytest.mark.parametrize(("cell", "seed"), [("lora-adamw", 1), ("lokr-prodigy", 2)])
def test_fifteen_kills_change_nothing(tmp_path: Path, cell: str, seed: int) -> None:
    with torture_field(tmp_path) as field:
        tally = torture(field, lambda output: field.spec(output, CELLS[cell]), POINTS, 15, seed)
    print(tally)
    assert tally.kills.total() == 15 and tally.fresh >= 2
