"""The commit log as it is read: what has a record counts, what has none does not, and damage is seen."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidestep.commitlog.lease import Lease
from sidestep.commitlog.log import CommitLog, Record
from sidestep.commitlog.writer import Writer
from sidestep.runtime.errors import BadDataError
from sidestep.storage.store import Store
from tests.commitlog.commits import begin, commit, newest, records_of


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


@pytest.mark.parametrize(
    "content", [None, pytest.param(b"damaged", marks=pytest.mark.slow)], ids=["gone", "damaged"]
)
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
