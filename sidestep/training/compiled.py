"""`runtime.compile`: the decoder's blocks by torch.compile, where they give what the plain ones give.

A compiler's mistake in the backward pass shows in no loss. So before the first step, loss and gradients of
one micro-batch of the run are compared, with the run's dropout and recomputation, at its real shape.
"""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf, isfinite
from typing import Any, cast

import torch
import torch._functorch.config
from diffusers import AceStepTransformer1DModel
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from sidestep.training import rng
from sidestep.training.loop import GivenUpError, Trainer
from sidestep.training.schedule import Entry

log = logging.getLogger(__name__)

TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 5e-2}
"""By precision, the relative error of the loss, and of each tensor's gradient, that rounding explains."""
Backend = str | Callable[..., Any]
"""Of torch.compile."""
VARIANTS = 64
"""Of a block, what torch compiles before it gives up: by window, by what needs gradients, by lengths."""
SECONDS_OF_ONE_NOTICE = 1.0
"""Between what a signal to a whole group does to a compiler, and this process's own hearing of it."""
LONGEST = 200
"""Characters of a compiler's line that are said."""


class Blocks:
    """The decoder's compiled blocks. What fails to compile once they are checked is computed plainly.

    A compiler runs at each new length, hours into a run, and whatever signals the run's processes signals it,
    too; disks fill up. What is compiled by then stays in use.
    """

    def __init__(self, trainer: Trainer) -> None:
        """Of a trainer whose blocks `compile_blocks` has dealt with."""
        self._trainer = trainer
        self._is_checked, self._seen = False, set[tuple[torch.Size, bool]]()
        for layer in _transformer(trainer).layers:
            layer.forward = partial(self._forward, layer.forward, partial(type(layer).forward, layer))

    def keep(self) -> None:
        """They have been found right."""
        self._is_checked = self._trainer.compiles = True

    def _forward(
        self,
        compiled: Callable[..., Tensor],
        plain: Callable[..., Tensor],
        hidden_states: Tensor,
        *others: Any,
        **named: Any,
    ) -> Tensor:
        """A block's own, for its `hidden_states`, [B, N, D]."""
        self._say_what_is_new(hidden_states.shape)
        try:
            return compiled(hidden_states, *others, **named)
        except TorchDynamoException as error:
            self._do_without(error)
            return plain(hidden_states, *others, **named)

    def _say_what_is_new(self, shape: torch.Size) -> None:
        """Nothing else is heard of a run while it compiles."""
        new = shape, torch.is_grad_enabled()
        if new in self._seen:
            return
        self._seen.add(new)
        if self._is_checked and not self._trainer.why_plain:
            size, what = " × ".join(map(str, shape)), "train" if new[1] else "evaluate"
            log.info("Compiling the blocks to %s with a batch of %s", what, size)

    def _do_without(self, error: TorchDynamoException) -> None:
        """Compile no more. Raises `error` before they are checked, GivenUpError in a step after notice."""
        if not self._is_checked:
            raise error
        trainer = self._trainer
        if not trainer.why_plain:
            if torch.is_grad_enabled() and trainer.team.count == 1 and self._is_noticed():
                raise GivenUpError from error  # an evaluation is not given up: it is quick, and no step
            trainer.why_plain = f"a block could not be compiled for another length: {in_short(error)}"
            log.warning(
                "runtime.compile is blocks, but %s\n  what is not compiled yet is computed without, and "
                "equal bytes are not claimed any more",
                trainer.why_plain,
            )
        torch.compiler.set_stance("eager_on_recompile")

    def _is_noticed(self) -> bool:
        """Whether notice came; that of a whole group of processes may reach the compiler first."""
        until = time.monotonic() + SECONDS_OF_ONE_NOTICE
        preemption = self._trainer.preemption
        while not preemption.requested and time.monotonic() < until:
            time.sleep(0.02)
        return preemption.requested


def compile_checked(trainer: Trainer, law: int, precision: str, backend: Backend = "inductor") -> str | None:
    """Compile the decoder's blocks and compare a micro-batch; why they are plain again, or None.

    Changes nothing but the blocks' `forward`: neither weights nor gradients, nor any draw.
    """
    if law == 1:
        return "under law 1, in which the run began, torch's generator would draw inside of compiled code"
    transformer, entries = _transformer(trainer), _micro_batch(trainer)
    log.info("Compiling the decoder's blocks, and comparing them with the plain ones")
    with _without_zeros(trainer):
        plain = _gradients(trainer, entries)
        try:
            compile_blocks(transformer, backend)
            blocks = Blocks(trainer)
            found = _gradients(trainer, entries)
        except Exception as error:  # noqa: BLE001 - whatever a compiler fails with, the run does without
            why: str | None = f"the blocks cannot be compiled: {in_short(error)}"
        else:
            why = difference(plain, found, TOLERANCE[precision])
    if why is not None:
        for layer in transformer.layers:
            vars(layer).pop("forward", None)
    else:
        blocks.keep()
    return why


def compile_blocks(transformer: AceStepTransformer1DModel, backend: Backend = "inductor") -> None:
    """Compile each block when it is first called, and again for what it has not been called with.

    For each length by itself: in kernels for any length, inductor's gradient of a block's input was a tenth
    off on a CPU, and its loss was not. What comes after `VARIANTS` is computed plainly. The backward pass is
    compiled with the forward pass, where a failure can still be made good.
    """
    torch.compiler.set_stance("default")  # a run before this one, in the same process, may have changed it
    torch._dynamo.config.recompile_limit = VARIANTS
    torch._functorch.config.force_non_lazy_backward_lowering = True
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


def _transformer(trainer: Trainer) -> AceStepTransformer1DModel:
    return cast(AceStepTransformer1DModel, trainer.adapter.transformer)


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


def in_short(error: Exception) -> str:
    """What a compiler says first, and its own compiler's first error, of what can be a thousand lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first, *rest = [line for line in lines if not line.endswith("raised:")] or [""]  # the backend's name
    telling = (line for line in rest if any(sign in line for sign in ("error:", "fatal", "No space left")))
    said = [first.rstrip(": ") or type(error).__name__, next(telling, "")]
    return "; ".join(line[:LONGEST] for line in said if line)
