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

    On a GPU, which waits for each call, the masks of a layer's modules are drawn together, where they were of
    one size in the pass before. A CPU is quicker with one at a time, which stays in its cache.

    Attributes:
        law: 2; or 1, under which a LoRA's masks are torch's and a LoKR has none.
        level: the share that is left out, of `rng.LEVELS`.
    """

    def __init__(self, adapter: Adapter, seed: int, *, by_layer: bool | None = None) -> None:
        """Put a dropout of ours into each module of `adapter`, at the rate of its spec.

        `by_layer` is whether a layer's masks are drawn together; None: as the device is quicker.
        """
        self.law = 2
        self.kind = adapter.kind
        rate = adapter.spec.dropout
        self._seed, self._names = seed, list(adapter.layers) if rate else []
        self.level = min(round(rate * rng.LEVELS), rng.LEVELS - 1)
        self._layers = [_layer(name) for name in self._names]  # of each module
        self._by_layer = by_layer
        self._keys = torch.empty(0)
        self._sizes: dict[int, int] = {}  # module → the elements of its newest mask
        self._drawn: dict[int, Tensor] = {}  # masks that their modules have not come for yet
        dropouts = {name: _Dropout(self, n, rate) for n, name in enumerate(self._names)}
        self._dropouts = list(dropouts.values())
        adapter.set_dropout(dropouts)

    def begin(self, samples: Sequence[int], device: torch.device) -> None:
        """The next passes train `samples`, by their numbers in the run, one in each row of the batch."""
        if self.law == 1:
            (sample,) = samples
            rng.reseed_globals(self._seed, "micro-batch", sample)
            return
        keys = [[rng.key(self._seed, f"dropout/{name}", n) for n in samples] for name in self._names]
        self._keys = torch.tensor(keys, device=device)  # at once: each copy to a GPU waits for it
        self._drawn.clear()
        for dropout, own in zip(self._dropouts, self._keys, strict=True):
            dropout.keys = own

    def dropped(self, module: int, count: int) -> Tensor:
        """Which of its `count` elements the module of that number leaves out of each sample: bool [B, count].

        What is drawn ahead is given out once: a layer that is computed again draws it again.
        """
        found = self._drawn.pop(module, None)
        if found is None or found.shape[-1] != count:
            modules = [module, *self._beside(module)]
            keys = torch.stack([self._keys[each] for each in modules])
            masks = rng.is_dropped(keys.flatten(), count, self.level).unflatten(0, keys.shape)
            self._drawn.update(zip(modules, masks, strict=True))
            found = self._drawn.pop(module)
        self._sizes[module] = count
        return found

    @property
    def scale(self) -> float:
        """By which what is left is scaled up."""
        return rng.LEVELS / (rng.LEVELS - self.level)

    def _beside(self, module: int) -> list[int]:
        """The other modules of its layer whose masks were as large as its own, where these go together."""
        together = self._keys.device.type != "cpu" if self._by_layer is None else self._by_layer
        if not together or module not in self._sizes:
            return []
        size, layer = self._sizes[module], self._layers[module]
        return [
            other
            for other, known in self._sizes.items()
            if known == size and other != module and self._layers[other] == layer
        ]


class _Dropout(nn.Module):
    """Leaves out elements of a sample, and scales up the others so that the mean stays."""

    def __init__(self, masks: Masks, module: int, rate: float) -> None:
        super().__init__()
        self._masks, self._module, self._rate = masks, module, rate
        self.keys = torch.empty(0, dtype=torch.int64)  # [B], of the samples; compiled code takes it as input

    def forward(self, x: Tensor) -> Tensor:
        """`x` is [B, …] with a sample in each row."""
        if self._masks.law == 1:
            return F.dropout(x, self._rate, self.training) if self._masks.kind == "lora" else x
        if not self.training:
            return x
        if torch.compiler.is_compiling():
            dropped: Tensor = _keyed(self.keys, x[0].numel(), self._masks.level)
        else:
            dropped = self._masks.dropped(self._module, x[0].numel())
        return (x * self._masks.scale).masked_fill_(dropped.view_as(x), 0)

    def extra_repr(self) -> str:
        return f"{self._rate}"


@torch.library.custom_op("sidestep::dropped", mutates_args=())
def _keyed(keys: Tensor, count: int, level: int) -> Tensor:
    """`rng.is_dropped` as one operation, which a compiler calls and does not look into.

    So compiled code has no generator, and draws the same bits: also where a layer is computed again.
    """
    return rng.is_dropped(keys, count, level)


@_keyed.register_fake
def _(keys: Tensor, count: int, level: int) -> Tensor:
    return keys.new_empty((keys.shape[0], count), dtype=torch.bool)


def _layer(name: str) -> str:
    """The layer of a module: layers.3 of layers.3.mlp.up_proj."""
    return ".".join(name.split(".")[:2])
