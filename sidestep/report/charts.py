"""Line charts as SVG: a few kilobytes for any number of steps, in the colours of the page around them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 720.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 12.0, 12.0, 34.0
POINTS_AT_MOST = 600  # of a line: more would not be seen
TICKS = 5

Point = tuple[float, float]
Values = Sequence[float | None]


@dataclass(frozen=True)
class Line:
    """A curve over the steps from 1 on, or through single values by step. None is a gap.

    `name` is its CSS class, too.
    """

    name: str
    label: str
    values: Values | Mapping[int, float | None]

    @property
    def points(self) -> list[tuple[int, float | None]]:
        """(step, value) of what is drawn, rising by step."""
        return sorted(self.values.items()) if isinstance(self.values, Mapping) else thinned(self.values)

    @property
    def steps(self) -> list[int]:
        """Those of single values, else the last one."""
        return list(self.values) if isinstance(self.values, Mapping) else [len(self.values)]


@dataclass(frozen=True)
class Tick:
    at: float  # in the picture
    label: str


@dataclass(frozen=True)
class Chart:
    """A chart as the template draws it. All coordinates are those of the picture, WIDTH × HEIGHT."""

    title: str
    x_label: str
    lines: list[tuple[Line, list[str]]]  # with the points of each piece between two gaps
    dots: list[tuple[float, float, str]]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    width: float = WIDTH
    height: float = HEIGHT
    plot: dict[str, float] = field(
        default_factory=lambda: {
            "left": LEFT,
            "right": WIDTH - RIGHT,
            "top": TOP,
            "bottom": HEIGHT - BOTTOM,
        }
    )


def chart(title: str, lines: Sequence[Line], dots: dict[int, float | None] | None = None) -> Chart | None:
    """A chart of curves over the optimizer step, and of single values by step; None where there are none."""
    known = {step: value for step, value in (dots or {}).items() if value is not None}
    points = [(line, line.points) for line in lines]
    values = [value for _, drawn in points for _, value in drawn if value is not None] + list(known.values())
    if not values:
        return None
    steps = [step for line in lines for step in line.steps] + list(known)
    first, last = (0 if 0 in steps else 1), max(steps)
    x_ticks = ticks(first, max(last, first + 1), whole=True)
    y_ticks = ticks(min(values), max(values))
    low, high = min(y_ticks[0], *values), max(y_ticks[-1], *values)

    def at(step: float, value: float) -> Point:
        x = LEFT + (step - first) / max(last - first, 1) * (WIDTH - LEFT - RIGHT)
        y = TOP + (high - value) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    return Chart(
        title=title,
        x_label="optimizer step",
        lines=[
            (line, [" ".join(f"{x},{y}" for x, y in (at(*point) for point in piece)) for piece in pieces])
            for line, drawn in points
            if (pieces := list(_pieces(drawn)))
        ],
        dots=[(*at(step, value), f"step {step}: {value:.4g}") for step, value in sorted(known.items())],
        x_ticks=[Tick(at(step, low)[0], f"{step:g}") for step in x_ticks if first <= step <= last],
        y_ticks=[Tick(at(first, value)[1], f"{value:.3g}") for value in y_ticks],
    )


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """About TICKS round numbers, 1, 2 or 5 times a power of ten apart, that span `low` to `high`."""
    span = (high - low) or abs(high) or 1.0
    rough = span / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    step = max(step, 1.0) if whole else step
    return [
        number * step for number in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)
    ]


def thinned(values: Values) -> list[tuple[int, float | None]]:
    """(step, value) for each value, or the least and the greatest of each stretch where they are many."""
    steps = list(enumerate(values, start=1))
    if len(steps) <= POINTS_AT_MOST:
        return steps
    size = math.ceil(2 * len(steps) / POINTS_AT_MOST)
    kept: list[tuple[int, float | None]] = []
    for start in range(0, len(steps), size):
        stretch = [(step, value) for step, value in steps[start : start + size] if value is not None]
        if stretch:
            ends = {min(stretch, key=lambda at: at[1]), max(stretch, key=lambda at: at[1])}
            kept += sorted(ends)
        else:
            kept.append((steps[start][0], None))
    return kept


def _pieces(points: Sequence[tuple[int, float | None]]) -> Iterator[list[tuple[int, float]]]:
    """The stretches between gaps. A value alone between two gaps is drawn as a stretch of no length."""
    piece: list[tuple[int, float]] = []
    for step, value in [*points, (0, None)]:
        if value is not None:
            piece.append((step, value))
        elif piece:
            yield piece if len(piece) > 1 else piece * 2
            piece = []
