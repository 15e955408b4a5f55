"""The decoder's RMS norms, seven a layer, each in one kernel where diffusers' take six, and more backward."""

import torch
import torch.nn.functional as F
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn


class FusedRMSNorm(RMSNorm):  # type: ignore[misc]  # diffusers is not typed
    """diffusers' norm with the same weight and the same types, and other last bits on a GPU."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[…, width] → […, width], in the weight's type where that is a half precision."""
        weight = self.weight
        with torch.autocast(hidden_states.device.type, enabled=False):  # it would make it fp32
            normed = F.rms_norm(hidden_states, self.dim, weight.to(hidden_states.dtype), self.eps)
        is_half = weight.dtype in (torch.float16, torch.bfloat16)
        return normed.to(weight.dtype if is_half else torch.promote_types(normed.dtype, weight.dtype))


def fuse_norms(transformer: nn.Module) -> None:
    """Let each of the transformer's norms, all of which have weights and no bias, be one kernel."""
    for module in transformer.modules():
        if type(module) is RMSNorm:
            assert module.weight is not None and module.bias is None
            module.__class__ = FusedRMSNorm  # type: ignore[unreachable]
