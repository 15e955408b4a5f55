"""The one writer: it is fenced, whatever answers it loses, and the next one goes on after it."""

from pathlib import Path
from typing import Any

import pytest

from sidestep.commitlog.lease import Lease
from sidestep.commitlog.log import CommitLog
from sidestep.commitlog.writer import Writer
from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import BadDataError, MissingInputError, StorageError, TakenError
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from tests.commitlog.commits import FENCED, begin, checkpoints, commit, lose_commit, newest


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


def test_a_damaged_record_in_its_way_ends_a_writer(
    writer: Writer, store: Store, lease: Lease, tmp_path: Path
) -> None:
    """It may be the take-over of another one. The next attempt goes on after it."""
    commit(writer, tmp_path, 1)
    store.write_bytes("commits/000003.json", b"x")
    with pytest.raises(TakenError, match=FENCED):
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
    with pytest.raises(TakenError, match=FENCED):
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


def test_a_run_ends_with_a_checkpoint_that_is_kept(writer: Writer, store: Store, tmp_path: Path) -> None:
    """By default the last; or another one, which stays from then on, until the run comes to another end."""
    for step in (1, 2):
        commit(writer, tmp_path / str(step), step)
    first = "checkpoints/checkpoint-epoch-1"
    with pytest.raises(AssertionError, match="may be deleted"):
        writer.finish("checkpoints/checkpoint-epoch-7")
    done = writer.finish(first)
    assert (done.folder, done.published) == ("checkpoints/checkpoint-epoch-2", first)
    assert CommitLog(store).published(done) == first
    commit(writer, tmp_path / "3", 3)
    assert writer.newest and first in writer.newest.kept
    assert writer.finish(writer.newest.folder).published == ""


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
    with pytest.raises(TakenError, match=FENCED):
        writer.check_now()
    with pytest.raises(TakenError, match=FENCED):
        commit(writer, tmp_path / "late", 2)
    assert {file.path.split("/")[1] for file in store.list_files("checkpoints")} == {"checkpoint-epoch-1"}
    upload = store.upload
    third: list[Writer] = []

    def paused(*given: Any) -> None:
        upload(*given)
        third[:] = third or [begin(store, lease)]

    with monkeypatch.context() as patch:
        patch.setattr(store, "upload", paused)
        with pytest.raises(TakenError, match=FENCED):
            commit(second, tmp_path / "later", 2)
    assert newest(store, tmp_path / "newest") == 1
    commit(third[0], tmp_path / "third", 2)
    assert newest(store, tmp_path / "newest") == 2


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


def test_a_commit_that_had_got_through_is_not_sent_again(
    writer: Writer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_commit(writer, tmp_path / "lost", 1, monkeypatch)
    monkeypatch.setattr(store, "upload", lambda *given: pytest.fail("it is sent again"))
    commit(writer, tmp_path / "again", 1)
    assert [record.step for record in CommitLog(store).back_from(CommitLog(store).tail())] == [1, 0]


def test_a_take_over_whose_record_is_lost_still_counts_as_a_generation(
    writer: Writer, store: Store, lease: Lease
) -> None:
    """Its writer may have made files in folders of that generation, and may live."""
    second = begin(store, lease)
    store.write_bytes("commits/000002.json", b"")
    assert begin(store, lease).generation > second.generation > writer.generation


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
