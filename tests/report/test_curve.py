"""`loss.png`: a picture, and the same bytes for the same numbers."""

from math import inf

from sidestep.report.curve import loss_curve


def test_it_is_a_picture_of_its_numbers_alone() -> None:
    first, same, other = (
        loss_curve(losses, {0: 3.5, 3: 1.0}, "x") for losses in ([3, inf, 1], [3, inf, 1], [3, 2, 1])
    )
    assert first.startswith(b"\x89PNG") and first == same != other
