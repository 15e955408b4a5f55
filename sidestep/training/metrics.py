"""TensorBoard: the curves, histograms, sounds and pictures that people watch while a run trains."""

import json
import math
import re
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.nn import Parameter
from torch.utils.tensorboard.summary import histogram, hparams, image, scalar, text

from sidestep.data.preview import Sound
from sidestep.runtime.diskerrors import local_errors
from sidestep.runtime.gpus import Gpu
from sidestep.training.events import EventFiles
from sidestep.training.history import RunningLoss
from sidestep.training.levels import by_level
from sidestep.training.loop import StepResult, Trainer
from sidestep.training.mel import mel_picture
from sidestep.training.numbers import Progress
from sidestep.training.schedule import Group
from sidestep.training.throughput import Throughput

TIMESTEP_BINS = np.linspace(0, 1, 41)  # of the histogram


class Metrics:
    """TensorBoard events of one attempt, below `folder`. Use it as a context manager."""

    def __init__(
        self,
        folder: Path,
        trainer: Trainer,
        progress: Progress,
        log_every: int,
        log_heavy_every: int,
        lr_groups: Mapping[str, float] | None = None,
        gpus: Callable[[], Sequence[Gpu]] = tuple,
        listener: Callable[[str, float, int], object] | None = None,
    ) -> None:
        """`trainer` goes on from `progress`; events of an earlier attempt at the steps to come are deleted.

        Args:
            log_every: steps between curves that cost nothing: losses, the learning rate.
            log_heavy_every: steps between those that cost time: gradient norms, histograms, memory.
            lr_groups: factors on the learning rate, each of which has a curve.
            gpus: how the GPUs are now, as far as a driver says it.
            listener: hears each point of a curve, too: its tag, value and step.
        """
        self._lr_groups, self._gpus, self._listener = lr_groups or {}, gpus, listener
        self._folder, self._trainer, self._progress = folder, trainer, progress
        self._log_every, self._log_heavy_every = log_every, log_heavy_every
        self._running_loss, self._throughput = RunningLoss(progress.losses), Throughput()
        self._evaluations = set(progress.evaluations)  # that have their point
        self._validations = set(progress.validations)  # likewise
        with local_errors(folder):
            self._events = EventFiles(folder, progress.step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with local_errors(self._folder):
            self._events.close()

    def describe(self, spec: str, settings: Mapping[str, Any], sounds: Sequence[Sound]) -> None:
        """Before the first step: the spec as text (YAML), `settings` as hyperparameters, to compare runs by
        `loss/eval`, and sounds to play, `audio/<name>`, and to look at, `mel/<name>`."""
        with local_errors(self._folder):
            for summary in description(spec, settings, sounds):
                self._events.add(summary, step=0)
        self._throughput = Throughput()  # the pictures take a moment, which is not the training's

    def log_step(self, result: StepResult) -> None:
        """The curves of a step that was just made: its gradients are still there."""
        step, group = result.step, result.group
        self.log_settled()
        self._running_loss.add(result.loss)
        self._throughput.add(len(group.samples))
        if step % self._log_every == 0:
            self._scalar("loss/train", result.loss, step)
            self._scalar("loss/smooth", self._running_loss.value, step)
            for level, loss in losses_by_timestep(self._timesteps(group, group), result.losses).items():
                self._scalar(f"loss_by_timestep/{level}", loss, step)
            self._scalar("lr", result.lr, step)
            for name, factor in self._lr_groups.items():
                self._scalar(f"lr/{name}", result.lr * factor, step)
            self._scalar("skipped_steps", self._progress.skipped, step)
        if step % self._log_heavy_every == 0 or step == 1:  # short runs have one, too
            self._scalar("grad_norm/total", result.grad_norm, step)
            for layer, norm in layer_gradient_norms(self._trainer.adapter.parameters()).items():
                self._scalar(f"grad_norm/{layer}", norm, step)
        if step % self._log_heavy_every == 0:
            self._scalar("samples_per_second", self._throughput.recent(), step)
            self._scalar("memory/peak_gb", peak_memory(self._trainer.fabric.device), step)
            for tag, value in gpu_curves(self._gpus()).items():
                self._scalar(tag, value, step)
            first = self._trainer.schedule.group(max(step - self._log_heavy_every, 0))
            timesteps = np.array(self._timesteps(first, group), np.float32)
            with local_errors(self._folder):
                self._events.add(histogram("timesteps", timesteps, TIMESTEP_BINS), step)

    def log_settled(self) -> None:
        """The points of evaluations and validations that have been made since the last time."""
        progress = self._progress
        for step in sorted(progress.evaluations.keys() - self._evaluations):
            self._scalar("loss/eval", progress.evaluations[step], step)
            self._evaluations.add(step)
        for step in sorted(progress.validations.keys() - self._validations):
            found = progress.validations[step]
            self._scalar("validation/held_out", found.held_out.mean, step)
            self._scalar("validation/trained", found.trained.mean, step)
            for level, loss in by_level(progress.timesteps, found.held_out.by_draw).items():
                self._scalar(f"validation_by_timestep/{level}", loss, step)
            self._validations.add(step)

    def log_sound(self, sound: Sound, step: int) -> None:
        """A sound that was made after `step`, to play, `audio/<name>`, and to look at, `mel/<name>`."""
        with local_errors(self._folder):
            for summary in _sound(sound):
                self._events.add(summary, step)

    def leave_out(self, seconds: float) -> None:
        """So many of the seconds until now were not the training's."""
        self._throughput.leave_out(seconds)

    def complete(self) -> str | None:
        """Complete the event file of what came after the last step; its name, None where there is nothing."""
        with local_errors(self._folder):
            return self._events.complete()

    def rotate(self, next_step: int) -> str | None:
        """Complete the event file of the steps so far, and begin that of `next_step`; its name.

        None where no step was made since the last time.
        """
        with local_errors(self._folder):
            return self._events.rotate(next_step)

    def _scalar(self, tag: str, value: float, step: int) -> None:
        with local_errors(self._folder):
            self._events.add(scalar(tag, value), step)
        if self._listener:
            self._listener(tag, value, step)

    def _timesteps(self, first: Group, last: Group) -> list[float]:
        """t of each sample from those of group `first` to those of `last`.

        An earlier attempt may have made the first of them: a draw is known by its number alone.
        """
        numbers = range(first.first_index, last.first_index + len(last.samples))
        return [float(self._trainer.sampling.timestep(number)) for number in numbers]


def description(spec: str, settings: Mapping[str, Any], sounds: Sequence[Sound]) -> Iterator[Summary]:
    """The summaries of a run before its first step: see `Metrics.describe`."""
    yield text("spec", f"```yaml\n{spec}```")
    plain = {
        name: value if isinstance(value, bool | int | float | str | None) else json.dumps(value)
        for name, value in settings.items()
    }
    # The third of these summaries says that the run has ended well, which nobody knows yet.
    yield from hparams(plain, {"loss/eval": None})[:2]
    for sound in sounds:
        yield from _sound(sound)


def _sound(sound: Sound) -> Iterator[Summary]:
    yield audio_summary(f"audio/{sound.name}", sound)
    yield image(f"mel/{sound.name}", mel_picture(sound.samples, sound.rate), dataformats="HWC")


def losses_by_timestep(timesteps: Sequence[float], losses: Sequence[float]) -> dict[str, float]:
    """`0.3-0.4` and its like → the mean loss of the samples with such a t, of those that are finite.

    The noise level rules the loss of a sample, so a curve at one level falls where `loss/train`
    only jumps. A step tells of the levels that it drew.
    """
    pairs = zip(timesteps, losses, strict=True)
    finite = [(t, loss) for t, loss in pairs if math.isfinite(loss)]
    return by_level([t for t, _ in finite], [loss for _, loss in finite])


def audio_summary(tag: str, sound: Sound) -> Summary:
    """TensorBoard's own form of a WAV file; torch's takes mono alone."""
    channels, frames = sound.samples.shape
    audio = Summary.Audio(
        sample_rate=sound.rate,
        num_channels=channels,
        length_frames=frames,
        encoded_audio_string=sound.wav,
        content_type="audio/wav",
    )
    return Summary(value=[Summary.Value(tag=tag, audio=audio)])


def peak_memory(device: torch.device) -> float:
    """The most memory in use so far, in GB (10^9 bytes): the GPU's, or this process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB


def gpu_curves(gpus: Iterable[Gpu]) -> dict[str, float]:
    """`gpu/0/utilization` (percent), `…/memory_gb` (10^9 bytes, of all processes), `…/temperature` (°C) and
    `…/power` (W), as far as the driver says them."""
    curves = {
        f"gpu/{gpu.index}/{name}": value
        for gpu in gpus
        for name, value in (
            ("utilization", gpu.utilization),
            ("memory_gb", None if gpu.memory_used is None else gpu.memory_used / 1e9),
            ("temperature", gpu.temperature),
            ("power", gpu.power),
        )
    }
    return {tag: value for tag, value in curves.items() if value is not None}


def layer_gradient_norms(parameters: Mapping[str, Parameter]) -> dict[str, float]:
    """The 2-norm of all gradients in each decoder layer, by `layers.<n>`, in the layers' order."""
    gradients: dict[int, list[torch.Tensor]] = {}
    for name, parameter in parameters.items():
        layer = re.search(r"layers[._](\d+)", name)
        if layer and parameter.grad is not None:
            gradients.setdefault(int(layer[1]), []).append(parameter.grad)
    return {
        f"layers.{layer}": float(torch.nn.utils.get_total_norm(gradients[layer]))
        for layer in sorted(gradients)
    }
