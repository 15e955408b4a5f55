"""Sounds while a run trains, to hear what it learns.

The prompts are encoded before the decoder is loaded. To sample, the VAE's decoder alone comes on top of what
the training holds anyway; between samplings it waits in the machine's own memory. Nothing that is drawn,
computed or left behind here is seen by the training: it makes the same adapter with and without. Whatever
fails here, it goes on.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import AutoencoderOobleck
from torch import Tensor

from sidestep.acestep.layout import find_vae, pull_part
from sidestep.acestep.loading import load_vae
from sidestep.acestep.releases import config_of
from sidestep.adapters.adapter import Adapter
from sidestep.config.sampling import sampling_of
from sidestep.data.dataset import INSTRUMENTAL
from sidestep.data.encode import free_memory
from sidestep.data.keys import PulledModel
from sidestep.data.sides import Sides
from sidestep.lifecycle.heard import Sounds
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.policy import name_after
from sidestep.runtime.errors import AgainError, BadDataError, TakenError
from sidestep.runtime.progress import track
from sidestep.runtime.words import counted, duration
from sidestep.sampling.audio import decode_tiled
from sidestep.sampling.kept import encode_prompts
from sidestep.sampling.pipeline import Sampler
from sidestep.sampling.takes import WHILE_TRAINING, Prompt
from sidestep.sampling.wish import Settings, settings_of
from sidestep.storage.transfer import using_copies
from sidestep.tasks.sample_prompts import default_prompts
from sidestep.tasks.setup import TrainingSetup
from sidestep.training.loop import Trainer
from sidestep.training.machine import Machine
from sidestep.training.metrics import Metrics
from sidestep.training.numbers import Progress

log = logging.getLogger(__name__)

FAILURES = 3  # in a row, after which an attempt samples no more


class _Noticed(Exception):
    """Notice came in the middle of a sampling."""


@dataclass(frozen=True)
class _Studio:
    """What sounds are made with."""

    sounds: Sounds
    conditions: dict[int, Tensor]  # by the prompt's number, each [L, D]
    settings: Settings
    vae: AutoencoderOobleck  # its decoder, on the CPU


@dataclass(frozen=True)
class _Stage:
    """The training that is listened to."""

    trainer: Trainer
    sampler: Sampler
    metrics: Metrics
    check: Callable[[], None]  # raises TakenError where another writer has taken over


class Hearing:
    """What an attempt makes to be heard, where `train.sample` asks for it."""

    def __init__(self, job: Job, machine: Machine, *, is_on: bool = True) -> None:
        self._job, self._machine = job, machine
        self._is_on = is_on and job.spec.train.sample.is_on
        self._studio: _Studio | None = None
        self._stage: _Stage | None = None
        self._failures = 0  # in a row

    def prepare(self, sides: Sides | None, pulled: PulledModel) -> None:
        """Read the prompts and load the VAE's decoder. To be called while the decoder is not in memory.

        `sides` say which songs are held out, as default prompts are of both.
        """
        if not self._is_on:
            return
        if failure := self._failure_of(lambda: self._prepare(sides, pulled)):
            self._switch_off(f"What is needed to make sounds cannot be had: {failure}")

    def begin(
        self, trainer: Trainer, setup: TrainingSetup, metrics: Metrics, check: Callable[[], None]
    ) -> None:
        """From now on, this is what trains. `check` raises TakenError where another writer has taken over."""
        if self._is_on:
            sampler = Sampler(setup.model.transformer, setup.silence, setup.null_condition)
            self._stage = _Stage(trainer, sampler, metrics, check)

    def is_due(self, progress: Progress) -> bool:
        """Whether sounds are to be made after this step: before the first, after epochs, and at the end.

        Not within a row of skipped steps, whose adapter no checkpoint has: see `CheckpointPolicy`; nor while
        a validation is due, which is part of the checkpoint. Before the first step there is none to wait for.
        """
        if not self._is_on or self._stage is None:
            return False
        trainer, every = self._stage.trainer, self._job.spec.train.sample.every_epochs
        assert every is not None
        is_due = trainer.schedule.is_validated(progress.step, every) or trainer.is_over(progress)
        is_saved = trainer.is_settled(progress) or progress.step == 0
        return is_due and is_saved and not progress.skipped_in_row

    def hear(self, progress: Progress) -> float:
        """Make what is due and not there, show it in TensorBoard, and return the seconds that it took.

        Raises TakenError where another writer has taken over, and nothing else.
        """
        if not self.is_due(progress):
            return 0.0
        begun, step = time.monotonic(), progress.step
        try:
            failure = self._failure_of(lambda: self._hear(step))
        except _Noticed:
            way_on = "the next attempt makes those that are missing"
            if self._stage and self._stage.trainer.is_over(progress):  # it may be finished before it ends
                way_on = f"if none follows, `sidestep sample {self._job.output_store.place}` makes them"
            log.info("The sounds after step %d are given up: %s", step, way_on)
            failure = ""
        if self._machine.device.type == "cuda" or failure:
            free_memory()  # what lies about is the next step's
        if failure:
            self._failures += 1
            log.warning("No sounds after step %d, and the training goes on: %s", step, failure)
            if self._failures == FAILURES:
                self._switch_off(f"Sounds have failed {FAILURES} times in a row")
        return time.monotonic() - begun

    def _failure_of(self, work: Callable[[], None]) -> str:
        """What went wrong, in words. The error itself would hold what is on the GPU."""
        try:
            work()
        except (TakenError, AgainError, _Noticed):
            raise
        except Exception as error:
            log.debug("A failure of sounds", exc_info=True)
            return str(error) or type(error).__name__
        return ""

    def _switch_off(self, why: str) -> None:
        self._is_on, self._studio, self._stage = False, None, None
        log.error(
            "%s\n  train.sample is off for the rest of this attempt: the training goes on without sounds\n"
            "  `sidestep sample %s` makes them of any checkpoint later",
            *(why, self._job.output_store.place),
        )

    def _prepare(self, sides: Sides | None, pulled: PulledModel) -> None:
        job, spec = self._job, self._job.spec
        asked = spec.train.sample
        prompts = [_prompt(text) for text in asked.prompts] or default_prompts(
            job.tensors, job.workspace, sides
        )
        is_turbo = bool(config_of(spec, offline=False)["is_turbo"])
        recommended = sampling_of(pulled.folder, spec.base_model, is_turbo=is_turbo)
        settings = settings_of(spec, recommended)
        store = job.output_store.child(WHILE_TRAINING)
        sounds = Sounds(store, job.workspace, pulled.folder, pulled.digest, prompts, settings)
        conditions = sounds.conditions()
        if conditions is None:
            conditions = encode_prompts(
                *(list(sounds.prompts.values()), asked.seconds, job.checkpoints, pulled),
                *(self._machine.device, job.workspace, spec.base_model),
            )
            sounds.keep_conditions(conditions)
        part = find_vae(job.checkpoints)
        root = pull_part(job.checkpoints, part, job.workspace, "Pulling the VAE")
        with using_copies(job.checkpoints, part.files, job.workspace):
            vae = load_vae(root, "cpu", torch.float32)
        del vae.encoder  # nothing is encoded here
        self._studio = _Studio(sounds, dict(zip(sounds.prompts, conditions, strict=True)), settings, vae)
        log.info(
            "Sounds of %s every %s: %d steps, guidance %g, shift %g, %g s each",
            *(counted(len(sounds.prompts), "prompts"), counted(asked.every_epochs or 0, "epochs")),
            *(settings.steps, settings.guidance, settings.shift, settings.seconds),
        )

    def _hear(self, step: int) -> None:
        assert self._studio and self._stage
        sounds, stage, trainer = self._studio.sounds, self._stage, self._stage.trainer
        begun = time.monotonic()
        base = [sounds.take(number, None, None) for number in sounds.prompts]
        with trainer.as_published():
            now = []
            if step:
                name = name_after(trainer.schedule.group(step - 1), step)
                digest = digest_of(trainer.adapter)
                now = [sounds.take(number, name, digest) for number in sounds.prompts]
            missing = [take for take in (*base, *now) if not sounds.is_there(take)]
            with track("Sampling", len(missing), "sounds") as bar:
                for take in (*base, *now):
                    self._go_on()
                    told_at = 0 if take["checkpoint"] is None else step
                    if take not in missing and told_at < step:
                        continue  # TensorBoard has it
                    if (waveform := sounds.read(take)) is None:
                        with self._strength(take["strength"]):
                            waveform = self._play(take["prompt"])
                        stage.check()
                        sounds.keep(take, waveform)
                        self._failures = 0
                        bar.advance(1)
                    stage.metrics.log_sound(sounds.sound(take, waveform), told_at)
        if missing:
            log.info(
                "Made %s after step %d in %s: %s/%s",
                *(counted(len(missing), "sounds"), step, duration(time.monotonic() - begun)),
                *(self._job.output_store.place, WHILE_TRAINING),
            )

    @contextmanager
    def _strength(self, strength: float) -> Iterator[None]:
        """Inside, the adapter has this strength: 0 is the base model, 1 the adapter as it is trained."""
        assert self._stage
        adapter = self._stage.trainer.adapter
        if strength == 1.0:
            yield
            return
        adapter.set_strength(strength)
        try:
            yield
        finally:
            adapter.set_strength(1.0)

    def _play(self, number: int) -> Tensor:
        """The waveform [2, N] of the prompt of that number, by the model as it is now."""
        assert self._studio and self._stage
        studio, device = self._studio, self._machine.device
        latents = self._stage.sampler.latents(studio.conditions[number], studio.settings, self._go_on)
        if not latents.isfinite().all():
            raise BadDataError("the model computes NaN or infinite latents")
        try:
            waveform = decode_tiled(studio.vae.to(device), latents, self._go_on)
        finally:
            studio.vae.to("cpu")
        if not waveform.isfinite().all():
            raise BadDataError("the VAE makes NaN of finite latents")
        return waveform

    def _go_on(self) -> None:
        if self._job.preemption.requested:
            raise _Noticed


def digest_of(adapter: Adapter) -> str:
    """sha256 of an adapter's weights, as they are now."""
    digest = hashlib.sha256()
    for name, parameter in adapter.parameters().items():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _prompt(text: str) -> Prompt:
    """A caption, and the lyrics in the lines after it."""
    caption, _, lyrics = text.strip().partition("\n")
    return Prompt(caption=caption.strip(), lyrics=lyrics.strip() or INSTRUMENTAL)
