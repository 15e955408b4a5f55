"""What each shard of a preprocessing reads: its songs and their bytes, by the listing alone."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.filesize import decimal

from sidestep.config.shards import shards_of
from sidestep.data.dataset import Song
from sidestep.data.dealing import shard_of_song
from sidestep.runtime.words import counted


@dataclass(frozen=True)
class ShardPlan:
    """A shard's songs, and the bytes of their files."""

    shard: str
    songs: int
    bytes: int


def plan_shards(songs: Sequence[Song], of: int) -> list[ShardPlan]:
    """What each of so many shards is dealt."""
    sizes: list[list[int]] = [[] for _ in range(of)]
    for song in songs:
        sizes[shard_of_song(song, of)].append(song.file.size)
    return [
        ShardPlan(shard.name, len(own), sum(own)) for shard, own in zip(shards_of(of), sizes, strict=True)
    ]


def shards_as_text(plans: Sequence[ShardPlan]) -> str:
    """A line for each, and how much longer the largest takes than if all were alike."""
    width = max(len(plan.shard) for plan in plans)
    largest, total = max(plan.bytes for plan in plans), sum(plan.bytes for plan in plans)
    lines = [f"The shards: {len(plans)}, each a job of its own; together they take what is planned above"]
    lines += [
        f"  {plan.shard:{width}}  {counted(plan.songs, 'songs'):>12}  {decimal(plan.bytes):>10}"
        for plan in plans
    ]
    if total:
        lines.append(
            f"  The largest has {largest / total:.1%} of all bytes, {largest * len(plans) / total:.2f} times "
            "its share."
        )
    return "\n".join(lines) + "\n"


def shards_as_data(plans: Sequence[ShardPlan]) -> list[dict[str, Any]]:
    """The same for JSON."""
    return [asdict(plan) for plan in plans]
