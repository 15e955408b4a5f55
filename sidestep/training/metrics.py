"""What a person watches while it trains: TensorBoard."""

import json
import math
import re
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.nn import Parameter
from torch.utils.tensorboard.summary import histogram, hparams, image, scalar, text

from sidestep.data.preview import Sound
from sidestep.runtime.diskerrors import local_errors
from sidestep.training.events import EventFiles
from sidestep.training.flow import SamplingConfig
from sidestep.training.mel import mel_picture
from sidestep.training.schedule import Group

TIMESTEP_BINS = np.linspace(0, 1, 41)  # of the histogram
TIMESTEP_LEVELS = 10  # that have a loss curve each


class Metrics:
    """TensorBoard events of one attempt, below `folder`. Use it as a context manager."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Events of an earlier attempt from `first_step` on are deleted."""
        self._folder = folder
        with local_errors(folder):
            self._events = EventFiles(folder, first_step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with local_errors(self._folder):
            self._events.close()

    def describe(self, spec: str, settings: Mapping[str, Any], sounds: Sequence[Sound]) -> None:
        """Before the first step: the spec as text (YAML), `settings` as hyperparameters, to compare runs by
        `loss/eval`, and sounds to play, `audio/<name>`, and to look at, `mel/<name>`."""
        plain = {
            name: value if isinstance(value, bool | int | float | str | None) else json.dumps(value)
            for name, value in settings.items()
        }
        with local_errors(self._folder):
            self._events.add(text("spec", f"```yaml\n{spec}```"), step=0)
            # The third of these summaries says that the run has ended well, which nobody knows yet.
            for summary in hparams(plain, {"loss/eval": None})[:2]:
                self._events.add(summary, step=0)
            for sound in sounds:
                self._events.add(audio_summary(f"audio/{sound.name}", sound), step=0)
                picture = mel_picture(sound.samples, sound.rate)
                self._events.add(image(f"mel/{sound.name}", picture, dataformats="HWC"), step=0)

    def scalar(self, tag: str, value: float, step: int) -> None:
        with local_errors(self._folder):
            self._events.add(scalar(tag, value), step)

    def losses_by_timestep(
        self, law: SamplingConfig, group: Group, losses: Sequence[float], step: int
    ) -> None:
        """`loss_by_timestep/0.3-0.4` and its like: the mean loss of the micro-batches with such a t.

        The noise level rules the loss of a micro-batch, so a curve at one level falls where `loss/train`
        only jumps. A step tells of the levels that it drew.
        """
        levels: dict[int, list[float]] = {}
        for index, loss in enumerate(losses, start=group.first_index):
            if math.isfinite(loss):
                level = min(int(float(law.timestep(index)) * TIMESTEP_LEVELS), TIMESTEP_LEVELS - 1)
                levels.setdefault(level, []).append(loss)
        for level, found in sorted(levels.items()):
            name = f"{level / TIMESTEP_LEVELS:.1f}-{(level + 1) / TIMESTEP_LEVELS:.1f}"
            self.scalar(f"loss_by_timestep/{name}", sum(found) / len(found), step)

    def timesteps(self, timesteps: Tensor, step: int) -> None:
        """A histogram of the timesteps t that were trained on, from 0 (clean) to 1 (noise)."""
        with local_errors(self._folder):
            self._events.add(histogram("timesteps", timesteps.numpy(), TIMESTEP_BINS), step)

    def gradient_norms(self, parameters: Mapping[str, Parameter], step: int) -> None:
        """`grad_norm/<layer>` for each layer of the decoder, over the adapter's parameters in it."""
        for layer, norm in layer_gradient_norms(parameters).items():
            self.scalar(f"grad_norm/{layer}", norm, step)

    def rotate(self, next_step: int) -> str | None:
        """Complete the event file of the steps so far, and begin that of `next_step`; its name.

        None where no step was made since the last time.
        """
        with local_errors(self._folder):
            return self._events.rotate(next_step)


class Throughput:
    """How many samples a second went through since the rate was last asked for."""

    def __init__(self) -> None:
        self._begun = self._since = time.monotonic()
        self._samples = self._all = 0

    def add(self, samples: int) -> None:
        self._samples += samples
        self._all += samples

    def average(self) -> float:
        """The rate since the beginning."""
        return self._all / max(time.monotonic() - self._begun, 1e-9)

    def rate(self) -> float:
        now = time.monotonic()
        rate = self._samples / (now - self._since)
        self._since, self._samples = now, 0
        return rate


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
