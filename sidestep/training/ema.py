"""An exponential moving average of an adapter's weights, beside those that are trained.

Training never sees it: the same run without it has the same weights, to the bit. How much a step leaves of
the average is a function of the step's number, so nothing but the average itself has to be kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sidestep.adapters.adapter import Adapter
from sidestep.config.ema import EmaSpec


@dataclass
class Ema:
    """The average of `adapter`'s parameters, in float32 as they are."""

    adapter: Adapter
    decay: float
    use: bool  # it is what is evaluated and published
    values: dict[str, Tensor]  # by the parameters' names
    is_in_place: bool = False  # then `values` are those that are trained

    @classmethod
    def of(cls, adapter: Adapter, spec: EmaSpec) -> "Ema | None":
        """The average before the first step: the parameters as they are now; None where it is off."""
        if spec.decay is None:
            return None
        values = {name: parameter.detach().clone() for name, parameter in adapter.parameters().items()}
        return cls(adapter, spec.decay, spec.use, values)

    def update(self, step: int) -> None:
        """Take in the parameters after step number `step`, from 1. A skipped step is none to be taken in."""
        assert not self.is_in_place, "the average would be averaged"
        parameters = [parameter.detach() for parameter in self.adapter.parameters().values()]
        update = get_ema_multi_avg_fn(decay_at(step, self.decay))
        update(list(self.values.values()), parameters, step)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the block, the adapter is the average. Memory changes its owner, and no byte changes."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.adapter.parameters().items():
            parameter.data, self.values[name] = self.values[name], parameter.data
        self.is_in_place = not self.is_in_place


def decay_at(step: int, decay: float) -> float:
    """How much of the average step number n leaves: `decay`, but at first no more than (1 + n) / (10 + n).

    So the first steps, which are far from the last ones, do not stay in it.
    """
    return min(decay, (1 + step) / (10 + step))
