"""What a person watches: TensorBoard scalars while it trains, and the loss curve as a picture."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch.nn import Parameter
from torch.utils.tensorboard import SummaryWriter

from sidestep.storage.canonical import png_bytes

SMOOTHING = 0.05


class Metrics:
    """TensorBoard events of one attempt, below `folder`. Use it as a context manager."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Events of an earlier attempt from `first_step` on are declared void."""
        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def scalar(self, tag: str, value: float, step: int) -> None:
        self._writer.add_scalar(tag, value, step)

    def gradient_norms(self, parameters: Mapping[str, Parameter], step: int) -> None:
        """`grad_norm/<layer>` for each layer of the decoder, over the adapter's parameters in it."""
        for layer, norm in layer_gradient_norms(parameters).items():
            self.scalar(f"grad_norm/{layer}", norm, step)

    def flush(self) -> None:
        self._writer.flush()


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


def loss_curve(losses: list[float], evaluations: Mapping[int, float], title: str) -> bytes:
    """A PNG of the loss of each step, its running mean, and the loss on fixed draws."""
    from matplotlib.figure import Figure

    steps = range(1, len(losses) + 1)
    smooth: list[float] = []
    for loss in losses:
        smooth.append(loss if not smooth else smooth[-1] + SMOOTHING * (loss - smooth[-1]))
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="#9ecae1", linewidth=0.8, label="each step")
    axes.plot(steps, smooth, color="#08519c", linewidth=1.8, label="running mean")
    if evaluations:
        axes.plot(
            *zip(*sorted(evaluations.items()), strict=True), "o-", color="#d94801", label="on fixed draws"
        )
    axes.set(title=title, xlabel="optimizer step", ylabel="flow loss")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return png_bytes(figure)
