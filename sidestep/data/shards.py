"""Dealing songs to shards, and what each shard's index says of itself.

A song's shard follows from its path alone. So each process deals by itself and all come to the same, adding
songs moves none of the others, and another number of shards moves as few as can be.
"""

from dataclasses import dataclass
from hashlib import sha256

from sidestep.config.shards import FOLDER, Shard
from sidestep.runtime.errors import BadDataError
from sidestep.storage.store import Store

_ESCAPE = "surrogateescape"  # of names that are no UTF-8
INDEX_FILE = "index.json"


@dataclass(frozen=True)
class Dealt:
    """Of what an index is a part. `songs` and `recipe` are the same in all shards that belong together."""

    shard: str  # 0-of-3
    songs: str  # digest of the whole dataset's, see `data.dealing.list_digest`
    recipe: str  # digest of settings and weights
    roots: tuple[str, ...]  # the folders of this shard's songs


def dealt_to(path: str, of: int) -> int:
    """The shard, below `of`, of the song that a dataset lists under this path.

    Jump consistent hash (Lamping, Veach 2014, https://arxiv.org/abs/1406.2294) over 64 bits of the path's.
    """
    key = int.from_bytes(sha256(f"sidestep.shard/{path}".encode(errors=_ESCAPE)).digest()[:8])
    found, jump = 0, 0
    while jump < of:
        found = jump
        key = (key * 2862933555777941757 + 1) % 2**64
        jump = int((found + 1) * (2**31 / ((key >> 33) + 1)))
    return found


def shards_in(tensors: Store) -> list[Shard]:
    """The shards that have an index in a place of tensors, sorted by their number."""
    found = [file.path.split("/") for file in tensors.list_files(FOLDER)]
    named = [Shard.called(parts[1]) for parts in found if len(parts) == 3 and parts[2] == INDEX_FILE]
    return sorted((shard for shard in named if shard), key=lambda shard: (shard.of, shard.k))


def refuse_unmerged(tensors: Store) -> None:
    """Raise BadDataError where a place without an index has those of shards: its `.pt` files may be any part
    of the dataset."""
    if found := shards_in(tensors):
        names = ", ".join(str(of) for of in sorted({shard.of for shard in found}))
        raise BadDataError(
            f"{tensors.place} has tensors of shards (of {names}) that are not merged\n"
            "  `sidestep merge-index` makes one dataset of them, as does the next task when it is run"
        )
