"""A training step of ours beside upstream Side-Step's own.    UPSTREAM=… ORIGINAL=… make bench

`UPSTREAM` is a checkout of https://github.com/koda-dernet/Side-Step, and `ORIGINAL` a folder with the
original model's `modeling_acestep_v15_base.py` and what it imports. It is others' code and is run, so it has
to be put there by hand; without it, there are no such rows. Weights, song and first loss are the same.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from sidestep.acestep.names import original_name
from sidestep.training.flow import Batch, flow_loss
from tests.bench import rivals
from tests.bench.rivals import HEAD_WIDTH, HEADS, LAYERS, PADDED, RATE, REPEATS, SHORT, WIDTH, WINDOW, Side
from tests.bench.rows import Row

FOLDERS = ("UPSTREAM", "ORIGINAL")


def is_there() -> bool:
    """Whether somebody has put it there."""
    return all(os.environ.get(name) for name in FOLDERS)


def rows(device: torch.device) -> Iterator[Row]:
    """What a step takes, with and without recomputing."""
    sys.path[:0] = [os.environ[name] for name in FOLDERS]
    for seconds, repeats in REPEATS.items():
        for tokens, recompute in ((SHORT, False), (PADDED, False), (SHORT, True)):
            sides = {"upstream": upstream(device, recompute), "ours": rivals.ours(device, recompute)}
            batches = dict(zip(sides, rivals.songs(seconds, tokens, device), strict=True))
            check_same(sides, batches["ours"])
            theirs, own = rivals.in_turn(sides, batches, repeats).values()
            yield Row.of(
                f"{seconds} s, {PADDED} / {tokens} tokens{', recompute' if recompute else ''}", own, theirs
            )


def upstream(device: torch.device, recompute: bool) -> Side:
    """As upstream has it: its training step, its LoRA, its gradient checkpointing."""
    sys.modules.setdefault("vector_quantize_pytorch", _quantizer())
    from modeling_acestep_v15_base import (  # type: ignore[import-not-found]
        AceStepConfig,
        AceStepDiTModel,
    )
    from sidestep_engine.core.configs import LoRAConfigV2  # type: ignore[import-not-found]
    from sidestep_engine.core.lora_module import FixedLoRAModule  # type: ignore[import-not-found]
    from sidestep_engine.core.trainer_helpers import (  # type: ignore[import-not-found]
        configure_memory_features,
        force_disable_decoder_cache,
    )

    config = AceStepConfig(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        head_dim=HEAD_WIDTH,
        sliding_window=WINDOW,
    )
    config._attn_implementation = "sdpa"
    decoder = AceStepDiTModel(config)
    weights = rivals.decoder(device).state_dict()
    decoder.load_state_dict({original_name(name): value for name, value in weights.items()})
    model: Any = nn.Module()
    model.config, model.decoder = config, decoder
    model.null_condition_emb = nn.Parameter(torch.zeros(1, 1, WIDTH), requires_grad=False)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    lora = LoRAConfigV2(r=64, alpha=128, dropout=RATE, target_modules=targets, target_mlp=False)
    training = SimpleNamespace(
        adapter_type="lora",
        timestep_mu=-0.4,
        timestep_sigma=1.0,
        data_proportion=0.5,
        cfg_ratio=0.15,
        loss_weighting="none",
        snr_gamma=5.0,
    )
    module = FixedLoRAModule(model.to(device), lora, training, device, torch.float32)
    force_disable_decoder_cache(module.model.decoder)
    if recompute:
        module.force_input_grads_for_checkpointing = configure_memory_features(module.model.decoder)[0]
    return Side(module, torch.manual_seed, deterministic=False, loss=_loss)


def check_same(sides: dict[str, Side], song: Batch) -> None:
    """With the noise that upstream draws, and its t, the first loss is the same without dropout."""
    module: Any = sides["upstream"].model.eval()
    drawn = torch.full_like(song.timesteps, 0.5)
    module._cfg_ratio, module._adaptive_sampler = (
        0.0,
        SimpleNamespace(sample=lambda **_: (drawn, drawn), update=lambda *_: None),
    )
    with torch.no_grad():
        torch.manual_seed(1)
        theirs = float(_loss(module, song))
        torch.manual_seed(1)
        noise = torch.randn_like(song.latents)
        own = float(flow_loss(sides["ours"].model.eval(), replace(song, timesteps=drawn, noise=noise)))
    assert abs(theirs - own) < 1e-5 * own, (theirs, own)
    module._cfg_ratio, module._adaptive_sampler = 0.15, None
    for side in sides.values():
        side.model.train()


def _loss(module: Any, batch: Batch) -> Tensor:
    """Noise and t are drawn by the step itself."""
    ones = torch.ones
    loss: Tensor = module.training_step(
        {
            "target_latents": batch.latents,
            "attention_mask": ones(batch.latents.shape[:2], device=batch.latents.device),
            "encoder_hidden_states": batch.conditions,
            "encoder_attention_mask": ones(batch.conditions.shape[:2], device=batch.latents.device),
            "context_latents": batch.context,
        }
    )
    return loss


def _quantizer() -> ModuleType:
    """Which the decoder has no use for, and its file imports."""
    module = ModuleType("vector_quantize_pytorch")
    module.ResidualFSQ = object  # type: ignore[attr-defined]
    return module
