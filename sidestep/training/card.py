"""A run's facts for its adapter's card: those that are settled before the first step, and its progress."""

import math
from collections.abc import Sequence

from sidestep.acestep.layout import FOLDERS
from sidestep.adapters.adapter import Adapter
from sidestep.adapters.describe import shape_of
from sidestep.config.job import JobSpec
from sidestep.config.sampling import sampling_of
from sidestep.data.card import Facts, Generating, HeldOutLoss, triggers_of
from sidestep.training.history import SongFacts
from sidestep.training.numbers import Progress


def facts_of(
    spec: JobSpec, adapter: Adapter, songs: Sequence[SongFacts], held_out: Sequence[bool], *, is_turbo: bool
) -> Facts:
    """What is known of a run's adapter before the first step.

    Args:
        songs: all that the run has read.
        held_out: of each, whether it is not trained on.
        is_turbo: by the model's own configuration.
    """
    trained = [song for song, is_out in zip(songs, held_out, strict=True) if not is_out]
    usual = sampling_of(spec.model_variant, spec.base_model, is_turbo=is_turbo)
    said = spec.inference
    return Facts(
        **shape_of(adapter),
        variant=FOLDERS.get(spec.model_variant, spec.model_variant),
        base_model=spec.base_model,
        triggers=triggers_of((song.trigger, song.caption) for song in trained),
        songs=len(trained),
        songs_held_out=len(songs) - len(trained),
        hours=round(sum(song.seconds for song in trained) / 3600, 3),
        generating=Generating(
            steps=said.num_inference_steps or usual.steps,
            guidance=said.guidance or usual.guidance,
            shift=said.shift or usual.shift,
            strength=said.strength or 1.0,
        ),
        license=spec.card.license,
    )


def facts_at(facts: Facts, progress: Progress) -> Facts:
    """The same after some steps. The held-out loss is that of the newest validation so far."""
    held_out = None
    if progress.validations:
        first, newest = min(progress.validations), max(progress.validations)
        held_out = HeldOutLoss(
            step=newest,
            before=_finite(progress.validations[first].held_out.mean),
            loss=_finite(progress.validations[newest].held_out.mean),
        )
    return facts.model_copy(update={"steps": progress.step, "held_out": held_out})


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
