"""Block swap: frozen layers of the decoder stay in the CPU's memory, and are on the device while at work.

What a layer holds is brought before its forward pass, before its recomputation and before its backward pass,
and given up when the next of the swapped layers is brought. Nothing is ever copied back, as it is frozen; the
adapter's tensors stay on the device. On CUDA the next layer is copied on a stream of its own meanwhile, from
pinned memory. So two layers at most are there at a time, and no number changes.

Tensors keep their storages, which are emptied and filled again: views of a weight that autograd has kept for
the backward pass see what is brought later. What fills them are bytes, which no tensor's version counts.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from rich.filesize import decimal
from torch import Tensor, nn

from sidestep.runtime.words import out_of

log = logging.getLogger(__name__)


def swapped_layers(count: int, swapped: int) -> list[int]:
    """Which of `count` layers are swapped, if so many are to be: evenly spread, so that each is on its way
    while others compute."""
    swapped = min(swapped, count)
    return [count * number // swapped for number in range(swapped)]


def swap_layers(transformer: nn.Module, swapped: int, device: torch.device) -> "Swap":
    """Let so many layers of `transformer` be on `device` only while they work, and move the rest there."""
    layers = cast(nn.ModuleList, transformer.get_submodule("layers"))
    chosen = [layers[index] for index in swapped_layers(len(layers), swapped)]
    waiting = {id(tensor) for layer in chosen for tensor in frozen_tensors(layer)}
    for tensor in _tensors(transformer):
        if id(tensor) not in waiting:
            tensor.data = tensor.data.to(device)
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    swap = Swap([Held.of(layer, device) for layer in chosen], stream)
    for index, layer in enumerate(chosen):
        swap.attach(index, layer)
    size = sum(held.size for held in swap.held)
    said = out_of(len(chosen), len(layers), "layers")
    log.info("Block swap: %s wait in the CPU's memory (%s)", said, decimal(size))
    return swap


def frozen_tensors(layer: nn.Module) -> Iterator[Tensor]:
    """What is brought and given up: all that no gradient is asked for."""
    yield from (tensor for tensor in _tensors(layer) if not tensor.requires_grad)


def content_of(tensor: Tensor) -> Tensor:
    """What a frozen tensor holds, wherever it is at the moment: of a swapped layer, the copy on the CPU."""
    found: Tensor = getattr(tensor, "content", tensor)
    return found


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    return (*module.parameters(), *module.buffers())


@dataclass
class Held:
    """A layer's frozen tensors: their bytes in the CPU's memory, and their storages on the device."""

    content: list[Tensor]  # uint8, on the CPU
    storages: list[torch.UntypedStorage]
    is_here: bool = False
    arrival: Any = None  # the event after which what was copied on another stream may be used

    @classmethod
    def of(cls, layer: nn.Module, device: torch.device) -> "Held":
        held = cls([], [])
        for tensor in frozen_tensors(layer):
            kept = tensor.data.to("cpu").contiguous()
            kept = kept.pin_memory() if device.type == "cuda" else kept.clone()
            tensor.data = torch.empty_like(kept, device=device)
            tensor.content = kept  # type: ignore[attr-defined]  # see `content_of`
            held.content.append(kept.reshape(-1).view(torch.uint8))
            held.storages.append(tensor.untyped_storage())
        held.give_up()
        return held

    @property
    def size(self) -> int:
        return sum(content.nbytes for content in self.content)

    def bring(self, stream: Any = None) -> None:
        """Fill the storages, on another stream where one is given: see `wait` then."""
        if self.is_here:
            return
        for content, storage in zip(self.content, self.storages, strict=True):
            storage.resize_(content.nbytes)  # by this stream's allocator, which alone uses and frees it
        if stream is None:
            self._copy()
        else:
            stream.wait_stream(torch.cuda.current_stream(stream.device))  # who had this memory before is done
            with torch.cuda.stream(stream):
                self._copy()
                self.arrival = torch.cuda.Event()
                self.arrival.record(stream)
        self.is_here = True

    def wait(self) -> None:
        """Let the stream at work wait for what is on its way."""
        if self.arrival is not None:
            torch.cuda.current_stream(self.storages[0].device).wait_event(self.arrival)
            self.arrival = None

    def give_up(self) -> None:
        """Free the device's memory: for what this stream asks for later, as all before it has been used."""
        self.wait()
        for storage in self.storages:
            storage.resize_(0)
        self.is_here = False

    def _copy(self) -> None:
        for content, storage in zip(self.content, self.storages, strict=True):
            target = torch.empty(0, dtype=torch.uint8, device=storage.device)
            target.set_(storage).copy_(content, non_blocking=True)


@dataclass
class Swap:
    """Which of the swapped layers are on the device. `held` is in the order of the forward pass."""

    held: list[Held]
    stream: Any = None  # that copies ahead; None: none, as on a CPU
    brought: int = field(default=0)  # so often, to be tested

    def attach(self, index: int, layer: nn.Module) -> None:
        """Bring the layer of `index` whenever it is to work."""

        def before(_layer: nn.Module, _inputs: Any) -> None:
            self.bring(index, ahead=index - 1 if _is_backward() else index + 1)

        def after(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(lambda gradient: self.bring(index, ahead=index - 1))

        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(after)

    def bring(self, index: int, ahead: int) -> None:
        """Have the layer of `index` on the device, that of `ahead` on its way, and no other."""
        following = ahead if self.stream is not None and 0 <= ahead < len(self.held) else None
        for other, held in enumerate(self.held):
            if held.is_here and other not in (index, following):
                held.give_up()
        self.brought += not self.held[index].is_here
        self.held[index].bring()
        self.held[index].wait()
        if following is not None:
            self.held[following].bring(self.stream)


def _is_backward() -> bool:
    """Whether this is a backward pass, in which a layer's forward pass is a recomputation."""
    return bool(torch._C._current_graph_task_id() != -1)
