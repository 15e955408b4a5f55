"""What estimate and train share: the decoder on this machine, the songs, and the timestep law."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sidestep.acestep.loading import AceStepModel, load_model, load_null_condition
from sidestep.acestep.vae import LATENTS_PER_SECOND
from sidestep.config.job import JobSpec
from sidestep.data.keys import pull_model
from sidestep.lifecycle.job import Job
from sidestep.runtime.errors import BadDataError
from sidestep.training.dataset import Samples
from sidestep.training.flow import SamplingConfig
from sidestep.training.machine import Machine
from sidestep.training.numbers import Numbers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSetup:
    """What is trained or estimated on."""

    machine: Machine
    samples: Samples
    model: AceStepModel  # the decoder alone, frozen, on the machine's device
    null_condition: Tensor  # [1, 1, D]
    weights: str  # digest of the files of the model's folder


def prepare_setup(job: Job, machine: Machine, before: Numbers | None = None) -> TrainingSetup:
    """Pull the tensors and the variant's weights and load the decoder onto `machine`.

    `before` is the run to go on with, which keeps to the tensors that it was begun with.

    Raises MissingInputError for what is not there, BadDataError for what is damaged or does not fit together,
    BadSpecError for other tensors than those that the run was begun with.
    """
    samples = Samples.pull(job.tensors, job.workspace, before)
    device, dtype = machine.device, machine.dtype
    pulled = pull_model(job.checkpoints, job.spec.model_variant, job.workspace)
    model = load_model(
        *(pulled.root, pulled.folder, device, dtype),
        parts=("transformer",),
        base_model=job.spec.base_model,
        attention=machine.attention,
    )
    log.info("Loaded the decoder of %s alone: no encoder is in memory while it is trained", model.variant)
    _check_fit(samples, model)
    null_condition = load_null_condition(pulled.root, pulled.folder)
    return TrainingSetup(machine, samples, model, null_condition, pulled.digest)


def sampling_config(spec: JobSpec, config: dict[str, Any], dtype: torch.dtype) -> SamplingConfig:
    """How `spec` draws micro-batches; timestep parameters that it leaves out are the checkpoint's.

    `dtype` is what the machine computes in.
    """
    mu, sigma = spec.train.timestep_mu, spec.train.timestep_sigma
    seconds = spec.train.chunk_duration
    return SamplingConfig(
        mode=spec.train.mode,
        mu=config["timestep_mu"] if mu is None else mu,
        sigma=config["timestep_sigma"] if sigma is None else sigma,
        cfg_dropout=spec.train.cfg_dropout,
        seed=spec.train.seed,
        chunk_frames=round(seconds * LATENTS_PER_SECOND) if seconds else None,
        timestep_dtype=dtype,
    )


def _check_fit(samples: Samples, model: AceStepModel) -> None:
    """Refuse tensors that were made for a model of another width, before any step is taken."""
    width = samples[0].encoder_hidden_states.shape[-1]
    expected = model.transformer.condition_embedder.in_features
    if width != expected:
        raise BadDataError(
            f"the tensors in {samples.place} have conditions {width} wide, {model.variant} takes {expected}\n"
            f"  preprocess the songs with model_variant {model.variant}"
        )
