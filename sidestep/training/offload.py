"""Activation offload: what autograd keeps for the backward pass waits in the CPU's memory.

Large tensors alone, and no weights. A copy keeps its strides, so that the backward pass runs the same kernels
on the same numbers. A tensor is let go of only when its copy is complete, and what comes back is ordered by
the stream that uses it: both are plain copies, in the step's own stream.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

LEAST = 2**20
"""Bytes from which a tensor is worth a copy there and back."""


class Away(NamedTuple):
    """A tensor that waits elsewhere."""

    content: Any
    device: torch.device


class Offload(torch.autograd.graph.saved_tensors_hooks):
    """Inside, what operations keep for their backward pass waits in the CPU's memory, pinned for a GPU."""

    def __init__(self, model: nn.Module) -> None:
        """`model`'s own weights stay where they are."""
        super().__init__(self._pack, self._unpack)
        self._own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}

    def leave(self, tensor: Tensor) -> Any:
        """A copy of `tensor` elsewhere, complete when this returns."""
        copy = torch.empty_strided(
            tensor.size(), tensor.stride(), dtype=tensor.dtype, pin_memory=tensor.is_cuda
        )
        return copy.copy_(tensor)

    def come_back(self, away: Away) -> Tensor:
        """The tensor, where it was."""
        content: Tensor = away.content
        return content.to(away.device, non_blocking=True)

    def _pack(self, tensor: Tensor) -> Tensor | Away:
        if (
            tensor.nbytes < LEAST
            or tensor.untyped_storage()._cdata in self._own
            or torch.empty_like(tensor, device="meta").stride() != tensor.stride()  # parts of it overlap
        ):
            return tensor.detach()  # an operation that keeps its own output would keep itself alive
        return Away(self.leave(tensor.detach()), tensor.device)

    def _unpack(self, kept: Tensor | Away) -> Tensor:
        return self.come_back(kept) if isinstance(kept, Away) else kept
