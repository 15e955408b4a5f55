"""What is asked for: prompts, adapters, strengths, and how each take is made. None of it needs torch."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sidestep.config.job import JobSpec
from sidestep.config.sampling import Sampling
from sidestep.runtime.errors import UsageError
from sidestep.sampling.takes import Prompt

log = logging.getLogger(__name__)

Kind = Literal["flac", "wav"]

SEED = 42
"""Of the noise, unless another one is asked for."""


@dataclass(frozen=True)
class Settings:
    """How a take is made."""

    seed: int
    steps: int
    guidance: float  # 1: none
    shift: float
    seconds: float


@dataclass(frozen=True)
class Source:
    """An adapter to hear.

    Attributes:
        checkpoint: what it is called among the takes.
        weights: its file on this machine, with a configuration beside it where it has one.
        digest: of its files.
    """

    checkpoint: str
    weights: Path
    digest: str


@dataclass(frozen=True)
class Wish:
    """What is asked for. None is what the model's release recommends."""

    prompts: Sequence[Prompt]
    sources: Sequence[Source]
    strengths: Sequence[float]
    seed: int
    seconds: float
    steps: int | None = None
    guidance: float | None = None
    shift: float | None = None
    kind: Kind = "flac"

    def settings(self, recommended: Sampling, variant: str) -> Settings:
        """The settings of each take. Raises UsageError for guidance on a model that takes none."""
        steps = self.steps or recommended.steps
        guidance = recommended.guidance if self.guidance is None else self.guidance
        if not recommended.takes_guidance and guidance != recommended.guidance:
            raise UsageError(
                f"--guidance {guidance:g}: {variant} is distilled to be sampled without guidance, and would "
                "take no notice of it\n  leave --guidance out"
            )
        if steps > (most := recommended.most_steps):
            log.warning("--steps %d: %s is meant for 1 to %d steps", steps, variant, most)
        shift = recommended.shift if self.shift is None else self.shift
        return Settings(self.seed, steps, guidance, shift, self.seconds)

    def ways(self) -> Iterator[tuple[Source | None, float]]:
        """The base model, None, and each adapter at each strength. At 0 all are the base model, once."""
        strengths = list(dict.fromkeys(self.strengths))
        if 0 in strengths:
            yield None, 0.0
        for source in self.sources:
            yield from ((source, strength) for strength in strengths if strength != 0)


def settings_of(spec: JobSpec, recommended: Sampling) -> Settings:
    """How a run's own sounds are made: as `inference` says, and else as the model's release recommends.

    A model that takes no guidance gets none.
    """
    own = spec.inference
    guidance = own.guidance if own.guidance is not None and recommended.takes_guidance else None
    return Settings(
        SEED,
        own.num_inference_steps or recommended.steps,
        recommended.guidance if guidance is None else guidance,
        recommended.shift if own.shift is None else own.shift,
        spec.train.sample.seconds,
    )
