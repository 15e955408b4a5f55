"""What a benchmark finds: comparisons of ours with a rival, made in turn in one run."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One comparison. `ratio` is the rival's figure over ours: of times, above 1 ours is faster."""

    name: str
    ours: float
    rival: float
    ratio: float
    unit: str
    spread: str = ""

    @classmethod
    def of(cls, name: str, ours: Sequence[float], rival: Sequence[float], unit: str = "s") -> "Row":
        """Of figures that were taken in turn: medians, and that of the pairs' ratios, with their range."""
        ratios = sorted(b / a for a, b in zip(ours, rival, strict=True))
        own, theirs, ratio = (statistics.median(values) for values in (ours, rival, ratios))
        return cls(name, own, theirs, ratio, unit, f"{ratios[0]:.2f}–{ratios[-1]:.2f}")

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Name, ours, the rival's, and the ratio with its range."""
        spread = f" ({self.spread})" if self.spread else ""
        unit = f" {self.unit}" if self.unit else ""
        return (
            self.name,
            f"{_short(self.ours)}{unit}",
            f"{_short(self.rival)}{unit}",
            f"{self.ratio:.2f}{spread}",
        )


def _short(value: float) -> str:
    """Three digits, and all that are before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table_of(title: str, rival: str, rows: Iterable[Row]) -> Table:
    """For a terminal."""
    table = Table("", "ours", rival, "theirs / ours", title=title, title_justify="left")
    for row in rows:
        table.add_row(*row.cells)
    return table
