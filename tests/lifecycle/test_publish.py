"""`adapter/` in the output: what the last commit has, made from its bytes and mended from them."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from sidestep.commitlog.lease import Lease
from sidestep.commitlog.log import CommitLog, Record
from sidestep.commitlog.writer import Writer, take_over
from sidestep.config.job import JobSpec
from sidestep.config.schema import StorageSpec
from sidestep.lifecycle.publish import lease_of, publish, publish_checkpoint, publish_command
from sidestep.runtime.errors import BadDataError, MissingInputError, TakenError
from sidestep.runtime.workspace import Workspace
from sidestep.storage.open import open_store
from sidestep.training.numbers import STATE_FILES
from tests.clock import Clock
from tests.facts import facts

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
    with pytest.raises(TakenError, match="adapter"):
        publish(commits, done, workspace)
    assert len(uploaded) == files_before


def commit(tmp_path: Path, writer: Writer, epoch: int, keep: int = 3) -> None:
    """A checkpoint whose adapter says after which epoch it is."""
    name, folder = f"checkpoint-epoch-{epoch}", tmp_path / f"files-{epoch}-{writer.generation}"
    folder.mkdir()
    for file in (*ADAPTER, *STATE_FILES):
        (folder / file).write_bytes(b"%s after epoch %d" % (file.encode(), epoch))
    writer.commit(folder, name, 10 * epoch, writer.checkpoints(name)[:keep])


def of_epoch(epoch: int) -> dict[str, bytes]:
    return {file: b"%s after epoch %d" % (file.encode(), epoch) for file in ADAPTER}


def interrupted(tmp_path: Path, commits: CommitLog, epochs: int) -> None:
    """A run that was stopped after so many checkpoints."""
    with take_over(commits, Lease(60), None, {}) as writer:
        for epoch in range(1, epochs + 1):
            commit(tmp_path, writer, epoch)


def ask(commits: CommitLog, workspace: Workspace, name: str | None = None) -> Record:
    clock = Clock()
    return publish_checkpoint(commits, workspace, Lease(60, clock, clock.sleep), name)


def kinds(commits: CommitLog) -> Sequence[str]:
    return [record.kind for record in commits.back_from(commits.tail())][::-1]


@pytest.mark.parametrize(
    ("name", "epoch"),
    [(None, 3), ("checkpoint-epoch-2", 2), ("checkpoints/checkpoint-epoch-1/", 1)],
)
def test_an_interrupted_run_s_adapter(
    tmp_path: Path, commits: CommitLog, workspace: Workspace, name: str | None, epoch: int
) -> None:
    interrupted(tmp_path, commits, 3)
    assert ask(commits, workspace, name).step == 10 * epoch
    assert published(tmp_path) == of_epoch(epoch)
    assert kinds(commits) == ["take-over", *["commit"] * 3, "take-over", "publish"]
    tail = commits.tail()
    assert tail and (tail.folder, tail.files) == (f"checkpoints/checkpoint-epoch-{epoch}", {})
    with take_over(
        commits, Lease(1e9), None, {}
    ) as writer:  # it has signed off, and is no place to go on from
        assert writer.newest and (writer.newest.step, writer.machines) == (30, [{}])


def test_the_same_again_is_nothing_to_do_unless_the_adapter_is_damaged(
    tmp_path: Path, commits: CommitLog, workspace: Workspace
) -> None:
    interrupted(tmp_path, commits, 2)
    ask(commits, workspace)
    records = kinds(commits)
    assert ask(commits, workspace).step == 20
    assert kinds(commits) == records
    (tmp_path / "out" / "adapter" / "adapter_model.safetensors").write_bytes(b"changed")
    ask(commits, workspace)
    assert published(tmp_path) == of_epoch(2)


def test_no_checkpoint_and_none_of_that_name_leave_the_log_alone(
    tmp_path: Path, commits: CommitLog, workspace: Workspace
) -> None:
    with pytest.raises(MissingInputError, match=facts(tmp_path / "out")):
        ask(commits, workspace)
    assert not (tmp_path / "out").exists()
    interrupted(tmp_path, commits, 5)
    before = kinds(commits)
    for name in (
        "checkpoint-epoch-1",
        "checkpoint-epoch-50",
        "checkpoint-epoch",
        "",
    ):  # the first was deleted
        with pytest.raises(
            MissingInputError, match=facts("checkpoint-epoch-5, checkpoint-epoch-4, checkpoint-epoch-3")
        ):
            ask(commits, workspace, name)
    assert kinds(commits) == before


def test_a_damaged_checkpoint_is_not_published(
    tmp_path: Path, commits: CommitLog, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    """The newest that is whole is; its state plays no part. One that is named is refused."""
    interrupted(tmp_path, commits, 3)
    checkpoints = tmp_path / "out" / "checkpoints"
    (checkpoints / "checkpoint-epoch-3" / "adapter_config.json").write_bytes(b"{")
    (checkpoints / "checkpoint-epoch-2" / STATE_FILES[0]).write_bytes(b"{")
    with pytest.raises(BadDataError, match="checkpoint-epoch-3/adapter_config"):
        ask(commits, workspace, "checkpoint-epoch-3")
    assert ask(commits, workspace).step == 20
    assert "checkpoint-epoch-3" in caplog.text
    assert published(tmp_path) == of_epoch(2)
    for epoch in (1, 2):
        (checkpoints / f"checkpoint-epoch-{epoch}" / "adapter_model.safetensors").unlink()
    (tmp_path / "out" / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(BadDataError, match=facts("every checkpoint", tmp_path / "out")):
        ask(commits, workspace)


def test_a_living_writer_is_left_alone(tmp_path: Path, commits: CommitLog, workspace: Workspace) -> None:
    """One that has fallen silent is waited for, and is fenced then."""
    clock = Clock()
    writer = take_over(commits, Lease(60, clock, clock.sleep), None, {})
    commit(tmp_path, writer, 1)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > 5:
            writer.heartbeat.beat()

    with pytest.raises(TakenError, match=facts("another run", tmp_path / "out")):
        publish_checkpoint(commits, workspace, Lease(60, clock, sleep))
    assert kinds(commits) == ["take-over", "commit"]
    ask(commits, workspace)
    with pytest.raises(TakenError):
        commit(tmp_path, writer, 2)


def test_what_its_last_writer_still_commits_is_what_is_published(
    tmp_path: Path, commits: CommitLog, workspace: Workspace
) -> None:
    clock = Clock()
    writer = take_over(commits, Lease(60, clock, clock.sleep), None, {})
    commit(tmp_path, writer, 1)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now < 2:
            commit(tmp_path, writer, 2)
            writer.release()

    assert publish_checkpoint(commits, workspace, Lease(60, clock, sleep)).step == 20
    assert published(tmp_path) == of_epoch(2)


def test_a_published_checkpoint_stays_until_the_run_has_come_to_another_end(
    tmp_path: Path, commits: CommitLog, workspace: Workspace
) -> None:
    interrupted(tmp_path, commits, 3)
    ask(commits, workspace, "checkpoint-epoch-1")
    writer = take_over(commits, Lease(60), None, {})
    for epoch in range(4, 9):
        commit(tmp_path, writer, epoch, keep=2)
    writer.release()
    (tmp_path / "out" / "adapter" / "adapter_config.json").unlink()
    assert ask(commits, workspace, "checkpoint-epoch-1").step == 10
    assert published(tmp_path) == of_epoch(1)
    writer = take_over(commits, Lease(60), None, {})
    commit(tmp_path, writer, 9, keep=2)
    publish(commits, writer.finish(), workspace)
    assert published(tmp_path) == of_epoch(9)
    commit(tmp_path, writer, 10, keep=2)
    there = {folder.name for folder in (tmp_path / "out" / "checkpoints").iterdir()}
    assert {name.partition(".")[0] for name in there} == {"checkpoint-epoch-9", "checkpoint-epoch-10"}


def test_of_a_finished_run_too_and_it_is_what_is_mended_then(
    tmp_path: Path, commits: CommitLog, workspace: Workspace
) -> None:
    writer = take_over(commits, Lease(60), None, {})
    for epoch in (1, 2):
        commit(tmp_path, writer, epoch)
    done = writer.finish()
    publish(commits, done, workspace)
    writer.release()
    assert ask(commits, workspace).step == 20
    assert kinds(commits)[-1] == "done"
    ask(commits, workspace, "checkpoint-epoch-1")
    (tmp_path / "out" / "adapter" / "adapter_model.safetensors").write_bytes(b"changed")
    publish(commits, done, workspace, commits.tail())
    assert published(tmp_path) == of_epoch(1)
    (tmp_path / "out" / "checkpoints" / "checkpoint-epoch-1" / "adapter_config.json").unlink()
    publish(commits, done, workspace, commits.tail())
    (tmp_path / "out" / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(MissingInputError, match=facts("checkpoint-epoch-1", "sidestep publish")):
        publish(commits, done, workspace, commits.tail())
    ask(commits, workspace)
    assert published(tmp_path) == of_epoch(2)


def test_the_lease_is_the_run_s_own_where_that_is_longer(tmp_path: Path, commits: CommitLog) -> None:
    (tmp_path / "out").mkdir()
    said = {
        "runtime: {lease_seconds: 600}": 600,
        "runtime: {lease_seconds: 5}": 60,
        "runtime: {lease_seconds: .nan}": 60,
        "runtime: {lease_seconds: 1.0e9}": 60,
        "runtime: none": 60,
        "{": 60,
    }
    assert lease_of(commits.store, 60).seconds == 60
    for text, seconds in said.items():
        (tmp_path / "out" / "job.yaml").write_text(text)
        assert lease_of(commits.store, 60).seconds == seconds, text


def test_the_line_says_how_the_output_is_reached() -> None:
    spec = JobSpec.load(
        None,
        task="train",
        dataset_dir="t",
        output_dir="o",
        storage={"endpoint_url": "http://h:1", "path_style": False},
    )
    line = "sidestep publish 's3://b/my run' --endpoint-url http://h:1 --no-path-style"
    assert publish_command(spec, "s3://b/my run") == line
