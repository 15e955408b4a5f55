"""Block swap: which layers wait, what is on the device meanwhile, and what is copied ahead."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from sidestep import adapters
from sidestep.acestep import load_model
from sidestep.acestep.quantized import weight_of
from sidestep.acestep.recompute import recompute_layers
from sidestep.acestep.swap import Held, Swap, frozen_tensors, swap_layers, swapped_layers
from sidestep.config.adapter import AdapterSpec

CPU = torch.device("cpu")


def test_swapped_layers_are_spread() -> None:
    assert swapped_layers(24, 0) == []
    assert swapped_layers(24, 8) == [*range(0, 24, 3)]
    assert swapped_layers(4, 3) == [0, 1, 2]
    assert swapped_layers(4, 9) == [0, 1, 2, 3]


def here(layer: nn.Module) -> bool:
    sizes = {tensor.untyped_storage().nbytes() for tensor in frozen_tensors(layer)}
    assert sizes == {0} or 0 not in sizes
    return sizes != {0}


@pytest.mark.parametrize("recomputed", [0, 1])
def test_only_the_one_at_work_is_there(tiny_checkpoints: Path, recomputed: float) -> None:
    """Without a stream that copies ahead: in the forward pass, in the backward pass, and after them."""
    transformer = load_model(tiny_checkpoints, "base", parts=("transformer",), swapped=4).transformer
    wanted = weight_of(transformer.layers[2].mlp.up_proj).clone()
    adapters.inject(transformer, AdapterSpec(rank=2, alpha=2, dropout=0), seed=0)
    recompute_layers(transformer, recomputed)
    swap = swap_layers(transformer, 4, CPU)
    assert not any(here(layer) for layer in transformer.layers)
    seen: list[list[int]] = []

    def look(*_: Any) -> None:
        seen.append([index for index, layer in enumerate(transformer.layers) if here(layer)])

    for layer in transformer.layers:
        layer.mlp.down_proj.register_forward_hook(look)
    widths = {"hidden_states": 64, "context_latents": 128, "encoder_hidden_states": 64}
    inputs = {name: torch.ones(1, 8, width) for name, width in widths.items()}
    time = torch.tensor([0.5])
    output: Tensor = transformer(**inputs, timestep=time, timestep_r=time, return_dict=False)[0]
    assert seen == [[0], [1], [2], [3]]
    output.sum().backward()
    assert seen[4:] == ([[3], [2], [1], [0]] if recomputed else [])
    assert swap.brought == 4 + 3  # the last of a pass is the first of the next
    assert not here(transformer.layers[2])
    assert torch.equal(weight_of(cast(nn.Linear, transformer.layers[2].mlp.up_proj)), wanted)


class Noted(Held):
    """Notes what is asked of it."""

    log: list[str]

    def bring(self, stream: Any = None) -> None:
        if not self.is_here:
            self.log.append(f"{'ahead' if stream else 'bring'} {self.content}")
        self.is_here = True

    def wait(self) -> None:
        self.log.append(f"wait {self.content}")

    def give_up(self) -> None:
        self.log.append(f"give up {self.content}")
        self.is_here = False


def test_the_next_one_is_copied_while_one_works() -> None:
    """Two at a time at most, in both directions, and none beyond the ends."""
    log: list[str] = []
    held = []
    for number in range(3):
        held.append(Noted(number, []))  # type: ignore[arg-type]  # a name is all that is asked for
        held[-1].log = log
    swap = Swap([*held], stream="another")
    for index in (0, 1, 2):
        swap.bring(index, ahead=index + 1)
        assert sum(each.is_here for each in held) <= 2
    assert log[:5] == ["bring 0", "wait 0", "ahead 1", "give up 0", "wait 1"]
    log.clear()
    for index in (2, 1, 0):
        swap.bring(index, ahead=index - 1)
        assert sum(each.is_here for each in held) <= 2
    assert log == [
        *("wait 2", "ahead 1"),
        *("give up 2", "wait 1", "ahead 0"),
        *("give up 1", "wait 0"),
    ]
