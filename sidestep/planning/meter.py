"""Counts what a model holds in memory and computes, by the layer at work, on tensors without content."""

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_CPU_SDPA = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_CPU_SDPA_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

_FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    # torch's table has all of CUDA's attention kernels, and of the CPU's none.
    _CPU_SDPA: lambda query, key, value, *_, **__: sdpa_flop_count(query.shape, key.shape, value.shape),
    _CPU_SDPA_BACKWARD: lambda gradient, query, key, value, *_, **__: sdpa_backward_flop_count(
        gradient.shape, query.shape, key.shape, value.shape
    ),
}


class Meter(TorchDispatchMode):
    """Counts FLOPs and the bytes of live storages by the layer that is at work. Gradients are left out."""

    def __init__(self, ignored: Iterable[Tensor], interrupted: threading.Event) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._interrupted = interrupted
        self.layer = -1  # what comes before the first
        self.flops: Counter[int] = Counter()
        self.held: Counter[int] = Counter()
        self.kept: Counter[int] = Counter()
        self.peaks: Counter[int] = Counter()
        self._known: dict[int, Any] = {tensor.untyped_storage()._cdata: None for tensor in ignored}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._interrupted.is_set():
            raise KeyboardInterrupt
        result = func(*args, **(kwargs or {}))
        if count := _FLOPS.get(func._overloadpacket):
            self.flops[self.layer] += count(*args, **(kwargs or {}), out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor)
        return result

    @contextmanager
    def watch(self, layers: Iterable[nn.Module], numbers: Iterable[int], head: int) -> Iterator[None]:
        """Notice which of `layers` is at work: in a forward pass inside the block, and in its backward pass.

        A layer's backward pass begins with the gradient of its output, and ends where the next one's begins.
        """

        def enter(number: int) -> Callable[..., None]:
            def at_work(*_: Any) -> None:
                self.layer = number

            return at_work

        def leave(number: int) -> Callable[..., None]:
            def watch_gradient(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
                self.layer = head  # until the next one begins
                if output.requires_grad:
                    output.register_hook(enter(number))

            return watch_gradient

        hooks = []
        for layer, number in zip(layers, numbers, strict=True):
            hooks += [
                layer.register_forward_pre_hook(enter(number)),
                layer.register_forward_hook(leave(number)),
            ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def leave_out(self, parameter: nn.Parameter) -> None:
        """Count a finished gradient no more: it stays, and is counted with the adapter."""
        assert parameter.grad is not None
        self._forget(parameter.grad.untyped_storage()._cdata)

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            alive = weakref.ref(storage, lambda _: self._forget(key))
            self._known[key] = (alive, self.layer, storage.nbytes())
            self.held[self.layer] += storage.nbytes()
            self.peaks[self.layer] = max(self.peaks[self.layer], self.held.total())

    def _forget(self, key: int) -> None:
        if known := self._known.pop(key, None):
            _, layer, size = known
            self.held[layer] -= size
