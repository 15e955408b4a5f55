"""The charts: round ticks, gaps, and few points for many steps."""

import pytest

from sidestep.report.charts import HEIGHT, POINTS_AT_MOST, WIDTH, Line, chart, thinned, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (1.9, 3.6, [1.5, 2, 2.5, 3, 3.5, 4]),
        (0, 1e-4, [0, 2e-5, 4e-5, 6e-5, 8e-5, 1e-4]),
        (-3, 7, [-4, -2, 0, 2, 4, 6, 8]),
    ],
)
def test_ticks_are_round_and_span_all(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 5.0, -2.0])
def test_a_constant_curve_has_an_axis(value: float) -> None:
    found = chart("", [Line("raw", "", [value, value])])
    assert found
    assert len(found.y_ticks) >= 2 or found.lines
    assert all(0 <= float(y) <= HEIGHT for _, pieces in found.lines for y in _ys(pieces))


def test_ticks_of_few_steps_are_whole() -> None:
    assert ticks(1, 3, whole=True) == [1, 2, 3]


def test_of_many_values_the_extremes_stay() -> None:
    values: list[float | None] = [float(number % 50) for number in range(20_000)]
    values[12_345] = 1000.0
    values[777] = -7.0
    kept = thinned(values)
    assert len(kept) <= POINTS_AT_MOST + 2
    assert (12_346, 1000.0) in kept
    assert (778, -7.0) in kept
    assert [step for step, _ in kept] == sorted(step for step, _ in kept)


def test_a_gap_splits_the_line_and_a_lonely_value_is_drawn() -> None:
    found = chart("", [Line("raw", "", [1, 2, None, 3, None, None, 4, 5])], {0: 1.5, 8: None})
    assert found
    ((_, pieces),) = found.lines
    assert [len(piece.split()) for piece in pieces] == [2, 2, 2]
    assert len(set(pieces[1].split())) == 1
    assert [label for _, _, label in found.dots] == ["step 0: 1.5"]


def test_all_is_inside_the_picture() -> None:
    found = chart("", [Line("raw", "", [3.55, 2.2, 1.93])], {0: 3.6, 3: 1.9})
    assert found
    ((_, pieces),) = found.lines
    points = [tuple(map(float, point.split(","))) for point in pieces[0].split()]
    assert points == sorted(points)
    assert [y for _, y in points] == sorted(y for _, y in points)  # a falling loss: downwards in the picture
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y, *_ in points)


def test_one_step_and_none() -> None:
    assert chart("", [Line("raw", "", [1.0])]) is not None
    assert chart("", [Line("raw", "", [None])]) is None
    assert chart("", [], {}) is None


def _ys(pieces: list[str]) -> list[str]:
    return [point.split(",")[1] for piece in pieces for point in piece.split()]


def test_where_everything_is_in_the_picture() -> None:
    """720 × 300, with margins of 58, 12, 12 and 34: so the plot is 650 × 254."""
    drawn = chart("Loss", [Line("raw", "each step", [1.0, None, 3.0, 2.0])], {0: 4.0, 2: None, 4: 1.0})
    assert drawn
    assert (drawn.width, drawn.height) == (720, 300)
    assert drawn.plot == {"left": 58, "right": 708, "top": 12, "bottom": 266}
    ((line, pieces),) = drawn.lines
    assert line.name == "raw"
    assert pieces == ["220.5,266.0 220.5,266.0", "545.5,96.7 708.0,181.3"]
    assert drawn.dots == [(58.0, 12.0, "step 0: 4"), (708.0, 266.0, "step 4: 1")]
    steps = {"0": 58.0, "1": 220.5, "2": 383.0, "3": 545.5, "4": 708.0}
    assert {tick.label: tick.at for tick in drawn.x_ticks} == steps
    assert {tick.label: tick.at for tick in drawn.y_ticks} == {"1": 266.0, "2": 181.3, "3": 96.7, "4": 12.0}


def test_without_a_value_at_step_0_the_first_step_is_at_the_edge() -> None:
    drawn = chart("Loss", [Line("raw", "each step", [2.0, 1.0])])
    assert drawn and drawn.lines[0][1] == ["58.0,12.0 708.0,266.0"]
    assert [tick.label for tick in drawn.x_ticks] == ["1", "2"]


def test_a_curve_through_single_values_begins_at_step_0() -> None:
    found = chart("", [Line("held", "", {10: 2.0, 0: 3.0, 20: None, 30: 1.0}), Line("raw", "", [1.0] * 15)])
    assert found
    (_, held), (_, raw) = found.lines
    assert [len(piece.split()) for piece in held] == [2, 2]  # what is missing is a gap, too
    xs = [float(point.split(",")[0]) for piece in held for point in piece.split()]
    assert xs == sorted(xs) and xs[0] == found.plot["left"] and xs[-1] == found.plot["right"]
    assert raw[0].split()[-1].split(",")[0] == str(round((xs[0] + xs[-1]) / 2, 1))
