"""Sounds of prompts, by the base model and with adapters at several strengths, all from the same noise.

What is made is kept at once: the same command makes what is missing, and nothing twice. The base model is
sampled before any adapter is in it, so that strength 0 is that model itself.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from sidestep import adapters
from sidestep.acestep.layout import (
    SILENCE_FILE,
    Part,
    find_text_encoder,
    find_vae,
    find_variant,
    open_checkpoints,
    pull_part,
)
from sidestep.acestep.loading import load_model, load_null_condition, load_vae, read_silence
from sidestep.acestep.releases import config_of
from sidestep.config.job import JobSpec
from sidestep.config.sampling import sampling_of
from sidestep.data.encode import free_memory
from sidestep.data.keys import PulledModel, pull_model
from sidestep.data.level import loudness
from sidestep.report.listening import FILE as PAGE
from sidestep.report.listening import shows
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.progress import track
from sidestep.runtime.words import counted
from sidestep.runtime.workspace import Workspace
from sidestep.sampling.audio import WRITERS, decode_tiled
from sidestep.sampling.kept import encode_prompts
from sidestep.sampling.pipeline import Sampler
from sidestep.sampling.takes import FILE, Prompt, Samples, Take, begin_samples, file_name
from sidestep.sampling.wish import Kind, Settings, Source, Wish
from sidestep.storage.store import Store
from sidestep.storage.transfer import using_copies
from sidestep.tasks.listening import write_listening_page
from sidestep.training.machine import Machine, choose_machine

log = logging.getLogger(__name__)

TINY = 100_000_000
"""Bytes of a model: those of the released ones are billions."""
IT_IS_TINY = (
    "This is a tiny model with random weights, made to try things out: what you hear is noise. With real "
    "weights the same command makes music."
)


@dataclass(frozen=True)
class _Missing:
    """A take that is to be made: with what, and all that samples.json will say of it."""

    source: Source | None  # None: the base model
    fields: Mapping[str, Any]
    older: str  # the file of the take in whose place it comes; "" where there is none


def sample(spec: JobSpec, wish: Wish, output: Store, workspace: Workspace) -> Samples:
    """Make the takes that are missing in `output`, and return all that are there.

    Raises MissingInputError and BadDataError of the model's parts and the adapters, UsageError where `output`
    holds another model's samples.
    """
    checkpoints = open_checkpoints(spec.checkpoint_dir, spec.storage)
    # All parts are found before any of them is pulled.
    vae, _ = find_vae(checkpoints), find_text_encoder(checkpoints)
    part = find_variant(checkpoints, spec.model_variant)
    is_turbo = bool(config_of(spec, offline=False)["is_turbo"])
    recommended = sampling_of(part.folder, spec.base_model, is_turbo=is_turbo)
    settings = wish.settings(recommended, part.folder)
    pulled = pull_model(checkpoints, spec.model_variant, workspace)
    samples = begin_samples(output, part.folder, pulled.digest)
    missing = _missing(samples, wish, settings)
    if not missing:
        log.info("All of these takes are in %s already: there is nothing to do", output.place)
        if not _has_page(output, samples):
            _write_page(output, samples, part, workspace)
        return samples
    output.write_bytes(FILE, samples.content())  # a place that cannot be written is found out now
    machine = choose_machine(spec.runtime)
    log.info(
        "%s to make: %d steps, guidance %g, shift %g, %g s each",
        *(counted(len(missing), "takes"), settings.steps, settings.guidance, settings.shift, wish.seconds),
    )
    studio = _Studio(spec, checkpoints, workspace, machine, pulled)
    numbers = sorted({take.fields["prompt"] for take in missing})
    asked = {number: samples.prompts[number] for number in numbers}
    encoded = studio.encode(asked, wish.seconds)
    with studio.playing(encoded, vae, part) as player, track("Sampling", len(missing), "takes") as bar:
        for source, takes in groupby(missing, key=lambda take: take.source):
            with player.with_adapter(source) as set_strength:
                for take in takes:
                    set_strength(take.fields["strength"])
                    waveform = player.play(take.fields["prompt"], settings)
                    _keep(output, samples, take, waveform, wish.kind)
                    bar.advance(1)
    _write_page(output, samples, part, workspace)
    return samples


def _has_page(output: Store, samples: Samples) -> bool:
    """Whether the page is there and shows all of them: a call before may have been stopped in between."""
    page = output.read_bytes(PAGE) if output.stat(PAGE) else b""
    return shows(page.decode(errors="replace"), samples)


def _write_page(output: Store, samples: Samples, part: Part, workspace: Workspace) -> None:
    is_tiny = sum(file.size for file in part.files) < TINY
    write_listening_page(output, samples, workspace, IT_IS_TINY if is_tiny else "")
    log.info("Listen: %s/%s", output.place, PAGE)


def _missing(samples: Samples, wish: Wish, settings: Settings) -> list[_Missing]:
    """The takes that are not there, those of one adapter together, the base model's first."""
    numbers = [samples.number_of(prompt) for prompt in wish.prompts]
    missing = []
    for source, strength in wish.ways():
        for number in dict.fromkeys(numbers):
            fields = {
                "prompt": number,
                "strength": strength,
                "checkpoint": source.checkpoint if source else None,
                "adapter": source.digest if source else None,
                "seed": settings.seed,
                "steps": settings.steps,
                "guidance": settings.guidance,
                "shift": settings.shift,
                "seconds": settings.seconds,
            }
            file = file_name(samples.prompts[number], fields, samples.weights, wish.kind)
            there = samples.find(Take(file=file, loudness=0, **fields))
            if there is None or there.adapter != fields["adapter"]:
                missing.append(_Missing(source, {**fields, "file": file}, there.file if there else ""))
    return missing


def _keep(output: Store, samples: Samples, take: _Missing, waveform: Tensor, kind: Kind) -> None:
    """Write the file, then tell of it."""
    output.write_bytes(take.fields["file"], WRITERS[kind](waveform))
    samples.put(Take(loudness=round(loudness(waveform), 2), **take.fields))
    output.write_bytes(FILE, samples.content())
    if take.older and take.older != take.fields["file"]:
        output.delete(take.older)


@dataclass(frozen=True)
class _Studio:
    """Loads each part of the model for as long as it is needed."""

    spec: JobSpec
    checkpoints: Store
    workspace: Workspace
    machine: Machine
    pulled: PulledModel

    def encode(self, prompts: Mapping[int, Prompt], seconds: float) -> "_Encoded":
        """What the decoder attends to, of each prompt, and of none."""
        made = encode_prompts(
            *(list(prompts.values()), seconds, self.checkpoints, self.pulled),
            *(self.machine.device, self.workspace, self.spec.base_model),
        )
        folder = self.pulled.root / self.pulled.folder
        return _Encoded(
            dict(zip(prompts, made, strict=True)),
            read_silence(folder / SILENCE_FILE),
            load_null_condition(self.pulled.root, self.pulled.folder),
        )

    @contextmanager
    def playing(self, encoded: "_Encoded", vae: Part, model: Part) -> Iterator["_Player"]:
        """Decoder and VAE in memory, the one in the machine's precision, the other in fp32."""
        device = self.machine.device
        root = pull_part(self.checkpoints, vae, self.workspace, "Pulling the VAE")
        with using_copies(self.checkpoints, (*vae.files, *model.files), self.workspace):
            loaded_vae = load_vae(root, device, torch.float32)
            decoder = load_model(
                *(self.pulled.root, self.pulled.folder, device, self.machine.dtype),
                parts=("transformer",),
                base_model=self.spec.base_model,
                attention=self.machine.attention,
            )
        sampler = Sampler(decoder.transformer, encoded.silence, encoded.null_condition)
        try:
            yield _Player(encoded, sampler, decoder.transformer, loaded_vae)
        finally:
            del sampler, decoder, loaded_vae
            free_memory()


@dataclass(frozen=True)
class _Encoded:
    conditions: dict[int, Tensor]  # by the prompt's number, each [L, D]
    silence: Tensor
    null_condition: Tensor


@dataclass(frozen=True)
class _Player:
    """Makes takes, one adapter after the other in the same decoder."""

    encoded: _Encoded
    sampler: Sampler
    transformer: Any
    vae: Any

    @contextmanager
    def with_adapter(self, source: Source | None) -> Iterator[Callable[[float], object]]:
        """The adapter is in the decoder while the block runs. Yields what sets its strength."""
        if source is None:
            yield lambda strength: None
            return
        adapter = adapters.load(self.transformer, source.weights)
        try:
            yield adapter.set_strength
        finally:
            adapter.remove()

    def play(self, number: int, settings: Settings) -> Tensor:
        """The waveform of the prompt of that number. Raises BadDataError where it is none."""
        latents = self.sampler.latents(self.encoded.conditions[number], settings)
        if not latents.isfinite().all():
            raise BadDataError(
                "the model computes NaN or infinite latents: another --strength may help, or precision fp32\n"
                "  if the base model does so too, download it again"
            )
        return decode_tiled(self.vae, latents)
