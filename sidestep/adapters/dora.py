"""DoRA: a LoRA that trains the length of each row of the weight apart from its direction.

    W' = m / ‖W + ΔW‖ · (W + ΔW), row by row, with ΔW = alpha / rank · B·A and lengths m [out], at first ‖W‖

As in the paper (arXiv 2402.09353, section 4.3) and in PEFT, ‖W + ΔW‖ is a constant to the gradient. Dropout
is on the LoRA's input alone, as without weight decomposition:

    y = m / ‖W + ΔW‖ · (W·x + alpha / rank · B·A·dropout(x))

PEFT's is on the input of (m / ‖W + ΔW‖ − 1) · W as well, which has the same mean and takes a second product
with W. Without dropout both are the same.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from sidestep.acestep.quantized import weight_of

KEY = "lora_magnitude_vector"
"""What PEFT's files call the lengths m."""
COMFYUI_KEY = "dora_scale"
"""ComfyUI's, [out, 1]. It divides by ‖W‖ where PEFT divides by ‖W + ΔW‖: see `comfyui_lengths`."""


class Dora(nn.Module):
    """The lengths of one layer, and how PEFT's layer computes with them: one of its "variants"."""

    def __init__(self, base: nn.Linear) -> None:
        """The lengths of `base`'s own rows, in float32."""
        super().__init__()
        self.weight = nn.Parameter(_lengths(weight_of(base).detach().float()))
        self.strength = 1.0

    def forward(
        self, layer: LoraLinear, *, active_adapter: str, x: Tensor, result: Tensor, **_: Any
    ) -> Tensor:
        """What the layer makes of `x`, where its base makes `result` of it. PEFT calls this."""
        if self.strength == 0:
            return result
        base = layer.get_base_layer()
        bias = base.get_parameter("bias") if base.bias is not None else None
        down, up = layer.lora_A[active_adapter], layer.lora_B[active_adapter]
        scale = layer.scaling[active_adapter]
        weight = base.weight
        gain = self.weight / adapted_lengths(weight, up.weight, down.weight, scale)
        update = up(down(layer.lora_dropout[active_adapter](x))) * scale
        adapted: Tensor = (result + update) * gain if bias is None else (result - bias + update) * gain + bias
        return adapted if self.strength == 1 else result + self.strength * (adapted - result)


@torch.no_grad()
def adapted_lengths(weight: Tensor, up: Tensor, down: Tensor, scale: float) -> Tensor:
    """‖W + scale · B·A‖ of each row, [out], in float32 whatever the precision of training."""
    with torch.autocast(weight.device.type, enabled=False):
        return _lengths(weight.float() + scale * (up.float() @ down.float()))


@torch.no_grad()
def comfyui_lengths(lengths: Tensor, weight: Tensor, up: Tensor, down: Tensor, scale: float) -> Tensor:
    """`lengths` [out] as ComfyUI wants them, [out, 1], on the CPU.

    Its W' is d / ‖W‖ · (W + ΔW), with the lengths of the base's rows. So for the same W',
    d = m · ‖W‖ / ‖W + ΔW‖. This is right for one base and one ΔW alone, as a file has them.
    """
    lengths, up, down = (part.to(weight.device) for part in (lengths, up, down))
    own = _lengths(weight.float())
    return (lengths.float() * own / adapted_lengths(weight, up, down, scale))[:, None].cpu()


def _lengths(weight: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(weight, dim=1)
    return lengths
