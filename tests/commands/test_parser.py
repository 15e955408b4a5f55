"""Numbers on the command line: the bounds hold, and what is wrong with one is said."""

import argparse

import pytest

from sidestep.commands.parser import numbers


def test_numbers_within_the_bounds_are_read_in_their_order() -> None:
    assert numbers(-10, 10)("10,-10,0.5") == [10.0, -10.0, 0.5]


@pytest.mark.parametrize("text", ["", "0,", "0,loud", "nan", "1,10.1", "-0.1,1", "1e400"])
def test_others_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"numbers from 0 to 10 are allowed, as in 0,0\.5,1"):
        numbers(0, 10)(text)
