"""The cheapest changes that make a job fit a GPU's memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sidestep.config.job import JobSpec
from sidestep.config.optimizers import OPTIMIZERS


@dataclass(frozen=True)
class Change:
    """Another value for some settings, by their dotted names, and what it costs."""

    settings: dict[str, Any]
    price: str

    def apply(self, spec: JobSpec) -> JobSpec:
        return spec.changed(self.settings)


def changes_to_fit(
    spec: JobSpec, longest: float, memory: Callable[[JobSpec], float], limit: float
) -> tuple[list[Change] | None, float]:
    """The changes after which `memory` of the spec is within `limit`, and what it is then, both in bytes.

    They are tried from the cheapest on until the job fits; then those that it fits without are taken back,
    from the dearest on. None where all together do not suffice. `longest` is the longest song in seconds.
    """
    ladder = list(_ladder(spec, longest))
    chosen: list[Change] = []
    while (needed := memory(_changed(spec, chosen))) > limit:
        if len(chosen) == len(ladder):
            return None, needed
        chosen.append(ladder[len(chosen)])
    for change in reversed(chosen[:-1]):
        without = [other for other in chosen if other is not change]
        if (then := memory(_changed(spec, without))) <= limit:
            chosen, needed = without, then
    return chosen, needed


def _changed(spec: JobSpec, changes: list[Change]) -> JobSpec:
    for change in changes:
        spec = change.apply(spec)
    return spec


def _ladder(spec: JobSpec, longest: float) -> Iterator[Change]:
    """What `spec` leaves to change, the cheapest first: time, then precision, then what is learnt."""
    train = spec.train
    settings: dict[str, Any]
    if not train.gradient_checkpointing or train.gradient_checkpointing_ratio < 1:
        settings = {"train.gradient_checkpointing": True, "train.gradient_checkpointing_ratio": 1.0}
        yield Change(settings, "the same numbers, 10 to 30 % slower")
    if spec.runtime.precision == "fp32":
        yield Change({"runtime.precision": "bf16"}, "the usual precision of training, and faster")
    optimizer = OPTIMIZERS[train.optimizer_type]
    if optimizer.lighter:
        lighter = OPTIMIZERS[optimizer.lighter]
        settings = {"train.optimizer_type": optimizer.lighter}
        if lighter.lr != optimizer.lr:
            settings |= {"train.lr": lighter.lr, "train.scheduler": lighter.scheduler}
        yield Change(settings, optimizer.price)
    for seconds in (120.0, 60.0, 30.0):
        if seconds < min(longest, train.chunk_duration or longest):
            yield Change({"train.chunk_duration": seconds}, f"each step sees {seconds:g} s of a song")
    for rank in (64, 32, 16, 8):
        if rank < train.adapter.rank:
            alpha = train.adapter.alpha * rank / train.adapter.rank
            settings = {"train.adapter.rank": rank, "train.adapter.alpha": alpha}
            yield Change(settings, "a smaller adapter, which learns less detail")
