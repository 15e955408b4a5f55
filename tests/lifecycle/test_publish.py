"""`adapter/` in the output: what the last commit has, made from its bytes and mended from them."""

from pathlib import Path

import pytest

from sidestep.commitlog.lease import Lease
from sidestep.commitlog.log import CommitLog, Record
from sidestep.commitlog.writer import take_over
from sidestep.config.schema import StorageSpec
from sidestep.lifecycle.publish import publish
from sidestep.runtime.errors import AgainError, BadDataError
from sidestep.runtime.workspace import Workspace
from sidestep.storage.open import open_store
from sidestep.training.numbers import STATE_FILES

ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}


@pytest.fixture
def commits(tmp_path: Path) -> CommitLog:
    return CommitLog(open_store(str(tmp_path / "out"), StorageSpec()))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def done(tmp_path: Path, commits: CommitLog) -> Record:
    """A run is finished, whose last checkpoint has an adapter and a state."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name, content in {**ADAPTER, **dict.fromkeys(STATE_FILES, b"state")}.items():
        (folder / name).write_bytes(content)
    writer = take_over(commits, Lease(60), None, {})
    writer.commit(folder, "checkpoint-epoch-1", 4, writer.checkpoints("checkpoint-epoch-1"))
    return writer.finish()


def published(tmp_path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (tmp_path / "out" / "adapter").iterdir()}


def test_the_adapter_s_files_alone(
    tmp_path: Path, commits: CommitLog, done: Record, workspace: Workspace
) -> None:
    publish(commits, done, workspace)
    assert published(tmp_path) == ADAPTER


@pytest.mark.parametrize("content", [b"changed", None])
@pytest.mark.parametrize("name", ADAPTER)
def test_what_is_not_as_committed_is_mended(
    tmp_path: Path, commits: CommitLog, done: Record, workspace: Workspace, name: str, content: bytes | None
) -> None:
    publish(commits, done, workspace)
    file = tmp_path / "out" / "adapter" / name
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    publish(commits, done, workspace)
    assert published(tmp_path) == ADAPTER


def test_what_is_right_is_not_read_from_the_commit_again(
    tmp_path: Path, commits: CommitLog, done: Record, workspace: Workspace
) -> None:
    publish(commits, done, workspace)
    damaged = tmp_path / "out" / done.folder / "adapter_config.json"
    damaged.write_bytes(b"damaged")
    publish(commits, done, workspace)
    (tmp_path / "out" / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(BadDataError, match=r"adapter_config\.json"):
        publish(commits, done, workspace)


@pytest.mark.parametrize("files_before", [0, 1])
def test_the_adapter_of_a_run_that_has_gone_on_is_left_to_it(
    tmp_path: Path,
    commits: CommitLog,
    done: Record,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    files_before: int,
) -> None:
    """Whoever publishes may be paused before each file, while another attempt makes more epochs."""
    upload, uploaded = commits.store.upload, list[str]()

    def go_on() -> None:
        take_over(commits, Lease(1e-6), None, {})

    def upload_and_pause(source: Path, path: str) -> None:
        upload(source, path)
        uploaded.append(path)
        go_on()

    if files_before:
        monkeypatch.setattr(commits.store, "upload", upload_and_pause)
    else:
        go_on()
    with pytest.raises(AgainError, match="adapter"):
        publish(commits, done, workspace)
    assert len(uploaded) == files_before
