"""What a sharded preprocessing is doing: the status of each shard, and what all of them have cost."""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel

from sidestep.config.shards import FOLDER, Shard, shards_of
from sidestep.lifecycle.part_status import NOT_BEGUN, PartStatus, counted_states, read_part
from sidestep.lifecycle.status import FILE, Spent
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.words import counted, duration, some
from sidestep.storage.store import Store


class ShardStatus(PartStatus):
    """One shard."""

    shard: str

    def in_words(self) -> str:
        """How it is, on one line."""
        parts = [self.state]
        if status := self.status:
            parts.append(f"attempt {status.attempt}")
        parts += self.trouble()
        if status and status.state == "failed":
            parts.append(f"code {status.exit_code}")
            parts += status.message.splitlines()[:3]
        return f"{self.shard}: {', '.join(parts)}"


class ShardsStatus(BaseModel):
    """All shards of one number.

    Attributes:
        spent: what their attempts have cost together, at other numbers, too.
        damaged: what is wrong with the status of the output itself, which a job after them has written.
    """

    place: str
    name: str
    shards: list[ShardStatus]
    spent: Spent
    damaged: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether each shard has, well or not."""
        return all(shard.state in ("done", "failed") for shard in self.shards)

    def in_words(self) -> list[str]:
        """Some lines, the most important first. Of shards that are done no more than their number is said,
        and of those that have not begun the first names."""
        shards = counted(len(self.shards), "shards")
        lines = [f"{self.name}: preprocess in {shards}: {counted_states(self.shards)}"]
        lines += [self.damaged] if self.damaged else []
        lines += [shard.in_words() for shard in self.shards if shard.state not in ("done", NOT_BEGUN)]
        if waiting := [shard.shard for shard in self.shards if shard.state == NOT_BEGUN]:
            lines.append(f"{NOT_BEGUN}: {some(waiting)}")
        spent = self.spent
        preempted = f", {spent.preemptions} of them preempted" if spent.preemptions else ""
        seconds = sum(spent.seconds.values())
        return [*lines, f"{counted(spent.attempts, 'attempts')}{preempted}, {duration(seconds)} in all"]


def are_newest(store: Store) -> bool:
    """Whether shards are what an output was last heard of: it may hold a run as well that came after them.

    Where one of their files is damaged, or the run's own is, nobody knows: then what can be read counts.
    """
    told = _told(store)
    known = [shard.status for shard in told.values() if shard.status]
    if not known:
        return not store.stat(FILE) and bool(told)
    whole, _ = read_part(store)
    return whole is None or whole.heartbeat < max(status.heartbeat for status in known)


def shards_status(store: Store) -> ShardsStatus:
    """The shards in an output: those of the number that was last heard of.

    Raises BadDataError where all of their files are damaged, MissingInputError where there are none.
    """
    told = _told(store)
    if not told:
        raise MissingInputError(f"there is no {FOLDER}/*/{FILE} in {store.place}: no shard has begun there")
    known = {shard: one.status for shard, one in told.items() if one.status}
    if not known:
        raise BadDataError("\n  ".join(line for one in told.values() for line in one.trouble()))
    newest = max(known, key=lambda shard: known[shard].heartbeat)
    shards = [told.get(shard) or ShardStatus(shard=shard.name, status=None) for shard in shards_of(newest.of)]
    return ShardsStatus(
        place=store.place,
        name=known[newest].name,
        shards=shards,
        spent=_sum([one.spent for one in known.values()]),
        damaged=read_part(store)[1],
    )


def _told(store: Store) -> Mapping[Shard, ShardStatus]:
    """What each shard says that is there, by one listing."""
    paths: dict[Shard, str] = {}
    for file in store.list_files(FOLDER):
        _, name, *rest = file.path.split("/")
        if rest == [FILE] and (shard := Shard.called(name)):
            paths[shard] = file.path
    with ThreadPoolExecutor(store.options.connections) as pool:
        read = zip(paths, pool.map(lambda path: read_part(store, path), paths.values()), strict=True)
        return {
            shard: ShardStatus(shard=shard.name, status=status, damaged=damaged)
            for shard, (status, damaged) in read
        }


def _sum(parts: list[Spent]) -> Spent:
    seconds: Counter[str] = Counter()
    for one in parts:
        seconds.update(one.seconds)
    return Spent(
        attempts=sum(one.attempts for one in parts),
        preemptions=sum(one.preemptions for one in parts),
        seconds={phase: round(value, 1) for phase, value in seconds.items()},
        gpu_seconds=round(sum(one.gpu_seconds for one in parts), 1),
    )
