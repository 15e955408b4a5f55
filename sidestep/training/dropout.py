"""The adapter's dropout: a mask depends on the seed, the sample and the module's name, and on nothing else.

So a sample is trained the same whatever else is in its micro-batch, on whichever rank, and where a layer is
computed again. PEFT's and LyCORIS's own is one mask for the whole micro-batch from torch's global generator:
that was law 1, to which runs that were begun under it keep.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidestep.adapters import Adapter
from sidestep.training import rng


class Masks:
    """Those of one adapter. `begin` says which samples the next forward passes are for.

    Attributes:
        law: 2; or 1, under which a LoRA's masks are torch's and a LoKR has none.
    """

    def __init__(self, adapter: Adapter, seed: int) -> None:
        """Put a dropout of ours into each module of `adapter`, at the rate of its spec."""
        self.law = 2
        self.kind = adapter.kind
        rate = adapter.spec.dropout
        self._seed, self._names = seed, list(adapter.layers) if rate else []
        self._keys = torch.empty(0)
        adapter.set_dropout({name: _Dropout(self, n, rate) for n, name in enumerate(self._names)})

    def begin(self, samples: Sequence[int], device: torch.device) -> None:
        """The next passes train `samples`, by their numbers in the run, one in each row of the batch."""
        if self.law == 1:
            (sample,) = samples
            rng.reseed_globals(self._seed, "micro-batch", sample)
            return
        keys = [[rng.key(self._seed, f"dropout/{name}", n) for n in samples] for name in self._names]
        self._keys = torch.tensor(keys, device=device)  # at once: each copy to a GPU waits for it

    def keys(self, module: int) -> Tensor:
        """Of each sample, [B], for the module of that number."""
        return self._keys[module]


class _Dropout(nn.Module):
    """Leaves out elements of a sample, and scales up the others so that the mean stays."""

    def __init__(self, masks: Masks, module: int, rate: float) -> None:
        super().__init__()
        self._masks, self._module, self._rate = masks, module, rate
        self._level = min(round(rate * rng.LEVELS), rng.LEVELS - 1)

    def forward(self, x: Tensor) -> Tensor:
        """`x` is [B, …] with a sample in each row."""
        if self._masks.law == 1:
            return F.dropout(x, self._rate, self.training) if self._masks.kind == "lora" else x
        if not self.training:
            return x
        dropped = rng.is_dropped(self._masks.keys(self._module), x[0].numel(), self._level)
        return x.masked_fill(dropped.view_as(x), 0) * (rng.LEVELS / (rng.LEVELS - self._level))

    def extra_repr(self) -> str:
        return f"{self._rate}"
