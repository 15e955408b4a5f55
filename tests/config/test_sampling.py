"""What each variant generates with."""

import pytest

from sidestep.acestep.layout import ALIASES
from sidestep.config.sampling import SAMPLING, sampling_of


def test_every_released_model_has_a_row_with_a_source() -> None:
    assert SAMPLING.keys() == ALIASES.keys()
    assert all(row.source for row in SAMPLING.values())


@pytest.mark.parametrize(
    ("variant", "base_model", "is_turbo", "steps", "guidance", "shift"),
    [
        ("turbo", None, True, 8, 1, 3),
        ("acestep-v15-xl-sft", None, False, 50, 7, 1),
        ("my-finetune", "turbo", False, 8, 1, 3),
        ("my-finetune", None, True, 8, 1, 3),
        ("my-turbo-killer", "xl-base", False, 50, 7, 1),
    ],
)
def test_what_a_variant_generates_with(
    variant: str, base_model: str | None, is_turbo: bool, steps: int, guidance: float, shift: float
) -> None:
    found = sampling_of(variant, base_model, is_turbo=is_turbo)
    assert (found.steps, found.guidance, found.shift) == (steps, guidance, shift)
