"""Up to three writers at a time, on a store that loses answers, lists late and lets requests land late, in
processes that end, or stand still, between any two calls.

Whatever comes: no two records have one number, the generations only grow, a commit that a writer was told of
is in the log and whole, a checkpoint never has files of two writers, and a writer that was taken over stops.

`make torture` tries more runs, other ones each time; SIDESTEP_TEST_EXAMPLES says how many.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sidestep.commitlog.lease import Lease, Watch, heartbeat_path
from sidestep.commitlog.log import CommitLog, Record, record_path
from sidestep.commitlog.writer import Writer, take_over
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import AgainError, SideStepError, StorageError, TakenError
from tests.commitlog.world import FATES, Crash, Process, World

EXAMPLES = int(os.environ.get("SIDESTEP_TEST_EXAMPLES", 200))  # here: no test sees a variable of ours
QUICK = settings(stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
FILES = ("a", "b")
DAMAGES = (lambda data: data[:-1], lambda data: data[:-1] + b"?", lambda data: None)
RECORD_DAMAGES = (
    lambda data, other: data[: len(data) // 2],
    lambda data, other: data.replace(b"checkpoint-step-1", b"checkpoint-step-3").replace(b"take", b"fake"),
    lambda data, other: other,
    lambda data, other: None,
)
KEPT = 2  # checkpoints
STEPS = 3  # of each process
LEASE = 6.0
fates = st.sampled_from(["stop", "stop", *FATES])
CALLS = ("create", "create", "upload", "list_files", "delete", "write_bytes")


def content(process: int, step: int, file: str) -> bytes:
    """Of a checkpoint's file: it says whose it is."""
    return f"{file} of process {process} after step {step}".encode()


class Attempt(Process):
    """One attempt at the run, in the order of `sidestep.tasks.train`: what takes part in the commit log.

    Attributes:
        writer: once it is one.
        told: the records that it was told are in the log.
        beaten: when its heartbeat was given last.
        is_beating: whether the thread of its heartbeat would be running.
    """

    def __init__(
        self, world: World, number: int, folder: Path, tries: int = 2, publishes: int | None = None
    ) -> None:
        """
        Args:
            tries: of a commit that meets a failure, until it is given up for the next one.
            publishes: which of the kept checkpoints it makes the adapter from, in place of training.
        """
        super().__init__(world, number)
        self.folder, self.tries, self.publishes = folder, tries, publishes
        self.is_judged = number % 2 == 1  # its end publishes the oldest checkpoint, as the best
        self.lease = Lease(LEASE, lambda: world.now, self.sleep)
        self.writer: Writer | None = None
        self.told: list[Record] = []
        self.beaten, self.is_beating = 0.0, False

    def program(self) -> None:
        commits = CommitLog(self.store)
        if self.publishes is not None:
            self.publish(commits, self.publishes)
            return
        tail = commits.tail()
        watch = Watch(self.store, tail.generation, self.lease) if tail else None
        newest, start = commits.newest_commit(tail), self.fetch(commits, tail)
        writer = self.take_over(commits, watch, {"processor": f"of process {self.number}"})
        try:
            if writer.newest != newest:
                start = self.fetch(commits, commits.tail())
            first = start.step + 1 if start else 1
            for step in range(first, first + STEPS):
                self.save(writer, step)
            if self.told:
                done = writer.finish(writer.newest.kept[-1] if self.is_judged and writer.newest else "")
                self.told.append(done)
                if not done.published:  # an older one may have been damaged since
                    commits.fetch(done, self.folder / f"adapter-{self.number}")
        finally:
            self.release(writer)

    def publish(self, commits: CommitLog, which: int) -> None:
        """As `sidestep.lifecycle.publish.publish_checkpoint` does it."""
        if not list(commits.kept_commits(commits.tail())):
            return
        writer = self.take_over(commits, None, None)
        try:
            if there := list(commits.kept_commits(commits.at(writer.position[0]))):
                self.told.append(writer.publish(there[which % len(there)]))
        finally:
            self.release(writer)

    def take_over(self, commits: CommitLog, watch: Watch | None, machine: dict[str, str] | None) -> Writer:
        writer = take_over(commits, self.lease, watch, machine)
        self.beaten, self.writer, self.generation = self.world.now, writer, writer.generation
        self.is_beating = True
        assert self.world.records[writer.position[0] - 1]["by"] is self, "two are the same writer"
        return writer

    def fetch(self, commits: CommitLog, tail: Record | None) -> Record | None:
        """What it goes on from, which must be as it was committed."""
        folder = self.folder / f"start-{self.number}"
        found = commits.fetch_newest(folder, tail)
        for name, expected in found.files.items() if found else ():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected["sha256"]
        return found

    def save(self, writer: Writer, step: int) -> None:
        """Commit a checkpoint, or give it up."""
        name = f"checkpoint-step-{step}"
        files = self.folder / f"{self.number}-{step}"
        if not files.exists():
            files.mkdir()
            for file in FILES:
                (files / file).write_bytes(content(self.number, step, file))
        for _ in range(self.tries):
            writer.check()
            is_fenced, sent = self.is_fenced(), self.sent
            try:
                self.told.append(writer.commit(files, name, step, writer.checkpoints(name)[:KEPT]))
                return
            except StorageError:
                continue
            finally:
                assert not is_fenced or sent == self.sent or self.world.lost, (
                    "a writer that was taken over has sent files"
                )
                known = self.world.newest_commit(writer.position[0])
                assert self.world.lost or (writer.newest and writer.newest.number) == (
                    known and known["number"]
                )

    def release(self, writer: Writer) -> None:
        is_lost, before = writer.heartbeat.lost.is_set(), self.world.files.get(self.heartbeat)
        self.is_beating = False
        writer.release()
        now = self.world.files.get(self.heartbeat)
        assert now == before if is_lost else self.fate or now == json_bytes({"released": True})

    def is_fenced(self) -> bool:
        """Whether a record after those that its writer knows of is another one's, or may be: it is lost.

        Behind one that is gone it cannot see them.
        """
        assert self.writer
        number, nonce = self.writer.position
        following = takewhile(
            lambda record: record_path(record["number"]) in self.world.files, self.world.records[number:]
        )
        return any(record["nonce"] != nonce or record["number"] in self.world.lost for record in following)

    def beat(self, fate: str = "") -> None:
        """What the heartbeat's thread does every so often."""
        assert self.writer
        since, before = self.world.now - self.beaten, self.world.files.get(self.heartbeat)
        is_fenced, self.fate = self.is_fenced(), fate
        try:
            self.writer.heartbeat.beat()
        except StorageError:
            return
        if self.writer.heartbeat.lost.is_set():
            assert is_fenced, "a writer stops for nothing"
            assert self.world.files.get(self.heartbeat) == before, "a writer that stops shows life"
            with pytest.raises(TakenError):
                self.writer.check()
            self.is_beating = False
        else:
            self.writer.check()
            assert since <= LEASE / 2 or not is_fenced or self.world.lost, (
                "a writer does not know that it was taken over"
            )
            self.beaten = self.world.now

    @property
    def heartbeat(self) -> str:
        return heartbeat_path(self.generation)


class Writers(RuleBasedStateMachine):
    """The rules choose who goes on, how far, and what is broken on the way."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.attempts: list[Attempt] = []
        self.checked = 0  # records
        self.given_up: set[str] = set()  # folders that a commit which is lost kept no more
        self.has_damaged = False

    @property
    def running(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.is_running]

    @property
    def beating(self) -> list[Attempt]:
        return [attempt for attempt in self.running if attempt.is_beating]

    @initialize(calls=st.integers(0, 12), tries=st.integers(1, 2))
    def begin(self, calls: int, tries: int) -> None:
        self.start(calls, tries)

    @precondition(lambda self: len(self.running) < 3)
    @rule(calls=st.integers(0, 8), tries=st.integers(1, 2))
    def start(self, calls: int, tries: int) -> None:
        attempt = Attempt(self.world, len(self.attempts), self.folder, tries)
        self.attempts.append(attempt)
        attempt.start()
        attempt.go_on(calls)

    @precondition(lambda self: 0 < len(self.running) < 3)
    @rule(calls=st.integers(0, 25), tries=st.integers(1, 2))
    def overtake(self, calls: int, tries: int) -> None:
        """All stand still while a new process becomes the writer and goes on."""
        self.start(0, tries)
        attempt = self.attempts[-1]
        for _ in range(200):
            if attempt.is_running and not attempt.writer:
                attempt.go()
        attempt.go_on(calls)

    @precondition(lambda self: self.kept() and len(self.running) < 3)
    @rule(calls=st.integers(0, 40), which=st.integers(0, KEPT))
    def publish(self, calls: int, which: int) -> None:
        """Somebody makes the adapter from a checkpoint, while others may be at work."""
        attempt = Attempt(self.world, len(self.attempts), self.folder, publishes=which)
        self.attempts.append(attempt)
        attempt.start()
        attempt.go_on(calls)

    @precondition(lambda self: self.running)
    @rule(who=st.integers(0, 2), calls=st.integers(0, 25), others_live=st.booleans(), fate=fates)
    def go_on(self, who: int, calls: int, others_live: bool, fate: str) -> None:
        """One process makes some calls; the others stand still, but for their heartbeats."""
        attempt = self.running[who % len(self.running)]
        for _ in range(calls):
            if attempt.at[0] == "sleep" and others_live:
                self.beat_in_time(attempt)
            attempt.go_on(1)
        self.meet(attempt, fate)

    @precondition(lambda self: self.running)
    @rule(who=st.integers(0, 2), call=st.sampled_from(CALLS), fate=fates)
    def go_to(self, who: int, call: str, fate: str) -> None:
        """One process goes on until it is about to make such a call."""
        attempt = self.running[who % len(self.running)]
        for _ in range(80):
            if attempt.at[0] != call:
                attempt.go_on(1)
        self.meet(attempt, fate)

    @precondition(lambda self: 0 < len(self.running) < 3)
    @rule(who=st.integers(0, 2), calls=st.integers(0, 30), fate=st.sampled_from(["", "", "late", "repeated"]))
    def delete_late(self, who: int, calls: int, fate: str) -> None:
        """One process stands still before a delete, while another one takes over and goes on."""
        self.go_to(who, "delete", "stop")
        attempt = self.running[who % len(self.running)] if self.running else None
        if attempt and attempt.at[0] == "delete":
            self.overtake(calls, 1)
            self.meet(attempt, fate)

    @precondition(lambda self: self.beating)
    @rule(who=st.integers(0, 2), fate=st.sampled_from(["", "", "refused", "lost", "late"]))
    def beat(self, who: int, fate: str) -> None:
        self.beating[who % len(self.beating)].beat(fate)

    @rule(seconds=st.sampled_from([1, LEASE / 2 + 0.1, LEASE + 0.1]))
    def stand_still(self, seconds: float) -> None:
        """All processes are paused, and time goes by."""
        self.world.now += seconds

    @rule(changes=st.integers(0, 12))
    def list_late(self, changes: int) -> None:
        self.world.lag = changes

    @precondition(lambda self: self.world.in_flight)
    @rule(which=st.integers(0, 9))
    def land(self, which: int) -> None:
        """A request that was given up for lost gets there."""
        self.world.in_flight.pop(which % len(self.world.in_flight))()

    @precondition(lambda self: self.kept())
    @rule(which=st.integers(0, KEPT - 1), file=st.sampled_from(FILES), how=st.sampled_from(DAMAGES))
    def damage(self, which: int, file: str, how: Callable[[bytes], bytes | None]) -> None:
        """At rest, in a checkpoint that counts."""
        path = f"{self.kept()[which % len(self.kept())]}/{file}"
        if path in self.world.files:
            self.world.damage(path, how(self.world.files[path]))
            self.has_damaged = True
        self.read()

    @invariant()
    def no_record_was_touched(self) -> None:
        assert not self.world.wrong

    @invariant()
    def records_follow_one_another(self) -> None:
        """Each number once, each generation one more than the one before, and each record its writer's.

        Between two of a writer's may be what has a record's number, and was never completed.
        """
        records = self.world.records
        for number, record in enumerate(records[self.checked :], start=self.checked + 1):
            before: dict[str, Any] = records[number - 2] if number > 1 else {"generation": 0, "by": None}
            assert record["number"] == number
            is_lost = before.get("number") in self.world.lost
            if record["by"] is None:
                continue
            if record["kind"] == "take-over":
                assert record["generation"] == before["generation"] + 1 or is_lost
                assert all(
                    record["generation"] > one["generation"] for one in records[: number - 1] if one["by"]
                )
                assert record["by"] is not before["by"] or is_lost
                if number > 1 and not is_lost:
                    self.check_take_over(record["by"], before["generation"])
            else:
                before = next(one for one in reversed(records[: number - 1]) if one["by"])
                assert (record["generation"], record["by"]) == (before["generation"], before["by"])
                if record["kind"] != "publish":
                    self.check_kept(record)
                elif not self.world.lost:
                    newest = self.world.newest_commit(number)
                    assert newest and record["kept"] == newest["kept"]
                    assert record["folder"] in record["kept"]
        self.checked = len(records)

    @invariant()
    def what_was_told_is_in_the_log(self) -> None:
        for attempt in self.attempts:
            for record in attempt.told:
                if record.number not in self.world.lost:
                    assert self.world.files[record_path(record.number)] == record.content()

    @invariant()
    def kept_checkpoints_are_whole(self) -> None:
        for folder in self.kept():
            assert self.is_whole(folder) or self.is_damaged(folder), f"{folder} is lost, or mixed"

    @invariant()
    def what_is_published_stays(self) -> None:
        """Until the run comes to another end, its checkpoint is kept; nobody knows it where records are
        lost."""
        if not self.world.lost and (folder := self.published()):
            assert folder in self.kept()

    @invariant()
    def processes_end_for_a_reason(self) -> None:
        for attempt in self.attempts:
            error = attempt.error
            if error is None or isinstance(error, Crash):
                continue
            assert isinstance(error, SideStepError), repr(error)
            if isinstance(error, AgainError | TakenError):
                assert attempt.writer is None or attempt.is_fenced() or self.world.lost
            else:
                assert attempt.has_met_faults or self.has_damaged or attempt.is_fenced()

    def teardown(self) -> None:
        """Whatever has happened: an attempt that nobody disturbs takes over and ends."""
        for attempt in self.attempts:
            attempt.crash()
        self.world.lag = 0
        self.start(calls=500, tries=1)
        last = self.attempts[-1]
        assert not last.is_running and last.error is None, last.error
        assert [record.kind for record in last.told] == ["commit"] * STEPS + ["done"]
        self.records_follow_one_another()
        self.kept_checkpoints_are_whole()
        self.read()

    def read(self) -> None:
        """A reader finds the newest checkpoint that is whole, or none."""
        commits = CommitLog(Attempt(self.world, -1, self.folder).store)
        found = commits.fetch_newest(self.folder / "read", commits.tail())
        commits_there = (one for one in self.world.records if one["files"])
        told = {one["folder"] for one in commits_there if one["number"] not in self.world.lost}
        whole = [folder for folder in self.kept() if folder in told and self.is_whole(folder)]
        assert (found and found.folder) == (whole[0] if whole else None)
        for name in FILES if found else ():
            assert (self.folder / "read" / name).read_bytes() == self.world.files[f"{whole[0]}/{name}"]

    def beat_in_time(self, but: Attempt) -> None:
        """Time has passed: all heartbeats that are due are given, but for one process's."""
        for attempt in self.beating:
            if attempt is not but and self.world.now - attempt.beaten >= attempt.lease.beat_seconds:
                attempt.beat()

    def meet(self, attempt: Attempt, fate: str) -> None:
        """The call that a process is about to make meets that fate; with "stop" it is not made yet."""
        if attempt.is_running and fate != "stop":
            attempt.go("" if attempt.at[0] == "sleep" and fate != "crash" else fate)

    def check_take_over(self, attempt: Attempt, generation: int) -> None:
        """Only from a writer that had ended, or shown no life for as long as a lease is."""
        heartbeat = heartbeat_path(generation)
        assert heartbeat in attempt.seen_released or attempt.stood_still.get(heartbeat, 0) >= LEASE

    def check_kept(self, record: dict[str, Any]) -> None:
        """A record keeps itself and as many as the rule says of those that the commit before it kept.

        Its writer may know of a commit before it that it was not told of, or not.
        """
        allowed = []
        for before in reversed(self.world.records[: record["number"] - 1]):
            if before["files"]:
                kept = [record["folder"], *(kept for kept in before["kept"] if kept != record["folder"])]
                stays = (
                    record["published"] if record["kind"] == "commit" else self.published(record["number"])
                )
                allowed.append([at for at in kept if at in kept[:KEPT] or at == stays])
                if self.world.lost:  # its writer may know of what was published by a record that is lost
                    allowed += [[*kept[:KEPT], at] for at in kept[KEPT:]]
                is_known = before["by"] is not record["by"] or self.was_told(before)
                if is_known and before["number"] not in self.world.lost:
                    break
        else:
            allowed.append([record["folder"]])
        assert record["kept"] in allowed

    def published(self, until: int | None = None) -> str:
        """The folder that the adapter was made from by the records before that number, since the last end."""
        told = (record for record in reversed(self.world.records[: until and until - 1]))
        newest = next((record for record in told if record["kind"] in ("publish", "done")), None)
        if newest is None:
            return ""
        is_by_hand = newest["kind"] == "publish"
        folder: str = newest["folder"] if is_by_hand else newest["published"]
        return folder

    def kept(self) -> list[str]:
        """The folders of the checkpoints that the newest commit keeps, the newest first."""
        newest = self.world.newest_commit()
        return newest["kept"] if newest else []

    def is_whole(self, folder: str) -> bool:
        """Whether all files are those of the one writer that committed this checkpoint."""
        commits = (record for record in reversed(self.world.records) if record["files"])
        record = next(record for record in commits if record["folder"] == folder)
        return record["files"].keys() == set(FILES) and all(
            self.world.files.get(f"{folder}/{file}") == content(record["by"].number, record["step"], file)
            for file in FILES
        )

    def is_damaged(self, folder: str) -> bool:
        return folder in self.given_up or any(f"{folder}/{file}" in self.world.damaged for file in FILES)

    def was_told(self, record: dict[str, Any]) -> bool:
        return any(told.number == record["number"] for told in record["by"].told)


class WritersAndLostRecords(Writers):
    """Records are damaged at rest, too, or gone; and files lie among them that are none."""

    @precondition(lambda self: self.world.records and not self.world.lag)
    @rule(back=st.integers(0, 6), how=st.sampled_from(RECORD_DAMAGES))
    def lose_record(self, back: int, how: Callable[..., bytes | None]) -> None:
        """Nothing tells that the newest one is gone, so it is only damaged."""
        world, number = self.world, max(1, len(self.world.records) - back)
        path = record_path(number)
        if path not in world.files:
            return
        newest, other = world.newest_commit(), record_path(max(1, number - 1))
        data = how(world.files[path], world.files.get(other))
        if (data is None and back == 0) or data == world.files[path]:
            return
        world.lose_record(number, data)
        now = world.newest_commit()
        if newest and newest != now:
            self.given_up |= set(now["kept"] if now else ()) - set(newest["kept"])
        self.has_damaged = True

    @rule(data=st.sampled_from([b"", b"x", b"{}"]))
    def take_number(self, data: bytes) -> None:
        """Something that is no record has the number of the next one."""
        self.world.lose_record(len(self.world.records) + 1, data)
        self.has_damaged = True

    @rule(
        name=st.sampled_from(["999999.json", "0000002.json", "000002.json.bak", "000002.json/a", "readme"]),
        which=st.integers(0, 20),
    )
    def stray(self, name: str, which: int) -> None:
        records = [data for path, data in self.world.files.items() if path.startswith("commits/")]
        self.world.files[f"commits/{name}"] = records[which % len(records)] if records else b"x"

    @rule()
    def list_late(self) -> None:
        """Not here: of a record that is lost, nothing but a listing tells."""


@pytest.fixture(params=[Writers, WritersAndLostRecords])
def machine(
    request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> type[Writers]:
    caplog.set_level(logging.CRITICAL)  # hundreds of warnings
    return type("Machine", (request.param,), {"folder": tmp_path})


@pytest.mark.parametrize(
    ("machine", "examples"),
    [
        (Writers, 60),
        pytest.param(Writers, 150, marks=pytest.mark.slow),
        pytest.param(WritersAndLostRecords, 150, marks=pytest.mark.slow),
    ],
    indirect=["machine"],
)
def test_the_commit_log_keeps_its_promises(machine: type[Writers], examples: int) -> None:
    """The same runs each time, and no search for a shorter way to a failure, which takes minutes."""
    same = settings(QUICK, max_examples=examples, derandomize=True, phases=[Phase.generate])
    run_state_machine_as_test(machine, settings=same)


@pytest.mark.search
@pytest.mark.timeout(3600)
def test_the_commit_log_keeps_its_promises_in_other_runs_each_time(machine: type[Writers]) -> None:
    run_state_machine_as_test(machine, settings=settings(QUICK, max_examples=EXAMPLES))
