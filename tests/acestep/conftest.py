"""The recorded values of the original model, and how closely they must be met."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sidestep.acestep import AceStepModel, load_model

VARIANTS = ("base", "turbo", "xl-base")


@pytest.fixture(scope="session")
def expected(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "expected.safetensors")


@pytest.fixture(scope="session", params=VARIANTS)
def golden_model(golden: Path, request: pytest.FixtureRequest) -> AceStepModel:
    return load_model(golden / "checkpoints", request.param)


@pytest.fixture(scope="session")
def recorded(golden_model: AceStepModel, expected: dict[str, Tensor]) -> Callable[[str], Tensor]:
    """A recorded tensor of the variant under test, by its name without the variant."""
    return lambda name: expected[f"{golden_model.variant}/{name}"]


@pytest.fixture(scope="session")
def assert_golden() -> Callable[[Tensor, Tensor], None]:
    """Within 1e-5 of the recorded values, relative to their largest (the golden set's README)."""

    def check(found: Tensor, wanted: Tensor) -> None:
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * max(1.0, float(wanted.abs().max())))

    return check
