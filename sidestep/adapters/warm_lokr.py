"""A new LoKR that begins as another one, factor by factor: `warm` says what for.

No other factorization can be reached: a Kronecker product of other sizes is far from it.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from sidestep.adapters.adapter import Adapter
from sidestep.adapters.lokr import LokrAdapter
from sidestep.config.beginning import lora_as_lokr, misfit
from sidestep.runtime.words import as_typed

SETTINGS = {"rank": "linear_dim", "factor": "factor"} | {
    name: name for name in ("decompose_both", "weight_decompose")
}
"""Settings of a LoKR that its tensors' shapes follow from, and how lokr_config calls them."""


def begin_from_lokr(adapter: Adapter, source: Adapter, there: list[str], place: str) -> None:
    """Copy the factors of `source` at the paths `there`. Raises BadSpecError where they are other ones."""
    if not isinstance(source, LokrAdapter):
        raise lora_as_lokr(place)
    own = cast(LokrAdapter, adapter)
    theirs = {path: _state(source, path) for path in there}
    others = [path for path in there if _shapes(theirs[path]) != _shapes(_state(own, path))]
    if others:
        raise misfit(
            place, f"{others[0]} is factorized otherwise: {_sizes(theirs[others[0]])}", _to_set(source, own)
        )
    for path in there:
        _take_over(own, path, theirs[path], float(source.layers[path].scale))


def _state(adapter: LokrAdapter, path: str) -> dict[str, Tensor]:
    """The tensors of a module, its trained scalar in the first factor."""
    state: dict[str, Tensor] = adapter.layers[path].state_dict()
    return {name: tensor for name, tensor in state.items() if name != "alpha"}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _sizes(state: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in sorted(state.items()))


def _to_set(source: LokrAdapter, own: LokrAdapter) -> str:
    """What makes the run's LoKR the file's, or why nothing does."""
    differing = {
        name: theirs
        for name, key in SETTINGS.items()
        if (theirs := getattr(source.config, key)) != getattr(own.config, key)
    }
    if not differing:
        return "no setting makes a LoKR of these sizes: begin without train.init_from"
    said = ", ".join(f"train.adapter.{name} to {as_typed(value)}" for name, value in differing.items())
    return f"set {said}: --resize makes no other factorization of a LoKR"


@torch.no_grad()
def _take_over(adapter: LokrAdapter, path: str, state: Mapping[str, Tensor], scale: float) -> None:
    """Fill the layer at `path` with a file's tensors, which it scales by `scale`."""
    layer = adapter.layers[path]
    first = "lokr_w1" if "lokr_w1" in state else "lokr_w1_a"
    for name, parameter in layer.named_parameters():
        if name == "scalar":
            parameter.fill_(1)
        elif name == first:
            parameter.copy_(state[name] * (scale / float(layer.scale)))
        else:
            parameter.copy_(state[name])
