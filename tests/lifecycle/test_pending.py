"""Checkpoints that wait on this machine: which of them are sent, and which are of no use any more."""

import os
import shutil
from pathlib import Path

import pytest

from sidestep.commitlog.lease import Lease
from sidestep.commitlog.log import CommitLog
from sidestep.commitlog.writer import Writer, take_over
from sidestep.config.schema import StorageSpec
from sidestep.lifecycle.pending import PendingCheckpoints, Unsent
from sidestep.runtime.canonical import Parts
from sidestep.runtime.workspace import Workspace
from sidestep.storage.open import open_store
from tests.clock import Clock


@pytest.fixture
def commits(tmp_path: Path) -> CommitLog:
    return CommitLog(open_store(str(tmp_path / "output"), StorageSpec()))


@pytest.fixture
def pending(tmp_path: Path, commits: CommitLog) -> PendingCheckpoints:
    return PendingCheckpoints(Workspace(tmp_path / "workspace"), commits.store.place)


def begin(commits: CommitLog) -> Writer:
    clock = Clock()
    return take_over(commits, Lease(60, clock, clock.sleep), None, {})


def put(pending: PendingCheckpoints, writer: Writer, step: int) -> Path:
    files: dict[str, Parts] = {"a.json": (b"%d" % step,), "b.bin": (b"x", b"y")}
    return pending.put(f"checkpoint-step-{step}", step, files, writer.position)


def commit(writer: Writer, folder: Path, step: int) -> None:
    writer.commit(folder, folder.name, step, writer.checkpoints(folder.name))


def unsent(pending: PendingCheckpoints, commits: CommitLog) -> Unsent | None:
    return pending.unsent(commits, commits.newest_commit(commits.tail()))


def test_the_newest_waits_whole(pending: PendingCheckpoints, commits: CommitLog) -> None:
    assert unsent(pending, commits) is None
    writer = begin(commits)
    put(pending, writer, 3)
    folder = put(pending, writer, 5)
    assert unsent(pending, commits) == Unsent(folder, "checkpoint-step-5", 5)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {"a.json": b"5", "b.bin": b"xy"}


def test_it_waits_for_later_attempts_on_this_machine(
    tmp_path: Path, pending: PendingCheckpoints, commits: CommitLog
) -> None:
    folder = put(pending, begin(commits), 3)
    begin(commits)  # and ends before its first checkpoint
    again = PendingCheckpoints(Workspace(tmp_path / "workspace"), commits.store.place)
    assert unsent(again, commits) == Unsent(folder, "checkpoint-step-3", 3)
    other_output = PendingCheckpoints(Workspace(tmp_path / "workspace"), "s3://another/output")
    assert unsent(other_output, commits) is None


@pytest.mark.parametrize("damage", [b"4", b"", None])
def test_what_is_not_whole_is_not_used(
    pending: PendingCheckpoints, commits: CommitLog, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    file = put(pending, begin(commits), 3) / "a.json"
    file.unlink()
    if damage is not None:
        file.write_bytes(damage)  # as long as before, in the first case
        assert unsent(pending, commits) is None
        assert "checkpoint-step-3" in caplog.text
    else:
        assert unsent(pending, commits) is None


def test_what_is_committed_is_not_sent_again(pending: PendingCheckpoints, commits: CommitLog) -> None:
    writer = begin(commits)
    folder = put(pending, writer, 3)
    commit(writer, folder, 3)
    assert unsent(pending, commits) is None  # though its folder is still there
    pending.clear(folder)
    assert not folder.exists()
    folder = put(pending, writer, 4)
    assert unsent(pending, commits) == Unsent(folder, "checkpoint-step-4", 4)


def test_a_newer_one_waits_while_the_one_before_is_sent(
    pending: PendingCheckpoints, commits: CommitLog
) -> None:
    writer = begin(commits)
    before = put(pending, writer, 3)
    folder = put(pending, writer, 4)  # noted before the record of the one before was made
    commit(writer, before, 3)
    assert unsent(pending, commits) == Unsent(folder, "checkpoint-step-4", 4)


def test_what_others_have_gone_beyond_is_not_used(pending: PendingCheckpoints, commits: CommitLog) -> None:
    folder = put(pending, begin(commits), 7)
    commit(begin(commits), folder, 5)  # of another machine, from an older checkpoint
    assert unsent(pending, commits) is None


def test_an_output_that_was_begun_anew_takes_nothing_of_the_old_one(
    pending: PendingCheckpoints, commits: CommitLog
) -> None:
    put(pending, begin(commits), 7)
    for file in commits.store.list_files():
        commits.store.delete(file.path)
    assert unsent(pending, commits) is None
    begin(commits)
    assert unsent(pending, commits) is None


@pytest.mark.parametrize("damage", ["flipped", "cut", "deleted", "added", "folder", "pipe", "all"])
def test_a_checkpoint_that_is_damaged_before_it_is_sent(
    pending: PendingCheckpoints, commits: CommitLog, damage: str
) -> None:
    writer = begin(commits)
    folder = put(pending, writer, 3)
    assert pending.is_whole(folder)
    file = folder / "b.bin"
    match damage:
        case "flipped":
            file.write_bytes(b"xz")
        case "cut":
            file.write_bytes(b"x")
        case "deleted":
            file.unlink()
        case "added":
            (folder / "c").touch()
        case "folder":
            file.unlink()
            file.mkdir()
        case "pipe":
            file.unlink()
            os.mkfifo(file)
        case "all":
            shutil.rmtree(folder.parent)
    assert not pending.is_whole(folder)
    assert unsent(pending, commits) is None
    assert pending.is_whole(put(pending, writer, 4))


def test_anything_in_the_place_of_what_waits_goes(pending: PendingCheckpoints, commits: CommitLog) -> None:
    writer = begin(commits)
    root = put(pending, writer, 3).parent
    (root / "newest.json").unlink()
    (root / "newest.json").mkdir()
    assert unsent(pending, commits) is None
    (root / "newest.json").rmdir()
    os.mkfifo(root / "newest.json")  # who opens it for reading waits for ever
    assert unsent(pending, commits) is None
    os.mkfifo(root / "checkpoint-step-6")
    (root / "checkpoint-step-4").write_bytes(b"")
    (root / "checkpoint-step-5").symlink_to("checkpoint-step-3")
    for step in (4, 5, 6):
        put(pending, writer, step)
        waiting = unsent(pending, commits)
        assert waiting and waiting.step == step
    assert (root / "checkpoint-step-3" / "a.json").read_bytes() == b"3"
