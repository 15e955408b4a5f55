"""Norms in one kernel: diffusers' numbers and types, in every mix of precisions."""

from pathlib import Path

import pytest
import torch
from diffusers.models.normalization import RMSNorm

from sidestep.acestep import load_model
from sidestep.acestep.norms import FusedRMSNorm, fuse_norms


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inputs", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocasts", [False, True])
def test_fused_norms_are_diffusers(inputs: torch.dtype, weights: torch.dtype, autocasts: bool) -> None:
    """Output, type and gradient; to the bit where nothing is rounded to a half precision."""
    generator = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(2, 50, 64, generator=generator)).to(inputs).requires_grad_()
    direction = torch.randn(2, 50, 64, generator=generator)
    norm = RMSNorm(64, eps=1e-6)
    norm.weight.data.copy_(torch.rand(64, generator=generator))
    norm = norm.to(weights).requires_grad_(False)
    found = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocasts):
            output = norm(x)
        (gradient,) = torch.autograd.grad(output, x, direction.to(output.dtype))
        found.append((output.detach(), gradient))
        fuse_norms(norm)
    assert isinstance(norm, FusedRMSNorm)
    is_full = inputs == weights == torch.float32
    for plain, fused in zip(*found, strict=True):
        assert plain.dtype == fused.dtype
        error = torch.linalg.vector_norm(fused.float() - plain.float()) / torch.linalg.vector_norm(
            plain.float()
        )
        assert float(error) <= (0 if is_full else 5e-3)


def test_every_norm_of_a_decoder_is_fused(tiny_checkpoints: Path) -> None:
    """Seven a layer, and the last one."""
    transformer = load_model(tiny_checkpoints, "base", parts=("transformer",)).transformer
    names = list(transformer.state_dict())
    fuse_norms(transformer)
    fused = [module for module in transformer.modules() if isinstance(module, FusedRMSNorm)]
    assert len(fused) == 7 * len(transformer.layers) + 1 and list(transformer.state_dict()) == names
