"""Checkpoints that are no longer kept are deleted, by the newest writer alone, however late."""

from pathlib import Path
from typing import Any

import pytest

from sidestep.commitlog.lease import Lease
from sidestep.commitlog.log import CommitLog
from sidestep.commitlog.writer import Writer
from sidestep.runtime.errors import StorageError, TakenError
from sidestep.storage.store import Store
from tests.commitlog.commits import FENCED, begin, checkpoints, commit, lose_commit, newest


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
    with pytest.raises(TakenError, match=FENCED):
        commit(writer, tmp_path / "again", 1)
    assert store.list_files("checkpoints") == before
    assert newest(store, tmp_path / "newest") == 2


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
