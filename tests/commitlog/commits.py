"""What the tests of the commit log do to one, and read of it."""

from pathlib import Path

import pytest

from sidestep.commitlog.lease import Lease
from sidestep.commitlog.log import CommitLog
from sidestep.commitlog.writer import Writer, take_over
from sidestep.runtime.errors import StorageError
from sidestep.storage.store import Store

FENCED = r"another run has taken .* over"


def begin(store: Store, lease: Lease, machine: str = "abacus") -> Writer:
    return take_over(CommitLog(store), lease, None, {"processor": machine})


def commit(writer: Writer, folder: Path, step: int, keep: int = 3, epoch: bool = True) -> None:
    files = folder / f"files-{step}"
    files.mkdir(parents=True)
    (files / "a.json").write_bytes(b"%d" % step)
    (files / "b.bin").write_bytes(b"x" * step)
    name = f"checkpoint-{'epoch' if epoch else 'step'}-{step}"
    writer.commit(files, name, step, writer.checkpoints(name)[:keep])


def newest(store: Store, target: Path) -> int | None:
    record = CommitLog(store).fetch_newest(target, CommitLog(store).tail())
    if record is None:
        return None
    assert (target / "a.json").read_bytes() == b"%d" % record.step
    return record.step


def records_of(store: Store) -> list[tuple[int, str, int]]:
    """Number, kind and step of what a reader finds, newest first."""
    found = CommitLog(store).back_from(CommitLog(store).tail())
    return [(record.number, record.kind, record.step) for record in found]


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


def checkpoints(store: Store) -> set[str]:
    return {file.path.split("/")[1] for file in store.list_files("checkpoints")}
