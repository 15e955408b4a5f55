"""`runtime.compile`: the decoder's blocks by torch.compile, where they give what the plain ones give.

A compiler's mistake in the backward pass shows in no loss. So before the first step, loss and gradients of
one micro-batch of the run are compared, with the run's dropout and recomputation, at its real shape.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf, isfinite
from typing import Any, cast

import torch
from diffusers import AceStepTransformer1DModel
from torch import Tensor

from sidestep.training import rng
from sidestep.training.loop import Trainer
from sidestep.training.schedule import Entry

log = logging.getLogger(__name__)

TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 5e-2}
"""By precision, the relative error of the loss, and of each tensor's gradient, that rounding explains."""
Backend = str | Callable[..., Any]
"""Of torch.compile."""
VARIANTS = 64
"""Of a block, what torch compiles before it gives up: by window, by what needs gradients, by lengths."""


def compile_checked(trainer: Trainer, law: int, precision: str, backend: Backend = "inductor") -> str | None:
    """Compile the decoder's blocks and compare a micro-batch; why they are plain again, or None.

    Changes nothing but the blocks' `forward`: neither weights nor gradients, nor any draw.
    """
    if law == 1:
        return "under law 1, in which the run began, torch's generator would draw inside of compiled code"
    transformer = cast(AceStepTransformer1DModel, trainer.adapter.transformer)
    entries = _micro_batch(trainer)
    with _without_zeros(trainer):
        plain = _gradients(trainer, entries)
        try:
            compile_blocks(transformer, backend)
            found = _gradients(trainer, entries)
        except Exception as error:  # noqa: BLE001 - whatever a compiler fails with, the run does without
            why: str | None = f"the blocks cannot be compiled: {_first_lines(error)}"
        else:
            why = difference(plain, found, TOLERANCE[precision])
    if why is not None:
        for layer in transformer.layers:
            vars(layer).pop("forward", None)
    return why


def compile_blocks(transformer: AceStepTransformer1DModel, backend: Backend = "inductor") -> None:
    """Compile each block when it is first called, and again for what it has not been called with.

    For each length by itself: in kernels for any length, inductor's gradient of a block's input was a tenth
    off on a CPU, and its loss was not. What comes after `VARIANTS` is computed plainly.
    """
    torch._dynamo.config.recompile_limit = VARIANTS
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor", category=UserWarning)
    for layer in transformer.layers:
        layer.forward = torch.compile(layer.forward, backend=backend, dynamic=False)


def difference(plain: dict[str, Tensor], found: dict[str, Tensor], tolerance: float) -> str | None:
    """What differs more than by `tolerance`, relative to each tensor's own length; None: nothing."""
    errors = {name: _error(found[name], exact) if name in found else inf for name, exact in plain.items()}
    name, worst = max(errors.items(), key=lambda item: item[1])
    if worst <= tolerance:
        log.info("Compiled blocks give the plain ones' loss and gradients, to %.1e", worst)
        return None
    return f"{name} is off by {worst:.1%} (allowed: {tolerance:.1%})"


def _error(found: Tensor, exact: Tensor) -> float:
    """The relative one; infinite where a number is not finite."""
    if torch.equal(found, exact):
        return 0.0
    error = float(torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact))
    return error if isfinite(error) else inf


def _micro_batch(trainer: Trainer) -> Sequence[Entry]:
    """The first one of the run's first step."""
    entries = trainer.schedule.group(0).entries
    return [entries[position] for position in trainer.micro_batches(entries)[0]]


def _gradients(trainer: Trainer, entries: Sequence[Entry]) -> dict[str, Tensor]:
    """The loss of `entries`, and the adapter's gradients by name: in fp16 they are scaled up."""
    parameters = trainer.adapter.parameters()
    trainer.model.train()
    trainer.masks.begin([entry.index for entry in entries], trainer.fabric.device)
    loss = trainer.losses(entries).mean()
    trainer.fabric.backward(loss)
    found = {f"the gradient of {name}": each.grad for name, each in parameters.items()}
    trainer.optimizer.zero_grad(set_to_none=True)
    return {
        "the loss": loss.detach().float(),
        **{name: gradient.float() for name, gradient in found.items() if gradient is not None},
    }


@contextmanager
def _without_zeros(trainer: Trainer) -> Iterator[None]:
    """Inside, what is all zeros is random: a new LoRA's B, which lets no gradient through to A."""
    zeros = [(name, each) for name, each in trainer.adapter.parameters().items() if not each.detach().any()]
    with torch.no_grad():
        for name, each in zeros:
            noise = torch.randn(each.shape, generator=rng.generator(trainer.sampling.seed, f"check/{name}"))
            each.copy_(0.02 * noise)
    try:
        yield
    finally:
        with torch.no_grad():
            for _, each in zeros:
                each.zero_()


def _first_lines(error: Exception) -> str:
    """The kind of an error and its first two lines, of which torch's compiler has hundreds."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:2]])
