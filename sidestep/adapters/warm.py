"""A new adapter that begins as another one: at the first step, both add the same to the base.

Files hold their scale in many ways: alpha of another size than the rank, by module, by rank's root, or folded
into the weights. So it is what the file computes that is taken over, and the new adapter's own scale is
divided out of lora_B (of LoKR's first factor): how fast it learns is as its own settings say.
"""

import logging
from collections.abc import Collection
from typing import cast

import torch
from torch import nn

from sidestep.acestep.names import decoder_modules
from sidestep.adapters.adapter import Adapter
from sidestep.adapters.dora import Dora, adapted_lengths
from sidestep.adapters.lora import LoraAdapter, lengths, matrices
from sidestep.adapters.updates import LowRank
from sidestep.config.beginning import (
    check_lokr_as_lora,
    check_modules,
    decomposed_as_plain,
    other_ranks,
)
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.words import counted

log = logging.getLogger(__name__)


def begin_from(adapter: Adapter, source: Adapter, place: str, *, resize: bool) -> None:
    """Give `adapter`, which is new, the update of `source`, which was read from `place`.

    Args:
        resize: bring a LoRA to the new one's ranks by singular value decomposition, also make one of a LoKR,
            and let modules that `source` lacks begin as new ones. Otherwise all must be alike.

    Raises BadSpecError where the two do not fit, with what to set, BadDataError where `source` adds nothing.
    """
    is_dora = source.kind == "lora" and adapter.is_decomposed
    if adapter.kind == "lora" and source.is_decomposed and not is_dora:
        raise decomposed_as_plain(place, source.kind)
    there = _effective(source, place)
    every = _every_path(adapter)
    check_modules(place, there, source.layers, list(adapter.layers), every, resize=resize)
    if adapter.kind == "lokr":
        from sidestep.adapters.warm_lokr import begin_from_lokr  # imports LyCORIS

        begin_from_lokr(adapter, source, there, place)
    else:
        _begin_lora(cast(LoraAdapter, adapter), source, there, place, resize=resize)
    log.info(
        "The adapter begins as %s: %s with its update%s",
        *(place, counted(len(there), "modules")),
        f", {len(adapter.layers) - len(there)} as new ones" if len(there) < len(adapter.layers) else "",
    )


def _effective(source: Adapter, place: str) -> list[str]:
    """The paths of `source` with an effect. A published LoRA of the MLP alone has a pair of zeros beside."""
    if source.is_decomposed and not isinstance(source, LoraAdapter):
        return list(source.layers)  # the lengths of its rows count, too
    found = [path for path in source.layers if not is_zero(source, path)]
    if not found:
        raise BadDataError(f"{place} adds nothing to the model: the update of all its modules is zero")
    return found


def is_zero(adapter: Adapter, path: str) -> bool:
    """Whether the layer at `path` adds nothing."""
    if isinstance(adapter, LoraAdapter):
        return adapter.low_rank(path).is_zero and not (adapter.is_decomposed and _has_lengths(adapter, path))
    return not adapter.update(path).any()


def _begin_lora(adapter: LoraAdapter, source: Adapter, there: list[str], place: str, *, resize: bool) -> None:
    ranks = {path: matrices(layer)["lora_A"].shape[0] for path, layer in adapter.layers.items()}
    if isinstance(source, LoraAdapter):
        updates = {path: source.low_rank(path) for path in there}
        theirs = {path: update.rank for path, update in updates.items()}
        others = other_ranks(place, theirs, ranks, resize=resize)
        larger = [path for path in others if updates[path].rank > ranks[path]]
    else:
        check_lokr_as_lora(place, resize=resize)
        updates, larger = {}, there
    kept = []
    for path in larger:
        made = source.resized(path, ranks[path])
        updates[path] = made.update
        kept.append(made.kept or 0.0)
    if kept:
        log.info("%s was resized: %s", place, energy_in_words(kept))
    for path in there:
        _take_over(adapter, path, updates[path])
        if adapter.is_decomposed:
            _take_over_lengths(adapter, path, cast(LoraAdapter, source) if source.is_decomposed else None)


def energy_in_words(kept: Collection[float]) -> str:
    """What resizing has kept of the modules' energy, which is the squared norm of their updates."""
    return (
        f"of {counted(len(kept), 'modules')}, {min(kept):.2%} of the energy is kept in the least, "
        f"{sum(kept) / len(kept):.2%} in the mean"
    )


@torch.no_grad()
def _take_over(adapter: LoraAdapter, path: str, update: LowRank) -> None:
    """Put an update into the layer at `path`.

    Where a row of lora_A would be zero beside a column of lora_B that is zero, neither would ever be trained:
    such a row stays as it was drawn.
    """
    own: dict[str, nn.Parameter] = matrices(adapter.layers[path])
    up, down = (side.to(own["lora_A"].device) for side in update)
    own["lora_B"].zero_()
    own["lora_B"][:, : update.rank] = up / adapter.scale(path)
    used = up.any(dim=0) | down.any(dim=1)
    own["lora_A"][: update.rank][used] = down[used]


def _has_lengths(adapter: LoraAdapter, path: str) -> bool:
    """Whether the lengths of a DoRA's layer are other ones than its base's, as beside a published pair of
    zeros they are not."""
    layer = adapter.layers[path]
    return not torch.allclose(lengths(layer), Dora(layer.get_base_layer()).weight, rtol=1e-5, atol=0)


@torch.no_grad()
def _take_over_lengths(adapter: LoraAdapter, path: str, source: LoraAdapter | None) -> None:
    """The lengths of a DoRA's layer: those of `source`, a DoRA, or else those of base and update together, so
    that it adds what the update does."""
    layer = adapter.layers[path]
    own = matrices(layer)
    if source:
        lengths(layer).copy_(lengths(source.layers[path]))
    else:
        weight = layer.get_base_layer().get_parameter("weight")
        both = adapted_lengths(weight, own["lora_B"], own["lora_A"], adapter.scale(path))
        lengths(layer).copy_(both)


def _every_path(adapter: Adapter) -> list[str]:
    config: dict[str, int] = adapter.transformer.config  # type: ignore[assignment]  # of diffusers
    return decoder_modules(config["num_hidden_layers"])
