"""Chunks that cover a song: over the epochs, each part of it is seen as often as any other."""

import torch

from sidestep.training import rng


def covering(seed: int, song: int, visit: int, frames: int, size: int) -> slice:
    """The part, `size` frames long, that is seen of a song of `frames` at its visit number `visit` (from 0).

    In each round of n = ⌈frames / size⌉ visits all of the song is seen, in an order drawn anew. Where the
    parts do not come out even, two neighbours overlap, in each round the next two: after n − 1 rounds, each
    frame has been seen n − 1 or n times.
    """
    parts = -(-frames // size)
    turn, place = divmod(visit, parts)
    order = torch.randperm(parts, generator=rng.generator(seed, f"cover/{song}", turn)).tolist()
    part: int = order[place]
    overlapping = turn % (parts - 1)  # this part and the next one: up to it the song is cut from its start
    start = part * size if part <= overlapping else frames - (parts - part) * size
    return slice(start, start + size)
