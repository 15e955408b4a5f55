"""Several processes train as one does: the same adapter, the same losses, whatever the count of them."""

from typing import Any

import pytest

from tests.ranks import together
from tests.runs import outcome, train
from tests.songs import MakeSpec

LORA: dict[str, Any] = {"adapter": {"dropout": 0.3}}
LOKR: dict[str, Any] = {"adapter": {"type": "lokr", "dropout": 0.3}}


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("adapter", [LORA, LOKR], ids=["lora", "lokr"])
def test_it_is_one_rank_s_adapter_to_the_bit(make_spec: MakeSpec, adapter: dict[str, Any], count: int) -> None:
    """With dropout and clipping; neither three songs nor steps of two can be divided by all counts."""
    settings = {"max_grad_norm": 0.1, "accumulation": 2, **adapter}
    train(make_spec("alone", **settings))
    assert together(make_spec("together", **settings), count) == [0] * count
    assert outcome(make_spec("together", **settings)) == outcome(make_spec("alone", **settings))
