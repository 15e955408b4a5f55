"""Adds up the gradients of a step over all ranks, as one flat vector of the adapter's parameters.

A step's micro-batches are one sequence, dealt in rounds: micro-batch j goes to rank j modulo the ranks. So n
ranks take the steps of one rank, and nothing has to be divisible by n: a rank without one sends a piece that
nobody adds.

`ordered`: each rank owns a part of the vector. In each round it gets that part of all ranks' gradients, and
adds them in the order of the sequence, as one rank alone adds them: in float32, one after the other, from the
first on. At the step's end all parts go to all. So the sums are those of one rank, to the bit.

`all_reduce`: each rank adds up its own, and the sums are added up once, at the step's end: a fraction of the
traffic, and sums that differ in their last bits.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Parameter

from sidestep.training.team import Processes, Team

Reduce = Literal["ordered", "all_reduce"]


class Sums:
    """Those of one process by itself: the gradients are where they are, and added up by torch."""

    def __init__(self) -> None:
        self._losses: dict[int, Tensor] = {}

    def begin(self) -> None:
        """A step begins, without gradients."""
        self._losses = {}

    def add(self, dealt: Sequence[Sequence[int]], losses: Tensor | None) -> None:
        """A round is computed: what of it is this rank's is in the parameters' gradients.

        Args:
            dealt: the positions in the step that each rank has had; ranks at the end may have had none.
            losses: of this rank's, detached; None where it has had none.
        """
        assert losses is not None, "one process has them all"
        self._losses.update(zip(dealt[0], losses, strict=True))

    def finish(self, count: int) -> Tensor:
        """All gradients are in their parameters now. The losses of the step's `count` samples, [count]."""
        return torch.stack([self._losses[position] for position in range(count)])


class _Flat(Sums):
    """What both ways have in common: the vector."""

    def __init__(self, team: Processes, parameters: Sequence[Parameter], batch_size: int) -> None:
        super().__init__()
        self._team, self._parameters, self._batch_size = team, list(parameters), batch_size
        sizes = [parameter.numel() for parameter in self._parameters]
        self._ends = list(accumulate(sizes))
        self._size = sum(sizes)
        self._device = self._parameters[0].device

    def _take(self, flat: Tensor) -> None:
        """Move this rank's gradients into `flat`."""
        for parameter, end in zip(self._parameters, self._ends, strict=True):
            assert parameter.grad is not None, "each sample moves each parameter, or one rank would skip it"
            flat[end - parameter.numel() : end] = parameter.grad.view(-1)
            parameter.grad = None

    def _give(self, flat: Tensor) -> None:
        """Copies, as on a GPU the bits of a sum over a tensor may depend on where in memory it begins."""
        for parameter, end in zip(self._parameters, self._ends, strict=True):
            parameter.grad = flat[end - parameter.numel() : end].clone().view_as(parameter)


class Ordered(_Flat):
    """Sums to the bit: see above."""

    def __init__(self, team: Processes, parameters: Sequence[Parameter], batch_size: int) -> None:
        super().__init__(team, parameters, batch_size)
        self._part = -(-self._size // team.count)
        shape = team.count, self._part + batch_size
        self._sent, self._got = (torch.zeros(shape, device=self._device) for _ in range(2))
        self._flat = torch.zeros(team.count * self._part, device=self._device)
        self._own = torch.zeros(self._part, device=self._device)
        self._is_first = True

    def begin(self) -> None:
        super().begin()
        self._is_first = True

    def add(self, dealt: Sequence[Sequence[int]], losses: Tensor | None) -> None:
        if losses is not None:
            self._take(self._flat)
            self._sent[:, : self._part] = self._flat.view(self._team.count, -1)
            self._sent[:, self._part : self._part + len(losses)] = losses
        self._team.exchange(self._sent, self._got)
        for positions, piece in zip(dealt, self._got, strict=False):
            if self._is_first:  # 0 + -0 would be 0
                self._own.copy_(piece[: self._part])
            else:
                self._own.add_(piece[: self._part])
            self._is_first = False
            self._losses.update(zip(positions, piece[self._part :].clone(), strict=False))

    def finish(self, count: int) -> Tensor:
        self._give(self._team.joined(self._own))
        return super().finish(count)


class AllReduced(_Flat):
    """Sums that are quicker to come by: see above."""

    def add(self, dealt: Sequence[Sequence[int]], losses: Tensor | None) -> None:
        if losses is not None:
            self._losses.update(zip(dealt[self._team.rank], losses, strict=True))

    def finish(self, count: int) -> Tensor:
        whole = torch.zeros(self._size + count, device=self._device)
        if self._losses:
            self._take(whole)
        for position, loss in self._losses.items():
            whole[self._size + position] = loss
        self._team.add_up(whole)
        self._give(whole)
        return whole[self._size :]


def sums_of(team: Team, parameters: Sequence[Parameter], batch_size: int, reduce: Reduce) -> Sums:
    """How the ranks of `team` add up gradients of `parameters`, of micro-batches of at most `batch_size`."""
    if not isinstance(team, Processes):
        return Sums()
    kind = Ordered if reduce == "ordered" else AllReduced
    return kind(team, parameters, batch_size)
