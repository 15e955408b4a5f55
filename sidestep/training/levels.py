"""Losses by noise level: it rules a loss far more than what has been learnt."""

from collections.abc import Sequence

LEVELS = 10  # that have a loss each


def by_level(timesteps: Sequence[float], losses: Sequence[float]) -> dict[str, float]:
    """`0.3-0.4` and its like → the mean of the losses with such a t, NaN where one is."""
    found: dict[int, list[float]] = {}
    for t, loss in zip(timesteps, losses, strict=True):
        found.setdefault(min(int(t * LEVELS), LEVELS - 1), []).append(loss)
    return {
        f"{level / LEVELS:.1f}-{(level + 1) / LEVELS:.1f}": sum(losses) / len(losses)
        for level, losses in sorted(found.items())
    }
