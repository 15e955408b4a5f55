"""What sounds while training take: `train.sample`. Their memory comes in the place of a step's activations.

The decoder makes latents as it is trained, but for what a backward pass would need. Then the VAE's decoder,
which waits in the machine's own memory meanwhile, comes to the GPU and makes audio of them, in fp32 and in
tiles. One forward pass of either is traced, without content, as a step of training is.
"""

import json
import threading
from dataclasses import dataclass
from functools import lru_cache

import torch
from diffusers import AutoencoderOobleck
from torch._subclasses.fake_tensor import FakeTensorMode

from sidestep.acestep.attention import WindowedAttnProcessor
from sidestep.acestep.loading import build_transformer
from sidestep.acestep.releases import Configs
from sidestep.acestep.vae import LATENT_CHANNELS, build_vae
from sidestep.acestep.weights import load_exactly
from sidestep.config.job import JobSpec
from sidestep.config.sampling import sampling_of
from sidestep.planning.figures import Figure, gigabytes
from sidestep.planning.memory import CONTEXT, memory_of
from sidestep.planning.meter import Meter
from sidestep.planning.phase import Parts, Phase
from sidestep.planning.songs import Songs
from sidestep.runtime.words import counted
from sidestep.sampling.wish import settings_of
from sidestep.training.machine import Machine
from sidestep.training.schedule import Schedule

SOUNDS = "sounds"
"""With which the names of their phases begin."""

DEFAULT_PROMPTS = 3 + 1
"""Of songs that are trained on, and the trigger word; those of held-out songs come on top."""

BYTES_PER_SECOND = 112_500 + 192_000
"""Of a sound in the output: as music is usually stored as FLAC, and as WAV in TensorBoard's files."""


@dataclass(frozen=True)
class Sounds:
    """What a run makes to be heard."""

    prompts: int
    count: int  # of sounds
    seconds: float  # of each
    guided: int  # passes at once: two with guidance
    steps: int
    frames: int  # latents of each


def sounds_of(spec: JobSpec, configs: Configs, songs: Songs, schedule: Schedule) -> Sounds | None:
    """None where no sounds are made."""
    asked = spec.train.sample
    if asked.every_epochs is None:
        return None
    held_out = len(songs.seconds) - len(songs.trained.seconds)
    prompts = len(asked.prompts) or DEFAULT_PROMPTS + min(held_out, 8)
    is_turbo = bool(configs.model["is_turbo"])
    settings = settings_of(spec, sampling_of(spec.model_variant, spec.base_model, is_turbo=is_turbo))
    times = sum(schedule.is_validated(step, asked.every_epochs) for step in range(schedule.total_steps + 1))
    return Sounds(
        prompts=prompts,
        count=prompts * times,
        seconds=asked.seconds,
        guided=1 if settings.guidance == 1 else 2,
        steps=settings.steps,
        frames=songs.frames(asked.seconds, None),
    )


def sound_phases(spec: JobSpec, configs: Configs, songs: Songs, sounds: Sounds) -> list[Phase]:
    """Latents and audio, whose memory is beside all that the training keeps from step to step."""
    vae = _trace_vae(_text(configs.vae), min(sounds.frames, TILE))
    own = "bf16" if spec.runtime.precision == "auto" else spec.runtime.precision

    def kept(precision: str) -> Parts:
        parts = memory_of(spec, configs.model, precision, sounds.frames, songs.tokens).parts()
        own_to_a_step = ("activations", "attention", "context")
        return {name: size for name, size in parts.items() if name not in own_to_a_step}

    def latents(precision: str) -> Parts:
        peak = _trace_pass(_text(configs.model), precision, sounds.frames, songs.tokens, sounds.guided).peak
        return {**kept(precision), "activations": peak, "context": CONTEXT}

    def audio(_: str) -> Parts:
        return {**kept(own), "VAE": vae.weights, "activations": vae.peak, "context": CONTEXT}

    one = memory_of(spec, configs.model, own, sounds.frames, songs.tokens).trace.forward * sounds.guided
    tiles = sounds.frames / min(sounds.frames, TILE - 2 * OVERLAP)
    return [
        Phase(f"{SOUNDS}, latents", spec.runtime.precision, latents, one * sounds.steps * sounds.count),
        Phase(f"{SOUNDS}, audio", "fp32", audio, vae.flops * tiles * sounds.count),
    ]


def sound_figures(configs: Configs, sounds: Sounds, share: float) -> dict[str, Figure]:
    """`share` is that of the sounds in the work of training and sounds together."""
    size = sounds.count * sounds.seconds * BYTES_PER_SECOND
    each = f"{sounds.count} of {sounds.seconds:g} s ({counted(sounds.prompts, 'prompts')})"
    waits = _trace_vae(_text(configs.vae), min(sounds.frames, TILE)).weights
    return {
        "sounds": Figure(sounds.count, f"{each}, {share:.1%} of the work", "computed"),
        "their files": Figure(size, f"{gigabytes(size)} in the output", "assumed"),
        "their VAE": Figure(waits, f"{gigabytes(waits)} of the machine's own memory", "computed"),
    }


TILE, OVERLAP = 512, 64
"""Latents that diffusers' VAE decodes at once, and those of them on each side that are context."""


@dataclass(frozen=True)
class _Pass:
    weights: int  # bytes
    peak: int  # the most bytes beside them
    flops: int


@lru_cache(maxsize=16)
def _trace_vae(config: str, frames: int) -> _Pass:
    with torch.device("meta"):
        vae: AutoencoderOobleck = build_vae(json.loads(config))
        del vae.encoder
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        vae.to_empty(device="cpu").eval()
        tile = torch.empty(1, LATENT_CHANNELS, frames)
        meter = Meter([*vae.parameters(), *vae.buffers(), tile], threading.Event())
        with meter:
            vae.decode(tile)
    weights = sum(parameter.nbytes for parameter in vae.parameters())
    return _Pass(weights, max(meter.peaks.values()), meter.flops.total())


@lru_cache(maxsize=64)
def _trace_pass(config: str, precision: str, frames: int, tokens: int, samples: int) -> _Pass:
    """Of two layers, one of each kind: where nothing is kept, more of them take no more memory."""
    dtype = Machine(torch.device("cpu"), precision).dtype
    with torch.device("meta"):
        transformer = build_transformer(json.loads(config))
        load_exactly(transformer, transformer.state_dict().items(), "meta", dtype, "the config")
        transformer.set_attn_processor(WindowedAttnProcessor())
        transformer.layers = transformer.layers[:2]
    width = transformer.condition_embedder.in_features
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        transformer.to_empty(device="cpu").eval()
        given = {
            "hidden_states": torch.empty(samples, frames, LATENT_CHANNELS, dtype=dtype),
            "timestep": torch.empty(samples, dtype=dtype),
            "timestep_r": torch.empty(samples, dtype=dtype),
            "encoder_hidden_states": torch.empty(samples, tokens, width, dtype=dtype),
            "context_latents": torch.empty(samples, frames, 2 * LATENT_CHANNELS, dtype=dtype),
        }
        meter = Meter([*transformer.parameters(), *transformer.buffers()], threading.Event())
        with meter:
            transformer(**given, return_dict=False)
    weights = sum(parameter.nbytes for parameter in transformer.parameters())
    return _Pass(weights, max(meter.peaks.values()), meter.flops.total())


def _text(config: object) -> str:
    assert config, "asked for where sounds are made"
    return json.dumps(config, sort_keys=True)
