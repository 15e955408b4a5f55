"""For tests that compile: a small decoder, as compiling takes minutes, and no trace of the test before."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sidestep.acestep import tiny


@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing is compiled yet."""
    torch.compiler.reset()
    yield
    torch.compiler.set_stance("default")
    torch.compiler.reset()


@pytest.fixture
def two_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of a decoder with a layer of each kind, as each is compiled."""
    monkeypatch.setitem(tiny.DECODER, "num_hidden_layers", 2)
    tiny.write_tiny_checkpoint(tmp_path / "two-layers", ["base"])
    return tmp_path / "two-layers"
