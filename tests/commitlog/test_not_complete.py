"""Records that are empty or cut short, as disks without hard links show them, for a while or for ever."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sidestep.commitlog import log as log_module
from sidestep.commitlog.lease import Lease
from sidestep.commitlog.log import CommitLog, Record, is_begun
from sidestep.commitlog.writer import Writer
from sidestep.config.schema import StorageSpec
from sidestep.runtime.creating import PATIENCE
from sidestep.runtime.errors import MachineError, TakenError
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from tests.clock import Clock
from tests.commitlog.commits import FENCED, begin, commit, newest, records_of
from tests.disks import LACKS, answer

Torn = Callable[[bytes], bytes]
TORN = [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: data[:-2], lambda data: bytes(9)]
WHOLE = Record("take-over", 2, "another writer", number=3).content()

CHALLENGER = """
import sys
from pathlib import Path
import pytest
from sidestep.commitlog.lease import Lease
from sidestep.commitlog.log import CommitLog
from sidestep.commitlog.writer import take_over
from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import TakenError
from sidestep.storage.open import open_store
from tests.disks import LACKS, answer

answer(pytest.MonkeyPatch(), **LACKS["exclusive"])
print("ready", flush=True)
sys.stdin.readline()
taken = 0
while taken < 8:
    commits = CommitLog(open_store(sys.argv[1], StorageSpec()))
    try:
        print(take_over(commits, Lease(0), None, {}).position)
        taken += 1
    except TakenError:  # the other one has become the writer while this one looked
        pass
"""


@pytest.fixture
def log(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> CommitLog:
    """One that waits, by the test's own clock."""
    monkeypatch.setattr(log_module, "PATIENCE", PATIENCE)
    return CommitLog(store, clock, clock.sleep)


@pytest.mark.parametrize("torn", TORN)
def test_the_writer_goes_on_with_the_next_number(
    writer: Writer, store: Store, tmp_path: Path, torn: Torn
) -> None:
    """Whoever was to write it is no writer yet."""
    commit(writer, tmp_path, 1)
    store.write_bytes("commits/000003.json", torn(WHOLE))
    commit(writer, tmp_path, 2)
    writer.finish()
    assert records_of(store) == [(5, "done", 2), (4, "commit", 2), (2, "commit", 1), (1, "take-over", 0)]
    assert writer.newest and writer.newest.step == 2


def test_the_writer_s_clean_up_and_heartbeat_do_not_mind(
    writer: Writer, store: Store, lease: Lease, clock: Clock, tmp_path: Path
) -> None:
    commit(writer, tmp_path, 1, keep=1)
    store.write_bytes("commits/000003.json", b"")
    clock.now += lease.seconds  # as after a pause: it asks whether it still is the writer
    writer.heartbeat.beat()
    writer.check()
    writer.check_now()
    commit(writer, tmp_path, 2, keep=1)
    assert {file.path.split("/")[1] for file in store.list_files("checkpoints")} == {"checkpoint-epoch-2"}


@pytest.mark.parametrize("torn", TORN)
def test_a_writer_that_was_taken_over_stops_though_that_record_is_cut_short_since(
    writer: Writer, store: Store, lease: Lease, tmp_path: Path, torn: Torn
) -> None:
    begin(store, lease)
    store.write_bytes("commits/000002.json", torn(store.read_bytes("commits/000002.json")))
    with pytest.raises(TakenError, match=FENCED):
        commit(writer, tmp_path, 1)


def test_what_never_was_a_record_ends_the_writer(writer: Writer, store: Store, tmp_path: Path) -> None:
    assert not is_begun(b"a note") and not is_begun(WHOLE) and is_begun(WHOLE[:-1])
    store.write_bytes("commits/000002.json", b"a note")
    with pytest.raises(TakenError, match=FENCED):
        commit(writer, tmp_path, 1)


def test_the_living_writer_is_seen_behind_it(
    writer: Writer, store: Store, lease: Lease, clock: Clock, tmp_path: Path
) -> None:
    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        writer.heartbeat.beat()

    store.write_bytes("commits/000002.json", b"")
    with pytest.raises(TakenError, match="showed life"):
        begin(store, replace(lease, sleep=sleep))
    commit(writer, tmp_path, 1)


def test_whoever_takes_over_skips_the_generation_that_it_may_have_had(
    writer: Writer, store: Store, lease: Lease, clock: Clock
) -> None:
    """Its writer may only be slow: folders of its generation are its own. And it is waited for."""
    writer.release()
    store.write_bytes("commits/000002.json", b"")
    following = begin(store, lease)
    assert (following.generation, following.position[0]) == (3, 3)
    assert clock.now >= lease.seconds


def test_it_is_waited_for(log: CommitLog, writer: Writer, store: Store, clock: Clock) -> None:
    store.write_bytes("commits/000002.json", b"")
    tail = log.tail()
    assert PATIENCE <= clock.now < PATIENCE + 1
    assert tail and (tail.number, tail.nonce) == (2, writer.position[1])
    log.tail()
    assert clock.now < PATIENCE + 1  # once


def test_it_may_become_whole_meanwhile(log: CommitLog, writer: Writer, store: Store, clock: Clock) -> None:
    store.write_bytes("commits/000002.json", b"")
    whole = Record("take-over", 2, "another writer", number=2)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > 3:
            store.write_bytes("commits/000002.json", whole.content())

    assert CommitLog(store, clock, sleep).tail() == whole
    assert 3 < clock.now < 4


def test_one_that_others_have_gone_on_from_is_not_waited_for(
    log: CommitLog, writer: Writer, store: Store, clock: Clock, tmp_path: Path
) -> None:
    for step in (1, 2):
        commit(writer, tmp_path, step)
    store.write_bytes("commits/000002.json", b"")
    assert [record.number for record in log.back_from(log.tail())] == [3, 1]
    assert clock.now == 0


def test_a_finished_run_stays_finished(writer: Writer, store: Store, tmp_path: Path) -> None:
    commit(writer, tmp_path, 1)
    writer.finish()
    store.write_bytes("commits/000004.json", b"")
    log = CommitLog(store)
    tail = log.tail()
    assert tail and (tail.kind, tail.number, tail.step) == ("done", 4, 1)
    assert [record.number for record in log.back_from(tail)] == [3, 2, 1]


def test_the_first_of_all(store: Store, lease: Lease, clock: Clock) -> None:
    store.write_bytes("commits/000001.json", b"")
    following = begin(store, lease)
    assert (following.generation, following.position[0]) == (2, 2)


def test_what_is_kept_is_what_the_writer_knows(writer: Writer, store: Store, tmp_path: Path) -> None:
    """A commit of its own is cut short at rest, and the next number is empty: neither takes it back."""
    for step in (1, 2, 3):
        commit(writer, tmp_path, step)
    newest, kept = writer.newest, writer.checkpoints("checkpoint-epoch-4")
    path = f"commits/{writer.position[0]:06}.json"
    store.write_bytes(path, store.read_bytes(path)[:40])
    store.write_bytes(f"commits/{writer.position[0] + 1:06}.json", b"")
    commit(writer, tmp_path, 4)
    assert newest and newest.folder in kept
    assert writer.newest and newest.folder in writer.newest.kept


def test_a_full_disk_costs_the_writer_a_number(
    tmp_path: Path, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, **LACKS["exclusive"])
    store = open_store(str(tmp_path / "output"), StorageSpec())
    writer = begin(store, lease)
    commit(writer, tmp_path, 1)
    target, write = store.root / "commits/000003.json", os.write  # type: ignore[attr-defined]

    def full(descriptor: int, data: bytes) -> int:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == target:
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(MachineError, match="space"):
            commit(writer, tmp_path, 2)
    assert target.read_bytes() == b""
    files = tmp_path / "files-2"
    writer.commit(files, "checkpoint-epoch-2", 2, writer.checkpoints("checkpoint-epoch-2")[:3])
    assert records_of(store)[:2] == [(4, "commit", 2), (2, "commit", 1)]
    assert newest(store, tmp_path / "newest") == 2


def test_a_link_of_which_the_answer_was_lost_is_this_writer_s(
    tmp_path: Path, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So NFS may answer: it sends the request again, and finds its own link."""
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    store = open_store(str(tmp_path / "output"), StorageSpec())
    writer = begin(store, lease)
    commit(writer, tmp_path, 1)
    assert records_of(store) == [(2, "commit", 1), (1, "take-over", 0)]


def test_two_processes_take_over_again_and_again(tmp_path: Path) -> None:
    """On a disk that has only O_EXCL: each record is one's alone, and whole."""
    command = [sys.executable, "-c", CHALLENGER, str(tmp_path / "output")]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        for _ in range(2)
    ]
    for one in both:
        assert one.stdout and one.stdout.readline() == "ready\n"
    for one in both:
        assert one.stdin
        one.stdin.write("go\n")
        one.stdin.flush()
    told = [eval(line) for one in both for line in one.communicate()[0].splitlines()]
    files = sorted((tmp_path / "output" / "commits").iterdir())
    records = [json.loads(file.read_bytes()) for file in files]
    assert sorted(told) == [(record["number"], record["nonce"]) for record in records]
    assert [record["number"] for record in records] == list(range(1, 17))
    assert [record["generation"] for record in records] == list(range(1, 17))
