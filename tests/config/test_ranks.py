"""Ranks by how much a dataset moves each module."""

import random
from math import sqrt

import pytest

from sidestep.config.ranks import ranks_by_norm

Shapes = dict[str, tuple[int, int]]
ALIKE: Shapes = dict.fromkeys("abcd", (512, 512))


def parameters(ranks: dict[str, int], shapes: Shapes) -> int:
    return sum(rank * sum(shapes[name]) for name, rank in ranks.items())


@pytest.mark.parametrize(
    ("norms", "rank", "ranks"),
    [
        ([1, 1, 1, 1], 64, [64, 64, 64, 64]),
        ([3, 1, 2, 2], 64, [96, 32, 64, 64]),  # in proportion
        ([1, 3, 2, 2], 64, [32, 96, 64, 64]),  # whoever has them
        ([100, 1, 1, 1], 64, [208, 16, 16, 16]),  # no less than a quarter
        ([0, 0, 0, 1], 16, [4, 4, 4, 52]),
        ([3, 1, 2, 2], 4, [6, 2, 4, 4]),  # small ones are no multiples of four
        ([1, 1, 1, 1], 1, [1, 1, 1, 1]),
    ],
)
def test_they_are_in_proportion(norms: list[float], rank: int, ranks: list[int]) -> None:
    assert list(ranks_by_norm(dict(zip("abcd", norms, strict=True)), ALIKE, rank).values()) == ranks


def test_no_more_than_four_times_the_rank_and_no_more_than_the_weight_has() -> None:
    shapes = {**{f"{n:02}": (512, 512) for n in range(30)}, "small": (24, 512)}
    norms = dict.fromkeys(shapes, 0.001) | {"00": 10**6, "small": 10**6}
    ranks = ranks_by_norm(norms, shapes, 16)
    assert ranks["00"] == 64 and ranks["small"] == 24


def test_weights_of_other_shapes_are_compared_by_their_elements() -> None:
    """Each element's gradient is as large: so is each module's rank."""
    shapes = {"q": (512, 512), "k": (128, 512)}
    norms = {name: sqrt(out * into) for name, (out, into) in shapes.items()}
    assert ranks_by_norm(norms, shapes, 32) == {"q": 32, "k": 32}


def test_all_together_they_have_the_parameters_of_the_common_rank() -> None:
    draw = random.Random(3)
    for _ in range(50):
        rank = draw.choice([1, 4, 8, 15, 16, 48, 64, 100, 128])
        shapes = {f"{n}": (draw.choice([512, 1024, 2048]), 2048) for n in range(draw.randint(2, 40))}
        norms = {name: draw.lognormvariate(0, 1) for name in shapes}
        ranks = ranks_by_norm(norms, shapes, rank)
        unit = 4 if rank >= 16 else 1
        most, used = parameters(dict.fromkeys(shapes, rank), shapes), parameters(ranks, shapes)
        below = most - used
        open_ones = [name for name in shapes if ranks[name] + unit <= 4 * rank]
        assert below >= 0
        assert not open_ones or below < unit * min(sum(shapes[name]) for name in open_ones)
        assert all(value % unit == 0 and value >= min(unit, rank) for value in ranks.values())
        backwards = dict(reversed(list(norms.items())))
        assert ranks_by_norm(backwards, shapes, rank) == ranks
