"""Signs of life: who is waited for, for how long, and how a writer finds out that it was given up."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sidestep.commitlog.lease import Lease, Watch, heartbeat_path
from sidestep.commitlog.log import CommitLog
from sidestep.commitlog.writer import Writer, take_over
from sidestep.runtime.errors import TakenError
from sidestep.storage.store import Store
from tests.clock import Clock
from tests.commitlog.commits import FENCED, begin, commit, lose_commit, newest


def test_a_paused_heartbeat_finds_out_that_it_was_given_up(
    writer: Writer, store: Store, lease: Lease, clock: Clock
) -> None:
    second = begin(store, lease)
    writer.check()
    clock.now += lease.seconds  # as after SIGSTOP
    writer.heartbeat.beat()
    with pytest.raises(TakenError, match=FENCED):
        writer.check()
    second.heartbeat.beat()  # as long after the last, and nobody else came
    second.check()


def test_a_pause_of_more_than_half_a_lease_is_enough_to_ask(
    writer: Writer, store: Store, lease: Lease, clock: Clock
) -> None:
    """Whoever took over may have watched for longer than this writer was paused."""
    take_over(CommitLog(store), replace(lease, seconds=0), None, {})
    clock.now += 0.6 * lease.seconds
    writer.heartbeat.beat()
    with pytest.raises(TakenError, match=FENCED):
        writer.check()


def test_a_living_writer_is_not_disturbed(
    writer: Writer, store: Store, lease: Lease, clock: Clock, tmp_path: Path
) -> None:
    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        assert clock.now < lease.seconds
        if sum(clock.slept) >= lease.beat_seconds:
            writer.heartbeat.beat()

    with pytest.raises(TakenError, match="it showed life a moment ago"):
        begin(store, replace(lease, sleep=sleep))
    commit(writer, tmp_path, 1)
    assert newest(store, tmp_path / "newest") == 1


def test_a_writer_that_stands_still_is_waited_for_as_long_as_a_lease(
    writer: Writer, store: Store, lease: Lease, clock: Clock
) -> None:
    watch = Watch(store, writer.generation, lease)
    clock.now += 30
    watch.wait()
    assert 60 <= clock.now <= 61  # from when the watch began, not from when it is waited for
    assert begin(store, lease).generation == 2
    assert 120 <= clock.now <= 122


def test_a_writer_that_has_signed_off_is_not_waited_for(
    writer: Writer, store: Store, lease: Lease, clock: Clock
) -> None:
    writer.release()
    assert begin(store, lease).generation == 2
    assert clock.slept == []


def test_signs_of_life_are_given_in_the_background(store: Store) -> None:
    heartbeat = heartbeat_path(1)
    with take_over(CommitLog(store), Lease(0.06), None, {}):
        seen: set[bytes] = set()
        end = time.monotonic() + 30
        while len(seen) < 3 and time.monotonic() < end:
            seen.add(store.read_bytes(heartbeat))
            time.sleep(0.002)
        assert len(seen) == 3
    assert json.loads(store.read_bytes(heartbeat)) == {"released": True}


def test_a_paused_heartbeat_looks_beyond_the_records_of_its_own(
    writer: Writer, store: Store, lease: Lease, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_commit(writer, tmp_path, 1, monkeypatch)
    begin(store, lease)
    clock.now += lease.seconds
    writer.heartbeat.beat()
    with pytest.raises(TakenError, match=FENCED):
        writer.check()


def test_only_heartbeats_of_older_generations_are_deleted(
    writer: Writer, store: Store, lease: Lease, tmp_path: Path
) -> None:
    for name in ("000001.json.bak", "000003.json", "notes"):
        store.write_bytes(f"heartbeats/{name}", b"")
    writer.release()
    begin(store, lease)
    names = [file.path for file in store.list_files("heartbeats")]
    assert names == [
        f"heartbeats/{name}" for name in ("000001.json.bak", "000002.json", "000003.json", "notes")
    ]


def test_each_sign_of_life_begins_the_lease_anew(
    writer: Writer, store: Store, lease: Lease, clock: Clock
) -> None:
    watch = Watch(store, writer.generation, lease)
    clock.now += 0.9 * lease.seconds
    writer.heartbeat.beat()
    assert not watch.is_free()
    clock.now += 0.9 * lease.seconds
    assert not watch.is_free()
    clock.now += 0.1 * lease.seconds
    assert watch.is_free()


def test_a_writer_that_was_given_up_says_nothing_when_it_ends(
    writer: Writer, store: Store, lease: Lease, clock: Clock
) -> None:
    begin(store, lease)
    assert store.stat(heartbeat_path(1)) is None
    clock.now += lease.seconds
    writer.heartbeat.beat()
    writer.release()
    assert store.stat(heartbeat_path(1)) is None


def test_a_pause_behind_the_look_is_no_standing_still(
    store: Store, lease: Lease, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after SIGSTOP: the other may have given its first sign of life meanwhile."""
    begin(store, lease)
    watch = Watch(store, 1, lease)
    read = type(store).read_bytes

    def paused(self: Store, path: str) -> bytes:
        data = read(self, path)
        clock.now += lease.seconds
        return data

    with monkeypatch.context() as pause:
        pause.setattr(type(store), "read_bytes", paused)
        assert not watch.is_free()
    assert watch.is_free()
