"""What estimate and train share: the decoder on this machine, the songs, and the timestep law."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rich.filesize import decimal
from torch import Tensor

from sidestep.acestep.config import read_config
from sidestep.acestep.layout import Part, find_variant, is_silence
from sidestep.acestep.loading import AceStepModel, load_model, load_null_condition, read_silence
from sidestep.acestep.shapes import decoder_bytes
from sidestep.acestep.vae import LATENTS_PER_SECOND
from sidestep.config.job import JobSpec
from sidestep.config.judging import ValidationSpec
from sidestep.config.memory import Quantization, chosen_quantization
from sidestep.config.training import Alternate
from sidestep.data.checked import Checked, read_checked
from sidestep.data.index import Share
from sidestep.data.keys import PulledModel, pull_model
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.shares import shares_of
from sidestep.data.sides import Sides, split
from sidestep.data.tensors import Sample
from sidestep.data.weights import check_content
from sidestep.lifecycle.job import Job
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.words import out_of, some
from sidestep.runtime.workspace import Workspace
from sidestep.storage.store import Store
from sidestep.storage.transfer import pull, using_copies
from sidestep.training.dataset import Chosen, Samples
from sidestep.training.flow import SamplingConfig
from sidestep.training.machine import Machine
from sidestep.training.numbers import Numbers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSetup:
    """What is trained or estimated on."""

    machine: Machine
    samples: Samples
    learned: dict[str, Checked]  # of tensors of which nothing was known: a later attempt need not read them
    model: AceStepModel  # the decoder alone, frozen, on the machine's device
    null_condition: Tensor  # [1, 1, D]
    silence: Tensor  # the model's latents of it, [1, 15000, 64]
    shares: list[Share]  # how much of an epoch each song is
    sides: Sides | None  # which songs are held out; None: none is
    quantize: Quantization  # how the decoder's layers are held
    weights: str  # digest of the files of the model's folder; and @ the commit, of a repository

    @property
    def trained(self) -> Sequence[Sample]:
        """The samples that are not held out."""
        if self.sides is None:
            return self.samples
        held_out = self.sides.are_held_out(self.samples.songs)
        return Chosen(self.samples, [number for number, is_out in enumerate(held_out) if not is_out])


def prepare_setup(
    job: Job,
    dataset: Preprocessed,
    machine: Machine,
    before: Numbers | None = None,
    alternates: Collection[Alternate] = (),
    sides: Sides | None = None,
    before_loading: Callable[[Sides | None, PulledModel], object] = lambda sides, pulled: None,
    quantize: Quantization | Literal["auto"] = "none",
    swapped: int = 0,
) -> TrainingSetup:
    """Pull the tensors of `dataset` and the variant's weights and load the decoder onto `machine`.

    `before` is the run to go on with, which keeps to the tensors that it was begun with; `alternates` are the
    prompts that samples are drawn from, beside each song's own. `sides` are those that a new run takes over,
    as its adapter was trained with them: what it was not trained on stays out, also where validation is off.
    `before_loading` is called while nothing is in the machine's memory yet. The decoder's layers are held as
    `quantize` says, and so many of them as `swapped` says in the CPU's memory: see `acestep.swap`.

    Raises MissingInputError for what is not there, BadDataError for what is damaged or does not fit together,
    BadSpecError for other tensors than those that the run was begun with, or without these prompts.
    """
    store, workspace, variant = job.checkpoints, job.workspace, job.spec.model_variant
    part = find_variant(store, variant)
    dataset.log_left_out()
    silence = _silence(store, part, workspace)
    validation, frozen = job.spec.train.validation, before.sides if before else sides
    known = validation.is_on or frozen is not None
    sound = read_checked(job.tensors, job.output_store)
    samples = Samples.pull(dataset, workspace, before, silence, alternates, known=known, sound=sound)
    sides = split(samples.songs, validation, frozen) if known else None
    if sides:
        _log_held_out(samples, sides, validation)
    shares = shares_of(dataset.index, samples.names, job.spec.train)
    device, dtype = machine.device, machine.dtype
    pulled = pull_model(store, variant, workspace)
    for warning in check_content(job.spec, store, workspace, part, dataset.index):
        log.warning("%s", warning)
    before_loading(sides, pulled)
    with using_copies(store, part.files, workspace):
        quantize = _quantization(quantize, job, pulled, machine)
        model = load_model(
            *(pulled.root, pulled.folder, device, dtype),
            parts=("transformer",),
            base_model=job.spec.base_model,
            attention=machine.attention,
            quantize=quantize,
            swapped=swapped,
        )
        null_condition = load_null_condition(pulled.root, pulled.folder)
    log.info("Loaded only the decoder of %s: no encoder is in memory during training", model.variant)
    _check_fit(samples, model)
    weights = f"{pulled.digest}@{store.commit}" if store.commit else pulled.digest
    learned = {digest: file for digest, file in samples.checked.items() if sound.get(digest) != file}
    return TrainingSetup(
        machine, samples, learned, model, null_condition, silence, shares, sides, quantize, weights
    )


def _quantization(
    wish: Quantization | Literal["auto"], job: Job, pulled: PulledModel, machine: Machine
) -> Quantization:
    """What `train.quantize` is on this machine, where it is auto."""
    if wish == "auto":
        config = read_config(pulled.root / pulled.folder, job.spec.base_model)
        sizes = decoder_bytes(config, machine.dtype.itemsize)
        quantize = chosen_quantization(sizes, machine.memory)
        on = f"of a GPU's {machine.memory / 1e9:.0f} GB" if machine.memory else "on a CPU"
        log.info("Quantization: %s (weights of %s, %s)", quantize, decimal(sizes[quantize]), on)
        return quantize
    if wish != "none":
        because = "as the run began" if job.spec.train.quantize == "auto" else "as the spec says"
        log.info("Quantization: %s (%s)", wish, because)
    return wish


def _log_held_out(samples: Samples, sides: Sides, validation: ValidationSpec) -> None:
    is_out = sides.are_held_out(samples.songs)
    names = [song.name for song, out in zip(samples.songs, is_out, strict=True) if out]
    said = out_of(len(names), len(samples), "songs")
    if validation.is_on:
        log.info("Held out, and not trained on: %s (%s)", said, some(names))
    elif names:
        log.info(
            "Not trained on, as they were held out before: %s (%s). Nothing is measured on them: "
            "validation is off",
            *(said, some(names)),
        )


def _silence(store: Store, part: Part, workspace: Workspace) -> Tensor:
    """The model's latents of silence [1, 15000, 64]: of its folder, this file alone is pulled."""
    (file,) = (file for file in part.files if is_silence(file.path))
    return read_silence(pull(store, [file], workspace, "Pulling the silence") / file.path)


def sampling_config(spec: JobSpec, config: dict[str, Any], dtype: torch.dtype) -> SamplingConfig:
    """How `spec` draws samples; timestep parameters that it leaves out are the checkpoint's.

    `dtype` is what the machine computes in.
    """
    mu, sigma = spec.train.timestep_mu, spec.train.timestep_sigma
    seconds = spec.train.chunk_duration
    return SamplingConfig(
        mode=spec.train.mode,
        mu=config["timestep_mu"] if mu is None else mu,
        sigma=config["timestep_sigma"] if sigma is None else sigma,
        cfg_dropout=spec.train.cfg_dropout,
        caption_dropout=spec.train.caption_dropout,
        genre_share=spec.train.genre_share,
        seed=spec.train.seed,
        chunk_frames=round(seconds * LATENTS_PER_SECOND) if seconds else None,
        chunks_cover=spec.train.chunks == "cover",
        timestep_dtype=dtype,
    )


def _check_fit(samples: Samples, model: AceStepModel) -> None:
    """Refuse tensors that were made for a model of another width, before any step is taken."""
    expected = model.transformer.condition_embedder.in_features
    if samples.width != expected:
        raise BadDataError(
            f"the tensors in {samples.place} have conditions {samples.width} wide, not {model.variant}'s "
            f"{expected}\n"
            f"  preprocess the songs with model_variant {model.variant}"
        )
