"""The list fits the code: whoever moves a line that a mutant changes hears of it at once."""

from pathlib import Path

from tests.mutants.mutant import read_rows

ROOT = Path(__file__).parents[2]


def test_every_row_fits_the_code() -> None:
    misfits = [f"{mutant}: {wrong}" for mutant in read_rows(ROOT) if (wrong := mutant.misfit(ROOT))]
    assert not misfits, "\n".join(misfits)
