"""Adapters made of others: a LoRA of another rank, a weighted sum, and a model's weights with them added."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from sidestep.acestep.rewrite import rewrite
from sidestep.adapters.adapter import Adapter
from sidestep.adapters.lora import LoraAdapter, of_updates
from sidestep.adapters.targets import linear_modules
from sidestep.adapters.updates import LowRank, Resized, resized, weighted_sum
from sidestep.adapters.warm import energy_in_words
from sidestep.runtime.errors import BadDataError, UsageError
from sidestep.runtime.words import counted, some

log = logging.getLogger(__name__)

DECODER = "decoder."


class Part(NamedTuple):
    """An adapter, how strongly it counts, and its place for messages."""

    adapter: Adapter
    weight: float
    place: str
    digest: str = ""


def resized_lora(adapter: Adapter, rank: int, transformer: nn.Module, place: str) -> LoraAdapter:
    """The nearest LoRA of `rank` to `adapter`, put into the bare `transformer`; says what it keeps.

    Raises UsageError where it has none: weight_decompose is no sum, and a LoRA is on linear layers alone.
    """
    if adapter.is_decomposed:
        raise UsageError(f"{place} has weight_decompose, so that its effect is no plain LoRA's")
    if others := sorted(adapter.layers.keys() - linear_modules(transformer).keys()):
        raise UsageError(f"{place} adapts {some(others)}, which is no linear layer: a LoRA cannot")
    if not isinstance(adapter, LoraAdapter):
        log.info("%s is a LoKR: what is written is the nearest LoRA", place)
    made = {path: adapter.resized(path, rank) for path in adapter.layers}
    _log_kept(made, rank)
    return of_updates(transformer, {path: each.update for path, each in made.items()}, adapter.spec.dropout)


def _log_kept(made: Mapping[str, Resized], rank: int) -> None:
    kept = [each.kept for each in made.values() if each.kept is not None]
    if kept:
        log.info("At rank %d, %s", rank, energy_in_words(kept))
    if zero := len(made) - len(kept):
        log.info("%s add nothing, and stay so", counted(zero, "modules"))
    if smaller := [path for path, each in made.items() if each.update.rank < rank]:
        log.info("No larger rank fits %s: %s", counted(len(smaller), "modules"), some(smaller))


def summed_lora(parts: Sequence[Part], transformer: nn.Module, rank: int | None = None) -> LoraAdapter:
    """The LoRA of Σ weight · update, put into the bare `transformer`. Those of weight 0 play no part.

    Its rank is the sum of theirs, or `rank`, by singular value decomposition.

    Raises UsageError where a part is no LoRA, or nothing is left.
    """
    if no_lora := [part.place for part in parts if not isinstance(part.adapter, LoraAdapter)]:
        raise UsageError(
            f"{some(no_lora)}: a sum of LoKRs is no LoKR\n"
            "  merge into a model with --into, or make LoRAs of them first, with `sidestep resize`"
        )
    if no_sum := [part.place for part in parts if part.adapter.is_decomposed]:
        raise UsageError(_no_sum(some(no_sum)))
    updates: dict[str, list[tuple[float, LowRank]]] = {}
    for adapter, weight, _, _ in parts:
        for path in adapter.layers if weight else ():
            updates.setdefault(path, []).append((weight, adapter.low_rank(path)))  # type: ignore[attr-defined]
    if not updates:
        raise UsageError("--weights are all 0: nothing is left of these adapters")
    sums = {path: _sum(own) for path, own in sorted(updates.items())}
    if rank is not None:
        made = {path: resized(update, rank) for path, update in sums.items()}
        _log_kept(made, rank)
        sums = {path: each.update for path, each in made.items()}
    return of_updates(transformer, sums)


def _sum(updates: list[tuple[float, LowRank]]) -> LowRank:
    """Of zero updates, such as a published LoRA has beside its own, one is enough."""
    return weighted_sum([each for each in updates if not each[1].is_zero] or updates[:1])


def _no_sum(place: str) -> str:
    return (
        f"{place} has weight_decompose, so that its effect is no sum: it can only be merged --into a model, "
        "alone and with weight 1"
    )


def check_linear(parts: Sequence[Part]) -> None:
    """Raise UsageError where a part with weight_decompose is not alone, or not at its full strength."""
    for part in parts:
        if part.adapter.is_decomposed and (len(parts) > 1 or part.weight != 1):
            raise UsageError(_no_sum(part.place))


def merge_weights(files: Iterable[tuple[Path, Path]], parts: Sequence[Part]) -> int:
    """Copy a model's safetensors, each from one path to another, with the parts added.

    What is added is added up in float32 and rounded once, to the kind that the file has. All else of a file
    stays as it is, byte for byte. One weight is in memory at a time. Returns how many were changed.

    Raises BadDataError where the model lacks a module that a part adapts.
    """
    names = {f"{DECODER}{path}.weight": path for part in parts for path in part.adapter.layers}

    def adapted(name: str, weight: Tensor) -> Tensor:
        path = names[name]
        for adapter, strength, place, _ in parts:
            if path not in adapter.layers:
                continue
            if adapter.is_decomposed:
                return adapter.adapted(path, weight)
            update = adapter.update(path)
            if update.shape != weight.shape:
                raise BadDataError(
                    f"{place}: {path} is {list(update.shape)}, the weight {list(weight.shape)}"
                )
            weight = weight + strength * update
        return weight

    changed: set[str] = set()
    for source, target in files:
        changed |= rewrite(source, target, names, adapted)
    if missing := sorted(names.keys() - changed):
        raise BadDataError(
            f"the model has no {some(missing)}, which an adapter is for: it is of another model"
        )
    return len(changed)
