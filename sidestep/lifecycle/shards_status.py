"""What a sharded preprocessing is doing: the status of each shard, and what all of them have cost."""

from collections import Counter

from pydantic import BaseModel

from sidestep.config.shards import FOLDER, Shard, shards_of
from sidestep.lifecycle.status import FILE, Spent, Status
from sidestep.runtime.errors import MissingInputError
from sidestep.runtime.words import counted, duration
from sidestep.storage.store import Store

NOT_BEGUN = "not begun"
LOST = "lost"  # it says that it runs, and has not been heard of
STATES = ("done", "running", "preempted", "failed", LOST, NOT_BEGUN)


class ShardStatus(BaseModel):
    """One shard; without a status it has not begun."""

    shard: str
    status: Status | None

    @property
    def state(self) -> str:
        if self.status is None:
            return NOT_BEGUN
        return LOST if self.status.is_stale() else self.status.state

    def in_words(self) -> str:
        """How it is, on one line."""
        status = self.status
        if status is None:
            return f"{self.shard}: {NOT_BEGUN}"
        parts = [f"{self.state}, attempt {status.attempt}"]
        if self.state == LOST:
            parts.append(f"no sign of life for {duration(status.silence())}")
        if status.state == "failed":
            parts.append(f"code {status.exit_code}")
            parts += status.message.splitlines()[:3]
        return f"{self.shard}: {', '.join(parts)}"


class ShardsStatus(BaseModel):
    """All shards of one number; `spent` is what their attempts have cost together, at other numbers, too."""

    place: str
    name: str
    shards: list[ShardStatus]
    spent: Spent

    @property
    def has_ended(self) -> bool:
        """Whether each shard has, well or not."""
        return all(shard.state in ("done", "failed") for shard in self.shards)

    def in_words(self) -> list[str]:
        """Some lines, the most important first. Of shards that are done no more than their number is said."""
        count = Counter(shard.state for shard in self.shards)
        states = ", ".join(f"{count[state]} {state}" for state in STATES if count[state])
        lines = [f"{self.name}: preprocess in {counted(len(self.shards), 'shards')}: {states}"]
        lines += [shard.in_words() for shard in self.shards if shard.state != "done"]
        spent = self.spent
        preempted = f", {spent.preemptions} of them preempted" if spent.preemptions else ""
        seconds = sum(spent.seconds.values())
        return [*lines, f"{counted(spent.attempts, 'attempts')}{preempted}, {duration(seconds)} in all"]


def are_newest(store: Store) -> bool:
    """Whether shards are what an output was last heard of: it may hold a run as well that came after them."""
    told = _told(store)
    if not told:
        return False
    try:
        whole = Status.read(store.read_small(FILE), f"{store.place}/{FILE}")
    except MissingInputError:
        return True
    return whole.heartbeat < max(status.heartbeat for status in told.values())


def shards_status(store: Store) -> ShardsStatus:
    """The shards in an output: those of the number that was last heard of. Raises BadDataError where one of
    their files is damaged, MissingInputError where there are none."""
    told = _told(store)
    if not told:
        raise MissingInputError(f"there is no {FOLDER}/*/{FILE} in {store.place}: no shard has begun there")
    newest = max(told, key=lambda shard: told[shard].heartbeat)
    shards = [ShardStatus(shard=shard.name, status=told.get(shard)) for shard in shards_of(newest.of)]
    return ShardsStatus(
        place=store.place,
        name=told[newest].name,
        shards=shards,
        spent=_sum([one.spent for one in told.values()]),
    )


def _told(store: Store) -> dict[Shard, Status]:
    found: dict[Shard, Status] = {}
    for file in store.list_files(FOLDER):
        _, name, *rest = file.path.split("/")
        if rest == [FILE] and (shard := Shard.called(name)):
            found[shard] = Status.read(store.read_small(file.path), f"{store.place}/{file.path}")
    return found


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
