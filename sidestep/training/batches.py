"""How a step's samples are computed: which of them go together, and as what.

That is a matter of speed and memory. A step is the same however it is cut, but for the last bits.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from sidestep.training.flow import Batch


def cut(frames: Sequence[int], most: int) -> list[list[int]]:
    """The micro-batches of a step whose samples have so many `frames`: positions in the step.

    Samples of one length go together, at most `most`, and keep the step's order, as do the micro-batches by
    their first samples.
    """
    by_length: dict[int, list[int]] = {}
    for position, length in enumerate(frames):
        by_length.setdefault(length, []).append(position)
    return sorted(
        alike[start : start + most] for alike in by_length.values() for start in range(0, len(alike), most)
    )


def at_once(batch_size: int, law: int) -> int:
    """The most samples of a micro-batch: one under law 1, whose masks are drawn for one at a time."""
    return batch_size if law > 1 else 1


def join(samples: Sequence[Batch]) -> Batch:
    """One batch of samples of one length, each drawn by itself.

    Conditions are padded with zeros, which the mask leaves out. It is there also where none is padding, so
    that attention takes the same way; a sample by itself has none.
    """
    if len(samples) == 1:
        return samples[0]
    tokens = torch.tensor([sample.conditions.shape[1] for sample in samples])
    longest = int(tokens.max())
    return Batch(
        latents=torch.cat([sample.latents for sample in samples]),
        context=torch.cat([sample.context for sample in samples]),
        conditions=torch.cat(
            [F.pad(s.conditions, (0, 0, 0, longest - s.conditions.shape[1])) for s in samples]
        ),
        timesteps=torch.cat([sample.timesteps for sample in samples]),
        noise=torch.cat([sample.noise for sample in samples]),
        mask=torch.arange(longest) < tokens[:, None],
    )
