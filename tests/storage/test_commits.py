"""The commit log: what has a record counts, what has none does not, damage is seen."""

from pathlib import Path

import pytest

from sidestep.runtime.errors import AgainError, BadDataError
from sidestep.spec.schema import StorageSpec
from sidestep.storage.commits import CommitLog
from sidestep.storage.store import Store, open_store


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    place = str(tmp_path / "output") if request.param == "local" else f"memory://{tmp_path.name}/output"
    return open_store(place, StorageSpec())


def commit(log: CommitLog, step: int) -> None:
    log.commit(f"checkpoints/checkpoint-epoch-{step}", step, {"a.json": b"%d" % step, "b.bin": b"x" * step})


def test_the_newest_commit_is_fetched_whole(store: Store, tmp_path: Path) -> None:
    log = CommitLog(store)
    assert log.fetch_newest(tmp_path / "none") is None
    for step in (9, 10, 100):  # by number, not by name: epoch-100 sorts before epoch-9
        commit(log, step)
    record = log.fetch_newest(tmp_path / "newest")
    assert record
    assert record.step == 100
    assert (tmp_path / "newest" / "a.json").read_bytes() == b"100"
    assert [r.number for r in log.records()] == [1, 2, 3]


def test_files_without_a_record_do_not_count(store: Store, tmp_path: Path) -> None:
    log = CommitLog(store)
    commit(log, 1)
    store.write_bytes("checkpoints/checkpoint-epoch-2/a.json", b"half an upload")
    record = log.fetch_newest(tmp_path / "newest")
    assert record
    assert record.step == 1


@pytest.mark.parametrize("damage", [b"yyyyy", None])
def test_a_damaged_commit_is_reported_and_the_one_before_taken(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    log = CommitLog(store)
    commit(log, 4)
    commit(log, 5)
    path = "checkpoints/checkpoint-epoch-5/b.bin"
    store.delete(path)
    if damage:
        store.write_bytes(path, damage)
    record = log.fetch_newest(tmp_path / "newest")
    assert record
    assert record.step == 4
    assert "checkpoint-epoch-5 is damaged" in caplog.text


def test_done_is_the_last_word(store: Store) -> None:
    log = CommitLog(store)
    assert log.done() is None
    commit(log, 1)
    assert log.done() is None
    log.finish()
    done = log.done()
    assert done
    assert (done.folder, done.step) == ("checkpoints/checkpoint-epoch-1", 1)


def test_a_second_writer_is_stopped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both saw the same log; the record that comes second is refused."""
    first, second = CommitLog(store), CommitLog(store)
    seen = second.records()
    commit(first, 1)
    monkeypatch.setattr(second, "records", lambda: seen)
    with pytest.raises(AgainError, match="another run is writing"):
        commit(second, 1)


def test_retention_deletes_files_and_keeps_the_history(store: Store, tmp_path: Path) -> None:
    log = CommitLog(store)
    for step in range(1, 6):
        commit(log, step)
        log.retain(2)
    assert {file.path.split("/")[1] for file in store.list("checkpoints")} == {
        "checkpoint-epoch-4",
        "checkpoint-epoch-5",
    }
    assert len(log.records()) == 5
    record = log.fetch_newest(tmp_path / "newest")
    assert record
    assert record.step == 5


def test_a_record_that_is_none(store: Store) -> None:
    store.create("commits/000001.json", b"{}")
    with pytest.raises(BadDataError, match=r"commits/000001\.json is not a commit record"):
        CommitLog(store).records()
