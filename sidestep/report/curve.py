"""The loss curve as a picture, `loss.png` in the output of a finished run."""

from collections.abc import Mapping, Sequence

from sidestep.runtime.canonical import png_bytes
from sidestep.training.history import running_mean

FILE = "loss.png"


def loss_curve(losses: Sequence[float], evaluations: Mapping[int, float], title: str) -> bytes:
    """A PNG of the loss of each step, its running mean, and the loss on fixed draws."""
    from matplotlib.figure import Figure

    steps = range(1, len(losses) + 1)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="#9ecae1", linewidth=0.8, label="each step")
    axes.plot(steps, running_mean(losses), color="#08519c", linewidth=1.8, label="running mean")
    if evaluations:
        axes.plot(
            *zip(*sorted(evaluations.items()), strict=True), "o", color="#d94801", label="on fixed draws"
        )
    axes.set(title=title, xlabel="optimizer step", ylabel="flow loss")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return png_bytes(figure)
