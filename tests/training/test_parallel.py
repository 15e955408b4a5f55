"""How a step's samples are dealt to several ranks, and how their gradients are added up, by ranks that are
threads. What processes come to: `tests/tasks/test_ranks.py`."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from sidestep.training.parallel import AllReduced, Ordered
from sidestep.training.team import Processes, Team
from tests.songs import MakeSpec, song, write_songs
from tests.training.trainers import trainer_of


class Four(Team):
    count = 4


def test_no_rank_is_left_without_a_sample(make_spec: MakeSpec) -> None:
    """Though one process would compute them all at once."""
    songs = write_songs(Path("alike"), [song(number, 20) for number in range(8)])
    trainer = trainer_of(make_spec(dataset_dir=songs, batch_size=8, accumulation=1))
    entries = trainer.schedule.group(0).entries
    assert trainer.micro_batches(entries) == [[0, 1, 2, 3, 4, 5, 6, 7]]
    trainer.team = Four()
    assert trainer.micro_batches(entries) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert trainer.micro_batches(entries[:2]) == [[0], [1]]


class Threads(Processes):
    """A rank of several in this process; `shelf` is where they put what the others take."""

    def __init__(self, rank: int, shelf: list[Tensor], barrier: Barrier) -> None:
        self.rank, self.count = rank, len(shelf)
        self._shelf, self._barrier = shelf, barrier

    def exchange(self, sent: Tensor, got: Tensor) -> None:
        found = self._put(sent)
        got.copy_(torch.stack([each[self.rank] for each in found]))

    def joined(self, own: Tensor) -> Tensor:
        return torch.cat(self._put(own))

    def add_up(self, values: Tensor) -> None:
        values.copy_(torch.stack(self._put(values)).sum(0))

    def _put(self, own: Tensor) -> list[Tensor]:
        self._shelf[self.rank] = own.clone()
        self._barrier.wait(30)
        found = list(self._shelf)
        self._barrier.wait(30)
        return found


SHAPES = ((3, 5), (7,), (2, 2, 2))


def pieces(count: int) -> list[list[Tensor]]:
    """The gradients of so many micro-batches, of very different sizes, with zeros of both signs."""
    generator = torch.Generator().manual_seed(count)
    found = [[torch.randn(shape, generator=generator) * 10.0**n for shape in SHAPES] for n in range(count)]
    for piece in found:
        piece[1][:2] = -0.0
    return found


def added_by(
    count: int, kind: Callable[..., Ordered | AllReduced], made: list[list[Tensor]]
) -> list[tuple[list[Tensor], Tensor]]:
    """What each of `count` ranks has in the end: the gradients, and the losses 0, 1, 2, …"""
    shelf, barrier = [torch.empty(0)] * count, Barrier(count)

    def work(rank: int) -> tuple[list[Tensor], Tensor]:
        found = torch.empty(0)
        parameters = [Parameter(torch.zeros(shape)) for shape in SHAPES]
        sums = kind(Threads(rank, shelf, barrier), parameters, 1)
        for _ in range(2):  # the second step knows nothing of the first
            sums.begin()
            for first in range(0, len(made), count):
                dealt = [[position] for position in range(first, min(first + count, len(made)))]
                losses = None
                if rank < len(dealt):
                    for parameter, gradient in zip(parameters, made[first + rank], strict=True):
                        piece = gradient.clone()
                        parameter.grad = piece if parameter.grad is None else parameter.grad + piece
                    losses = torch.tensor([float(first + rank)])
                sums.add(dealt, losses)
            found = sums.finish(len(made))
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            for parameter in parameters:
                parameter.grad = None
        return gradients, found

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(work, range(count)))


@pytest.mark.parametrize("samples", [1, 4, 5, 7])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ordered_sums_are_those_of_one_rank_to_the_bit(ranks: int, samples: int) -> None:
    made = pieces(samples)
    alone = [gradient.clone() for gradient in made[0]]
    for piece in made[1:]:
        for gradient, more in zip(alone, piece, strict=True):
            gradient += more
    for gradients, losses in added_by(ranks, Ordered, made):
        assert losses.tolist() == list(range(samples))
        assert [bits(gradient) for gradient in gradients] == [bits(gradient) for gradient in alone]


def test_reduced_sums_are_the_same_but_for_the_last_bits() -> None:
    made = pieces(5)
    alone = [sum(each[1:], start=each[0]) for each in zip(*made, strict=True)]
    for gradients, losses in added_by(3, AllReduced, made):
        assert losses.tolist() == list(range(5))
        for gradient, wanted in zip(gradients, alone, strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=0)


def bits(tensor: Tensor) -> list[int]:
    return tensor.flatten().view(torch.int32).tolist()
