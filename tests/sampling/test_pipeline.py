"""Latents: what diffusers' own pipeline makes, by adapters of every kind, and nothing left behind."""

import gc
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AceStepPipeline, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from sidestep import adapters
from sidestep.acestep import AceStepModel, load_model, load_text_encoder, load_vae
from sidestep.acestep.conditioning import embed_lyrics, encode_conditions, encode_text
from sidestep.config.adapter import AdapterSpec
from sidestep.data.prompts import caption_prompt, templated_lyrics
from sidestep.sampling.pipeline import Sampler, evaluating, noise_of
from sidestep.sampling.wish import Settings

CAPTION, LYRICS, SECONDS = "glass harp, slow", "[verse]\nrain on the roof", 1.2
Encoded = tuple[AceStepModel, Tensor]


def settings(guidance: float = 1.0, **changes: Any) -> Settings:
    return Settings(
        **{"seed": 5, "steps": 4, "guidance": guidance, "shift": 2.0, "seconds": SECONDS, **changes}
    )


def encoded(golden: Path, variant: str) -> Encoded:
    """A model, and the conditions of the prompt."""
    model, texts = load_model(golden / "checkpoints", variant), text_encoder(golden)
    states = encode_text(texts, caption_prompt(CAPTION, 90, "4", "C major", SECONDS))
    return model, encode_conditions(model, states, embed_lyrics(texts, templated_lyrics(LYRICS, "en")))


def text_encoder(golden: Path) -> Any:
    return load_text_encoder(golden / "checkpoints", "cpu", torch.float32)


def sampler_of(model: AceStepModel) -> Sampler:
    encoder = model.condition_encoder
    return Sampler(model.transformer, encoder.silence_latent, encoder.null_condition_emb)


@pytest.fixture(scope="module")
def base(golden: Path) -> Encoded:
    return encoded(golden, "base")


@pytest.mark.parametrize(("variant", "guidance"), [("base", 7.0), ("turbo", 1.0)])
def test_it_is_what_diffusers_makes_with_the_published_lora(
    variant: str, guidance: float, golden: Path, tmp_path: Path
) -> None:
    """Its whole pipeline, which reads prompt and adapter itself."""
    source = golden / "adapters" / f"acestep-v15-{variant}" / "lora-all"
    model, conditions = encoded(golden, variant)
    adapter = adapters.load(model, source)
    for name, data in adapters.publish(adapter).items():
        (tmp_path / name).write_bytes(data)
    made = sampler_of(model).latents(conditions, settings(guidance))

    theirs, texts = load_model(golden / "checkpoints", variant), text_encoder(golden)
    pipeline = AceStepPipeline(
        load_vae(golden / "checkpoints", "cpu", torch.float32),
        *(texts.model, texts.tokenizer, theirs.transformer, theirs.condition_encoder),
        FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    )
    pipeline.set_progress_bar_config(disable=True)

    def by_theirs() -> Tensor:
        latents: Tensor = pipeline(
            prompt=CAPTION,
            lyrics=LYRICS,
            audio_duration=SECONDS,
            vocal_language="en",
            bpm=90,
            keyscale="C major",
            timesignature="4",
            num_inference_steps=4,
            guidance_scale=guidance,
            shift=2.0,
            generator=torch.Generator().manual_seed(5),
            output_type="latent",
        ).audios[0]
        return latents

    without = by_theirs()
    pipeline.load_lora_weights(tmp_path)
    assert (made - by_theirs()).abs().max() <= 1e-4
    assert (made - without).abs().max() > 1e-2


def euler(model: AceStepModel, conditions: Tensor, steps: int, shift: float, seed: int) -> Tensor:
    """The same without the pipeline: x ← x + (t' − t) · v, from the noise at 1 down to 0."""
    even = [1 - step / steps for step in range(steps + 1)]
    times = [shift * t / (1 + (shift - 1) * t) for t in even]
    x = noise_of(seed, SECONDS)
    silence = model.condition_encoder.silence_latent[:, : x.shape[1]]
    context = torch.cat([silence, torch.ones_like(silence)], dim=2)
    for t, after in pairwise(times):
        now = torch.tensor([t])
        with torch.no_grad():
            velocity = model.transformer(
                hidden_states=x,
                timestep=now,
                timestep_r=now,
                encoder_hidden_states=conditions[None],
                context_latents=context,
                return_dict=False,
            )[0]
        x = x + (after - t) * velocity
    return x[0]


@pytest.mark.parametrize(
    ("variant", "kind"),
    [("base", "lokr"), ("turbo", "lokr-both"), ("xl-base", "lora-all"), ("xl-base", "lokr-dora")],
)
def test_it_is_a_direct_loop_over_our_own_modules(variant: str, kind: str, golden: Path) -> None:
    model, conditions = encoded(golden, variant)
    bare = sampler_of(model).latents(conditions, settings())
    adapters.load(model, golden / "adapters" / f"acestep-v15-{variant}" / kind)
    made = sampler_of(model).latents(conditions, settings())
    assert (made - euler(model, conditions, 4, 2.0, 5)).abs().max() <= 1e-4
    assert (made - bare).abs().max() > 1e-3


def dropping(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Dropout) and module.p]


def test_each_module_is_back_in_its_own_mode(golden: Path) -> None:
    """Of a model that trains with dropout, one module of which does not; also after a failure."""
    model, conditions = encoded(golden, "base")
    adapter = adapters.inject(model.transformer, AdapterSpec(rank=4, dropout=0.1), seed=1)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.add_(0.1)
    model.transformer.train()
    kept = dropping(model.transformer)[0].eval()
    modes = [module.training for module in model.transformer.modules()]
    sampler, before = sampler_of(model), torch.get_rng_state()
    first, second = (sampler.latents(conditions, settings()) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, sampler.latents(conditions, settings(seed=6)))
    assert [module.training for module in model.transformer.modules()] == modes

    def fail() -> None:
        assert not model.transformer.training
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        sampler.latents(conditions, settings(), fail)
    assert [module.training for module in model.transformer.modules()] == modes
    assert True in modes and not kept.training
    with evaluating(model.transformer):
        model.transformer.eval()
    assert [module.training for module in model.transformer.modules()] == modes


def test_nothing_stays_in_memory(base: Encoded, golden: Path) -> None:
    """There are as many tensors after each take as after the first one, whichever adapter it had."""
    model, conditions = base
    sampler, counts = sampler_of(model), []
    for name in ("lokr", "lora-all", "lokr-dora"):
        adapter = adapters.load(model, golden / "adapters" / "acestep-v15-base" / name)
        sampler.latents(conditions, settings(7.0, steps=1))
        adapter.remove()
        del adapter
        gc.collect()
        kinds = Counter(map(type, gc.get_objects()))
        counts.append(sum(count for kind, count in kinds.items() if issubclass(kind, Tensor)))
    assert max(counts) == counts[0]


def test_half_precision_runs(golden: Path, base: Encoded) -> None:
    full, conditions = base
    model = load_model(golden / "checkpoints", "base", dtype=torch.bfloat16, parts=("transformer",))
    adapters.load(model, golden / "adapters" / "acestep-v15-base" / "lokr")
    encoder = full.condition_encoder
    sampler = Sampler(model.transformer, encoder.silence_latent, encoder.null_condition_emb)
    made = sampler.latents(conditions, settings(7.0))
    assert made.dtype == torch.float32 and made.isfinite().all()
