"""The commit log: what has a record counts, what has none does not, and damage is seen."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidestep.commitlog.lease import Lease, Watch, heartbeat_path
from sidestep.commitlog.log import CommitLog, Record
from sidestep.commitlog.writer import Writer, take_over
from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import AgainError, BadDataError, MissingInputError, StorageError
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from tests.clock import Clock

FENCED = r"another run has taken .* over"


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    place = str(tmp_path / "output") if request.param == "local" else f"memory://{tmp_path.name}/output"
    return open_store(place, StorageSpec())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lease(clock: Clock) -> Lease:
    return Lease(60, clock, clock.sleep)


@pytest.fixture
def writer(store: Store, lease: Lease) -> Writer:
    return begin(store, lease)


def begin(store: Store, lease: Lease, machine: str = "abacus") -> Writer:
    return take_over(CommitLog(store), lease, None, {"processor": machine})


def commit(writer: Writer, folder: Path, step: int, keep: int = 3, epoch: bool = True) -> None:
    files = folder / f"files-{step}"
    files.mkdir(parents=True)
    (files / "a.json").write_bytes(b"%d" % step)
    (files / "b.bin").write_bytes(b"x" * step)
    name = f"checkpoint-{'epoch' if epoch else 'step'}-{step}"
    writer.commit(files, name, step, writer.checkpoints(name)[:keep])


@pytest.mark.parametrize("what", ["changed", "deleted"])
def test_what_changes_while_it_is_sent_is_not_recorded(
    writer: Writer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    commit(writer, tmp_path, 1)
    upload = type(store).upload

    def upload_and_damage(self: Store, source: Path, path: str) -> None:
        upload(self, source, path)
        source.write_bytes(b"y" * 5) if what == "changed" else source.unlink()

    monkeypatch.setattr(type(store), "upload", upload_and_damage)
    with pytest.raises(BadDataError if what == "changed" else MissingInputError):
        commit(writer, tmp_path, 5)
    monkeypatch.undo()
    assert newest(store, tmp_path / "newest") == 1
    commit(writer, tmp_path, 6)
    assert newest(store, tmp_path / "after") == 6


def newest(store: Store, target: Path) -> int | None:
    record = CommitLog(store).fetch_newest(target, CommitLog(store).tail())
    if record is None:
        return None
    assert (target / "a.json").read_bytes() == b"%d" % record.step
    return record.step


def test_the_newest_commit_is_fetched_whole(writer: Writer, store: Store, tmp_path: Path) -> None:
    assert newest(store, tmp_path / "none") is None
    for step in (9, 10, 100):  # by number, not by name: epoch-100 sorts before epoch-9
        commit(writer, tmp_path, step)
    assert newest(store, tmp_path / "newest") == 100
    records = list(CommitLog(store).back_from(CommitLog(store).tail()))
    assert [(r.number, r.kind, r.step) for r in records] == [
        (4, "commit", 100),
        (3, "commit", 10),
        (2, "commit", 9),
        (1, "take-over", 0),
    ]
    assert records[0].machines == [{"processor": "abacus"}]


def test_files_without_a_record_do_not_count(writer: Writer, store: Store, tmp_path: Path) -> None:
    commit(writer, tmp_path, 1)
    store.write_bytes("checkpoints/checkpoint-epoch-2/a.json", b"half an upload")
    assert newest(store, tmp_path / "newest") == 1


@pytest.mark.parametrize("damage", [b"yyyyy", None])
def test_a_damaged_commit_is_reported_and_the_one_before_taken(
    writer: Writer, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    commit(writer, tmp_path, 4)
    commit(writer, tmp_path, 5)
    path = "checkpoints/checkpoint-epoch-5/b.bin"
    store.delete(path)
    if damage:
        store.write_bytes(path, damage)
    assert newest(store, tmp_path / "newest") == 4
    assert "checkpoint-epoch-5 is damaged" in caplog.text


def test_with_all_kept_commits_damaged_the_deleted_ones_are_not_looked_for(
    writer: Writer,
    store: Store,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for step in range(1, 21):
        commit(writer, tmp_path, step, keep=2)
    writer.finish()
    for step in (19, 20):
        store.delete(f"checkpoints/checkpoint-epoch-{step}/a.json")
    read, reads = store.read_bytes, []

    def noted(path: str) -> bytes:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(store, "read_bytes", noted)
    assert newest(store, tmp_path / "newest") is None
    assert caplog.text.count("is damaged") == 2
    assert len(reads) <= 5, "the log was read to its beginning"


@pytest.mark.parametrize("content", [b"{}", b"", b'{"kind": "commit", "files": 7}', b"\xff\xfe"])
def test_a_damaged_record_falls_back_and_is_written_after(
    writer: Writer,
    store: Store,
    lease: Lease,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    content: bytes,
) -> None:
    commit(writer, tmp_path, 1)
    commit(writer, tmp_path, 2)
    writer.release()
    store.write_bytes("commits/000003.json", content)
    with pytest.raises(BadDataError, match=r"commits/000003\.json"):
        CommitLog(store).read(3)
    assert newest(store, tmp_path / "newest") == 1
    assert "lost from the commit log" in caplog.text
    following = begin(store, lease)
    assert following.generation > writer.generation
    commit(following, tmp_path, 3)
    following.release()
    assert newest(store, tmp_path / "again") == 3


def records_of(store: Store) -> list[tuple[int, str, int]]:
    """Number, kind and step of what a reader finds, newest first."""
    found = CommitLog(store).back_from(CommitLog(store).tail())
    return [(record.number, record.kind, record.step) for record in found]


@pytest.mark.parametrize("content", [None, b"damaged"], ids=["gone", "damaged"])
@pytest.mark.parametrize("is_newest", [False, True])
def test_records_that_are_lost_in_a_row_are_bridged(
    store: Store,
    lease: Lease,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    content: bytes,
    is_newest: bool,
) -> None:
    """However many: without recursion, and with each read once at most."""
    first = begin(store, lease)
    commit(first, tmp_path, 1)
    first.release()
    lost = 1200
    for number in range(3, 3 + lost) if content else ():
        store.write_bytes(f"commits/{number:06}.json", content)
    if not (content and is_newest):
        record = Record("take-over", first.generation + 700, "another writer", number=3 + lost)
        store.create(f"commits/{3 + lost:06}.json", record.content())
    tail = CommitLog(store).tail()
    assert tail
    assert tail.generation == first.generation + (lost if content and is_newest else 700)
    assert records_of(store)[-2:] == [(2, "commit", 1), (1, "take-over", 0)]
    assert caplog.text.count(f"{lost} records in a row are lost") >= 1
    caplog.clear()
    following = begin(store, lease)
    assert following.generation == tail.generation + 1
    commit(following, tmp_path, 2)
    assert newest(store, tmp_path / "newest") == 2
    assert caplog.text.count("lost from the commit log") <= 2  # once by each who reads


def test_a_gap_is_bridged_without_asking_for_each_number(
    writer: Writer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record("take-over", 7, "another writer", number=9_000)
    store.create("commits/009000.json", record.content())
    read, reads = store.read_bytes, []

    def noted(path: str) -> bytes:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(store, "read_bytes", noted)
    assert records_of(store) == [(9_000, "take-over", 0), (1, "take-over", 0)]
    assert len(reads) <= 5


COPY = b"a copy of the newest record"


@pytest.mark.parametrize("content", [b"x", b"{}", COPY])
@pytest.mark.parametrize(
    "name",
    [
        "999999.json",
        "1000000.json",
        "9999999.json",
        "0000004.json",
        "000000.json",
        "000003.json.bak",
        "\u0660\u0660\u0660\u0660\u0660\u0664.json",
        "000009.json/record",
        "notes",
    ],
)
def test_what_is_no_record_is_named_once_and_ignored(
    writer: Writer,
    store: Store,
    lease: Lease,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes,
) -> None:
    commit(writer, tmp_path, 1)
    commit(writer, tmp_path, 2)
    writer.release()
    store.write_bytes(
        f"commits/{name}", store.read_bytes("commits/000003.json") if content == COPY else content
    )
    read, reads = store.read_bytes, []

    def noted(path: str) -> bytes:
        reads.append(path)
        return read(path)

    log = CommitLog(store)
    with monkeypatch.context() as patch:
        patch.setattr(store, "read_bytes", noted)
        tails = [log.tail(), log.tail()]
    assert [tail and (tail.number, tail.step) for tail in tails] == [(3, 2), (3, 2)]
    assert len(reads) <= 4
    assert caplog.text.count(f"commits/{name}") == 1
    following = begin(store, lease)
    assert following.generation == 2
    commit(following, tmp_path, 3)
    assert records_of(store)[0] == (5, "commit", 3)


def test_a_record_that_says_its_number_is_believed_beyond_any_gap(
    writer: Writer, store: Store, lease: Lease
) -> None:
    record = Record("take-over", 7, "another writer", number=999_999)
    store.create("commits/999999.json", record.content())
    assert CommitLog(store).tail() == record
    following = begin(store, lease)
    assert (following.generation, following.position[0]) == (8, 1_000_000)
    assert records_of(store)[:2] == [(1_000_000, "take-over", 0), (999_999, "take-over", 0)]


@pytest.mark.parametrize("number", [3, 4, 9])
def test_a_copy_of_a_record_is_not_the_record_of_that_number(
    writer: Writer, store: Store, lease: Lease, tmp_path: Path, number: int
) -> None:
    """It is what is damaged at that number, or takes a number that is to come."""
    for step in (1, 2):
        commit(writer, tmp_path, step, keep=2)
    writer.release()
    store.write_bytes(f"commits/{number:06}.json", store.read_bytes("commits/000002.json"))
    with pytest.raises(BadDataError, match="says that it is number 2"):
        CommitLog(store).read(number)
    assert newest(store, tmp_path / "newest") == (1 if number == 3 else 2)
    following = begin(store, lease)
    assert following.position[0] == max(number, 3) + 1
    commit(following, tmp_path, 3)
    assert newest(store, tmp_path / "again") == 3


def test_a_record_with_a_flipped_bit_is_lost(
    writer: Writer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it says then: which files are whole, or which checkpoints are to stay."""
    commit(writer, tmp_path, 1)
    data = store.read_bytes("commits/000002.json")
    log = CommitLog(store)
    for place in range(len(data) - 1):  # but for the line's end
        flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        monkeypatch.setattr(store, "read_bytes", lambda path, flipped=flipped: flipped)
        with pytest.raises(BadDataError):
            log.read(2)


def test_records_that_say_no_number_are_taken_at_their_name(
    writer: Writer, store: Store, lease: Lease, tmp_path: Path
) -> None:
    """So the records of 0.1.0 are; after a gap, too."""
    for step in (1, 2, 3):
        commit(writer, tmp_path, step)
    writer.release()
    for number in range(1, 5):
        content = json.loads(store.read_bytes(f"commits/{number:06}.json"))
        assert content.pop("number") == number and content.pop("digest")
        store.write_bytes(f"commits/{number:06}.json", json.dumps(content).encode())
    store.delete("commits/000003.json")
    assert records_of(store) == [(4, "commit", 3), (2, "commit", 1), (1, "take-over", 0)]
    commit(begin(store, lease), tmp_path, 4)
    assert records_of(store)[0] == (6, "commit", 4)


def test_a_damaged_record_in_its_way_ends_a_writer(
    writer: Writer, store: Store, lease: Lease, tmp_path: Path
) -> None:
    """It may be the take-over of another one. The next attempt goes on after it."""
    commit(writer, tmp_path, 1)
    store.write_bytes("commits/000003.json", b"x")
    with pytest.raises(AgainError, match=FENCED):
        commit(writer, tmp_path, 2)
    assert checkpoints(store) == {"checkpoint-epoch-1"}
    following = begin(store, lease)
    assert (following.generation, following.position[0]) == (3, 4)


def test_a_number_that_is_taken_by_what_no_listing_shows_is_passed_over(
    writer: Writer, store: Store, lease: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as an empty folder of that name."""
    commit(writer, tmp_path, 1)
    writer.release()
    create = store.create
    monkeypatch.setattr(store, "create", lambda path, data: "000003" not in path and create(path, data))
    following = begin(store, lease)
    assert following.position[0] == 4
    commit(following, tmp_path, 2)
    assert newest(store, tmp_path / "newest") == 2


def test_an_empty_folder_in_the_place_of_the_next_record(
    tmp_path: Path, lease: Lease, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(str(tmp_path / "output"), StorageSpec())
    first = begin(store, lease)
    (tmp_path / "output" / "commits" / "000002.json").mkdir()
    with pytest.raises(AgainError, match=FENCED):
        commit(first, tmp_path, 1)
    following = begin(store, lease)
    assert following.position[0] == 3
    commit(following, tmp_path / "second", 2)
    assert newest(store, tmp_path / "newest") == 2


def test_done_is_the_last_word(writer: Writer, store: Store, tmp_path: Path) -> None:
    commit(writer, tmp_path, 1)
    writer.finish()
    tail = CommitLog(store).tail()
    assert tail
    assert (tail.kind, tail.folder, tail.step) == ("done", "checkpoints/checkpoint-epoch-1", 1)


def test_a_listing_that_lags_hides_no_record(
    writer: Writer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3):
        commit(writer, tmp_path, step)
    lagging = store.list_files("commits")[:2]
    log = CommitLog(store)
    monkeypatch.setattr(log.store, "list_files", lambda path: lagging)
    tail = log.tail()
    assert tail
    assert tail.step == 3


def test_the_next_writer_goes_on_in_folders_of_its_own(
    writer: Writer, store: Store, lease: Lease, tmp_path: Path
) -> None:
    commit(writer, tmp_path / "first", 1)
    writer.release()
    second = begin(store, lease, "slide rule")
    assert second.generation == 2
    assert second.newest
    assert second.newest.step == 1
    commit(second, tmp_path / "second", 1)  # the same step, made again
    second.release()
    folders = {file.path.rpartition("/")[0] for file in store.list_files("checkpoints")}
    assert folders == {"checkpoints/checkpoint-epoch-1", "checkpoints/checkpoint-epoch-1.g2"}
    tail = CommitLog(store).tail()
    assert tail
    assert tail.kept == ["checkpoints/checkpoint-epoch-1.g2", "checkpoints/checkpoint-epoch-1"]
    assert tail.machines == [{"processor": "abacus"}, {"processor": "slide rule"}]


def test_a_writer_that_was_given_up_is_fenced(
    writer: Writer, store: Store, lease: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it sends anything; and where it finds out as late as the record, nothing of it counts."""
    commit(writer, tmp_path / "first", 1)
    writer.check_now()
    second = begin(store, lease)
    with pytest.raises(AgainError, match=FENCED):
        writer.check_now()
    with pytest.raises(AgainError, match=FENCED):
        commit(writer, tmp_path / "late", 2)
    assert {file.path.split("/")[1] for file in store.list_files("checkpoints")} == {"checkpoint-epoch-1"}
    upload = store.upload
    third: list[Writer] = []

    def paused(*given: Any) -> None:
        upload(*given)
        third[:] = third or [begin(store, lease)]

    with monkeypatch.context() as patch:
        patch.setattr(store, "upload", paused)
        with pytest.raises(AgainError, match=FENCED):
            commit(second, tmp_path / "later", 2)
    assert newest(store, tmp_path / "newest") == 1
    commit(third[0], tmp_path / "third", 2)
    assert newest(store, tmp_path / "newest") == 2


def test_a_paused_heartbeat_finds_out_that_it_was_given_up(
    writer: Writer, store: Store, lease: Lease, clock: Clock
) -> None:
    second = begin(store, lease)
    writer.check()
    clock.now += lease.seconds  # as after SIGSTOP
    writer.heartbeat.beat()
    with pytest.raises(AgainError, match=FENCED):
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
    with pytest.raises(AgainError, match=FENCED):
        writer.check()


def test_a_living_writer_is_not_disturbed(
    writer: Writer, store: Store, lease: Lease, clock: Clock, tmp_path: Path
) -> None:
    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        assert clock.now < lease.seconds
        if sum(clock.slept) >= lease.beat_seconds:
            writer.heartbeat.beat()

    with pytest.raises(AgainError, match="it showed life a moment ago"):
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


def lose_commit(writer: Writer, folder: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record gets through, the answer does not."""
    store = writer.commits.store
    create = store.create

    def lossy(path: str, data: bytes) -> bool:
        create(path, data)
        raise StorageError("the connection was cut")

    with monkeypatch.context() as patch:
        patch.setattr(store, "create", lossy)
        with pytest.raises(StorageError):
            commit(writer, folder, step)


def test_an_answer_that_is_lost_does_not_fence_the_writer(
    writer: Writer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next try, or the next commit, finds out what had got through."""
    lose_commit(writer, tmp_path / "lost", 1, monkeypatch)
    commit(writer, tmp_path / "again", 1)  # the same again, as a retry does
    assert newest(store, tmp_path / "newest") == 1
    lose_commit(writer, tmp_path / "lost", 2, monkeypatch)
    commit(writer, tmp_path, 3)  # a newer one, as the one before was given up
    records = list(CommitLog(store).back_from(CommitLog(store).tail()))
    assert [record.step for record in records] == [3, 2, 1, 0]


def test_a_record_that_was_given_up_may_come_as_late_as_the_next_one_is_written(
    writer: Writer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, upload, late = store.create, store.upload, []

    def delayed(path: str, data: bytes) -> bool:
        late.append((path, data))
        raise StorageError("no answer")

    def then_landed(source: Path, path: str) -> None:
        upload(source, path)
        create(*late[0])

    with monkeypatch.context() as patch:
        patch.setattr(store, "create", delayed)
        with pytest.raises(StorageError):
            commit(writer, tmp_path, 1)
    monkeypatch.setattr(store, "upload", then_landed)
    commit(writer, tmp_path, 2)
    records = list(CommitLog(store).back_from(CommitLog(store).tail()))
    assert [record.step for record in records] == [2, 1, 0]
    assert newest(store, tmp_path / "newest") == 2


def test_a_commit_that_was_given_up_and_not_kept_is_not_gone_back_to(
    writer: Writer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(writer, tmp_path, 1)
    lose_commit(writer, tmp_path, 2, monkeypatch)
    commit(writer, tmp_path, 3)
    store.delete("checkpoints/checkpoint-epoch-3/a.json")
    assert newest(store, tmp_path / "newest") == 1


def test_a_commit_that_had_got_through_is_known_to_its_writer(
    writer: Writer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the next one fails: what is said of a run that is stopped then is true."""
    lose_commit(writer, tmp_path, 1, monkeypatch)
    create = store.create

    def refused(path: str, data: bytes) -> bool:
        if store.stat(path) is None:
            raise StorageError("the connection was refused")
        return create(path, data)

    monkeypatch.setattr(store, "create", refused)
    with pytest.raises(StorageError):
        commit(writer, tmp_path, 2)
    assert writer.newest
    assert writer.newest.step == 1


def test_retention_deletes_files_and_keeps_the_history(writer: Writer, store: Store, tmp_path: Path) -> None:
    store.write_bytes("checkpoints/checkpoint-epoch-9/a.json", b"of a writer that vanished in its upload")
    store.write_bytes("checkpoints/checkpoint-epoch-1-is-the-best/a.json", b"a copy by hand")
    for step in range(1, 6):
        commit(writer, tmp_path, step, keep=2)
    assert {file.path.split("/")[1] for file in store.list_files("checkpoints")} == {
        "checkpoint-epoch-4",
        "checkpoint-epoch-5",
        "checkpoint-epoch-1-is-the-best",
    }
    assert newest(store, tmp_path / "newest") == 5
    tail = CommitLog(store).tail()
    assert tail
    assert tail.number == 6


def test_retention_survives_a_failed_delete(
    writer: Writer,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(path: str) -> None:
        raise StorageError("the store is gone for a moment")

    commit(writer, tmp_path, 1, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(writer.commits.store, "delete", fails)
        commit(writer, tmp_path, 2, keep=1)
    assert "could not be deleted, and is kept for now" in caplog.text
    commit(writer, tmp_path, 3, keep=1)
    assert {file.path.split("/")[1] for file in store.list_files("checkpoints")} == {"checkpoint-epoch-3"}


def checkpoints(store: Store) -> set[str]:
    return {file.path.split("/")[1] for file in store.list_files("checkpoints")}


@pytest.mark.parametrize("call", ["list_files", "delete"])
def test_a_writer_that_wakes_in_its_clean_up_takes_nothing_from_the_next_one(
    writer: Writer,
    store: Store,
    lease: Lease,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    """It was paused after its record: before it looked what there is, or with its first delete on the way."""
    commit(writer, tmp_path, 1, keep=2)
    commit(writer, tmp_path, 2, keep=2)
    real = getattr(store, call)
    others: list[Writer] = []

    def paused(path: str) -> Any:
        if not others and path.startswith("checkpoints"):
            others.append(begin(store, lease))
            for step in (4, 5, 6):
                commit(others[0], tmp_path / "other", step, keep=2)
        return real(path)

    monkeypatch.setattr(store, call, paused)
    commit(writer, tmp_path, 3, keep=1)
    assert others
    assert checkpoints(store) == {"checkpoint-epoch-5.g2", "checkpoint-epoch-6.g2"}
    assert newest(store, tmp_path / "newest") == 6


def test_each_delete_is_asked_for_anew(
    writer: Writer, store: Store, lease: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the newest commit keeps may lie in a folder of any older generation."""
    commit(writer, tmp_path, 1)
    delete, deleted = store.delete, []

    def then_paused(path: str) -> None:
        delete(path)
        if path.startswith("checkpoints"):
            deleted.append(path)
            begin(store, lease)

    monkeypatch.setattr(store, "delete", then_paused)
    commit(writer, tmp_path, 2, keep=1)
    assert deleted == ["checkpoints/checkpoint-epoch-1/a.json"]
    assert newest(store, tmp_path / "newest") == 2


def test_deletes_that_come_late_hit_nothing_that_is_needed(
    writer: Writer, store: Store, lease: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were asked for by who was the writer then, and are carried out when others have gone on."""
    commit(writer, tmp_path, 1)
    commit(writer, tmp_path, 2)
    late: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(store, "delete", late.append)
        commit(writer, tmp_path, 3, keep=1)
    assert late
    second = begin(store, lease)
    commit(second, tmp_path / "second", 1, keep=2)  # as one that goes back does
    for path in late:
        store.delete(path)
    assert newest(store, tmp_path / "newest") == 1
    assert checkpoints(store) == {"checkpoint-epoch-3", "checkpoint-epoch-1.g2"}


def test_no_checkpoint_is_made_under_a_name_that_was_deleted(
    writer: Writer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delete that is still on its way would hit the new one."""

    def broken(source: Path, path: str) -> None:
        upload(source, path)
        raise StorageError("the connection was cut")

    upload = store.upload
    with monkeypatch.context() as patch:
        patch.setattr(store, "upload", broken)
        with pytest.raises(StorageError):
            commit(writer, tmp_path / "cut", 1)
    commit(writer, tmp_path, 2)
    assert checkpoints(store) == {"checkpoint-epoch-2"}
    with pytest.raises(AssertionError, match="checkpoint-epoch-1"):
        commit(writer, tmp_path, 1)


def test_folders_of_later_generations_are_not_deleted(writer: Writer, store: Store, tmp_path: Path) -> None:
    """Their writer may have taken over a moment ago."""
    store.write_bytes("checkpoints/checkpoint-epoch-1.g2/a.json", b"on its way")
    commit(writer, tmp_path, 1)
    assert checkpoints(store) == {"checkpoint-epoch-1.g2", "checkpoint-epoch-1"}


def test_a_writer_whose_answer_was_lost_before_the_take_over_sends_and_deletes_nothing(
    writer: Writer, store: Store, lease: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record after the last that it knows of is its own: the fence is the one after that."""
    lose_commit(writer, tmp_path / "lost", 1, monkeypatch)
    second = begin(store, lease)
    commit(second, tmp_path / "second", 2, keep=1)
    before = store.list_files("checkpoints")
    with pytest.raises(AgainError, match=FENCED):
        commit(writer, tmp_path / "again", 1)
    assert store.list_files("checkpoints") == before
    assert newest(store, tmp_path / "newest") == 2


def test_a_paused_heartbeat_looks_beyond_the_records_of_its_own(
    writer: Writer, store: Store, lease: Lease, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_commit(writer, tmp_path, 1, monkeypatch)
    begin(store, lease)
    clock.now += lease.seconds
    writer.heartbeat.beat()
    with pytest.raises(AgainError, match=FENCED):
        writer.check()


def test_a_commit_that_had_got_through_is_not_sent_again(
    writer: Writer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_commit(writer, tmp_path / "lost", 1, monkeypatch)
    monkeypatch.setattr(store, "upload", lambda *given: pytest.fail("it is sent again"))
    commit(writer, tmp_path / "again", 1)
    assert [record.step for record in CommitLog(store).back_from(CommitLog(store).tail())] == [1, 0]


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


def test_a_store_with_many_commits_is_resumed_with_a_handful_of_calls(
    writer: Writer, store: Store, lease: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(1, 41):
        commit(writer, tmp_path, step)
    writer.release()
    calls: list[str] = []
    for name in ("list_files", "stat", "read_bytes", "download", "create", "write_bytes"):
        method = getattr(type(store), name)

        def counted(self: Store, *args: object, name: str = name, method: object = method) -> object:
            calls.append(name)
            return method(self, *args)  # type: ignore[operator]

        monkeypatch.setattr(type(store), name, counted)
    following = begin(store, lease)
    assert newest(store, tmp_path / "newest") == 40
    following.release()
    assert len(calls) <= 16, calls


def test_names_in_a_record_stay_in_their_folder(writer: Writer, store: Store, tmp_path: Path) -> None:
    commit(writer, tmp_path, 1)
    record = CommitLog(store).read(2)
    folder = "checkpoints/checkpoint-epoch-2"
    for number, name in enumerate(("../stolen.json", f"{tmp_path}/stolen.json"), start=3):
        store.write_bytes(f"{folder}/{name.lstrip('/')}" if number == 4 else f"{folder}.json", b"1")
        evil = replace(record, folder=folder, files={name: record.files["a.json"]})
        store.create(
            f"commits/00000{number}.json", replace(evil, kept=[folder, *record.kept], number=number).content()
        )
        assert newest(store, tmp_path / "target" / "newest") == 1
        assert not list(tmp_path.glob("target/stolen.json")) + list(tmp_path.glob("stolen.json"))


WHOLE = {"size": 1, "sha256": "ab" * 32}


@pytest.mark.parametrize(
    "files",
    [
        {"a": {"size": 1}},
        {"a": {"sha256": "ab" * 32}},
        {"a": WHOLE | {"size": -1}},
        {"a": WHOLE | {"size": "1"}},
        {"a": WHOLE | {"sha256": "ab"}},
        {"a": 1},
        {"": WHOLE},
        {"..": WHOLE},
        {"a/b": WHOLE},
        {"a\\b": WHOLE},
        {f"{number}": WHOLE for number in range(100_000)},
        [],
    ],
    ids=lambda files: str(files)[:40],
)
def test_a_record_of_files_that_cannot_be_is_lost(
    writer: Writer, store: Store, lease: Lease, tmp_path: Path, files: Any
) -> None:
    commit(writer, tmp_path, 1)
    log = CommitLog(store)
    store.create("commits/000003.json", replace(log.read(2), files=files, number=3).content())
    with pytest.raises(BadDataError, match=r"000003\.json"):
        log.read(3)
    tail = log.tail()
    assert tail and tail.is_lost and newest(store, tmp_path / "newest") == 1
    commit(begin(store, lease), tmp_path, 2)
    assert newest(store, tmp_path / "again") == 2


def test_a_take_over_whose_record_is_lost_still_counts_as_a_generation(
    writer: Writer, store: Store, lease: Lease
) -> None:
    """Its writer may have made files in folders of that generation, and may live."""
    second = begin(store, lease)
    store.write_bytes("commits/000002.json", b"")
    assert begin(store, lease).generation > second.generation > writer.generation


def test_a_commit_between_those_that_are_kept_is_passed_over(
    writer: Writer, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (3, 4):
        commit(writer, tmp_path, step)
    folders = writer.checkpoints("checkpoint-epoch-5")
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "a.json").write_bytes(b"5")
    writer.commit(tmp_path / "last", "checkpoint-epoch-5", 5, [folders[0], folders[2]])
    store.write_bytes("checkpoints/checkpoint-epoch-5/a.json", b"damaged")
    assert newest(store, tmp_path / "newest") == 3
    assert "checkpoint-epoch-5" in caplog.text and "checkpoint-epoch-4" not in caplog.text


def test_where_a_run_came_from_is_passed_on(
    writer: Writer, store: Store, lease: Lease, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    writer.commit(tmp_path / "files", "checkpoint-epoch-1", 1, [], origin="a digest")
    commit(writer, tmp_path, 2)
    writer.release()
    second = begin(store, lease)
    commit(second, tmp_path, 3)
    tail = CommitLog(store).tail()
    assert tail and tail.origin == second.finish().origin == "a digest"


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
