"""Which songs of a dataset are a shard's, and what all shards of it have in common."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from hashlib import sha256

from sidestep.config.shards import Shard
from sidestep.data.dataset import Song
from sidestep.data.shards import dealt_to

_PLACE = ("store", "file")  # of a song: where it is, here


def shard_of_song(song: Song, of: int) -> int:
    """The number, below `of`, of the shard that a song is dealt to: by the dataset JSON's entry, or by the
    path below audio_dir, and not by where this machine has found it."""
    return dealt_to(song.entry or song.path, of)


def songs_of(songs: Sequence[Song], shard: Shard | None) -> list[Song]:
    """The songs of a shard, in the order of all; all of them where there is none."""
    return [song for song in songs if shard is None or shard_of_song(song, shard.of) == shard.k]


def list_digest(songs: Sequence[Song]) -> str:
    """A digest of a dataset's songs: their paths, sizes and texts. Times and versions are left out: two
    machines may have copies of their own."""
    lines = sorted(
        json.dumps(
            {field.name: getattr(song, field.name) for field in fields(song) if field.name not in _PLACE}
            | {"path": song.path, "size": song.file.size, "share": asdict(song.share)},
            sort_keys=True,
        )
        for song in songs
    )
    return sha256("\n".join(lines).encode()).hexdigest()
