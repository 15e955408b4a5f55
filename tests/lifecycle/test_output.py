"""What is sent to an output that is elsewhere, and TensorBoard's files among it."""

import shutil
from pathlib import Path

import pytest

from sidestep.config.job import JobSpec
from sidestep.config.schema import StorageSpec
from sidestep.lifecycle.events import EventsToSend
from sidestep.lifecycle.output import Output
from sidestep.runtime.errors import BadDataError, StorageError, TakenError
from sidestep.runtime.workspace import Workspace
from sidestep.storage.open import open_store


@pytest.fixture
def output(tmp_path: Path) -> Output:
    store = open_store(f"memory://{tmp_path.name}/output", StorageSpec())
    return Output(store, Workspace(tmp_path / "workspace"))


def sent(output: Output) -> list[str]:
    return [file.path for file in output.store.list_files()]


def test_all_files_of_a_folder_or_some_by_name(output: Output) -> None:
    for name in ("a", "b", "c"):
        (output.path("logs") / name).write_text(name)
    output.send("logs", ["b"])
    assert sent(output) == ["logs/b"]
    output.send("logs")
    assert sent(output) == ["logs/a", "logs/b", "logs/c"]


def test_an_output_on_a_disk_is_written_in_place(tmp_path: Path) -> None:
    output = Output(open_store(str(tmp_path / "out"), StorageSpec()), Workspace(tmp_path / "workspace"))
    (output.path("logs") / "a").write_text("a")
    output.send("logs")
    assert sent(output) == ["logs/a"]
    assert not (tmp_path / "workspace").exists()


def test_a_spec_is_kept_early_only_where_there_is_none(output: Output) -> None:
    output.keep_first_spec(JobSpec(output_dir="out", name="first"))
    output.keep_first_spec(JobSpec(output_dir="out", name="second"))
    assert b"name: first" in output.store.read_bytes("job.yaml")


def event_file(first_step: int) -> str:
    return f"events.out.tfevents.{first_step:010}.sidestep"


def test_events_are_sent_that_were_complete_and_not_sent(output: Output) -> None:
    """By an attempt that goes on after step 5, which waited on this machine; the newest commit is of 3."""
    for step in (1, 4, 6):
        (output.path("runs") / event_file(step)).write_text(f"{step}")
    for step in (1, 6):  # of a writer that had gone further, and whose commit does not count
        output.store.write_bytes(f"runs/{event_file(step)}", b"")
    output.path("logs")
    events = EventsToSend(output, newest=3, now=5)
    assert sent(output) == [f"runs/{event_file(1)}"]
    events.send()
    assert sent(output) == [f"runs/{event_file(step)}" for step in (1, 4)]
    events.add(None)
    events.add(event_file(6))
    output.store.delete(f"runs/{event_file(4)}")
    events.send()
    assert sent(output) == [f"runs/{event_file(step)}" for step in (1, 6)]  # each once


def test_events_that_could_not_be_sent_are_sent_the_next_time(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    output.path("logs")
    events = EventsToSend(output, newest=0, now=0)
    (output.path("runs") / event_file(1)).write_text("1")
    events.add(event_file(1))

    def fails(*given: object) -> None:
        raise StorageError("the store is gone for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(output.store, "upload", fails)
        with pytest.raises(StorageError):
            events.send()
    events.send()
    assert sent(output) == [f"runs/{event_file(1)}"]


@pytest.mark.parametrize("checks", [1, 3])
def test_a_writer_that_was_taken_over_leaves_the_next_ones_events_alone(output: Output, checks: int) -> None:
    """It is asked as it begins, and before each delete: it may have been paused for hours in between."""
    answers = iter(range(checks))

    def check_now() -> None:
        if next(answers, None) is None:
            raise TakenError("another run has taken over")

    for step in (1, 2, 3, 4):
        output.store.write_bytes(f"runs/{event_file(step)}", b"")
    with pytest.raises(TakenError):
        EventsToSend(output, newest=0, now=0, check_now=check_now)
    assert sent(output) == [f"runs/{event_file(step)}" for step in range(checks, 5)]


def test_a_writer_that_was_taken_over_begins_and_sends_no_events(output: Output) -> None:
    output.path("logs")
    (output.path("runs") / event_file(1)).write_text("1")
    is_taken_over = True

    def check_now() -> None:
        if is_taken_over:
            raise TakenError("another run has taken over")

    with pytest.raises(TakenError):
        EventsToSend(output, newest=0, now=0, check_now=check_now)
    is_taken_over = False
    events = EventsToSend(output, newest=0, now=0, check_now=check_now)
    events.add(event_file(1))
    is_taken_over = True
    with pytest.raises(TakenError):
        events.send()
    assert sent(output) == []


@pytest.mark.parametrize("place", ["local", "elsewhere"])
def test_no_link_is_followed(tmp_path: Path, place: str, output: Output) -> None:
    """Neither in a folder's place nor in a log's, and none is sent."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    if place == "local":
        output = Output(open_store(str(tmp_path / "out"), StorageSpec()), Workspace(tmp_path / "workspace"))
    for name in ("logs", "runs"):
        output.folder.mkdir(parents=True, exist_ok=True)
        (output.folder / name).symlink_to(precious)
        with pytest.raises(BadDataError, match=f"{name} is a symbolic link"):
            output.path(name)
        (output.folder / name).unlink()
        (output.folder / name).write_text("")
        with pytest.raises(BadDataError, match=f"{name} is a file, where a folder is needed"):
            output.path(name)
        (output.folder / name).unlink()
    (output.path("logs") / "sidestep-3.log").symlink_to(precious / "file")
    with pytest.raises(BadDataError, match=r"logs/sidestep-3.log is a symbolic link"):
        output.begin_log(3)
    (output.path("logs") / "sidestep-4.log").mkdir()
    with pytest.raises(BadDataError, match=r"logs/sidestep-4.log is a folder"):
        output.begin_log(4)
    output.send("logs")
    assert place == "local" or sent(output) == []
    assert (precious / "file").read_text() == "mine"


def test_what_vanishes_from_the_workspace_is_not_sent(
    output: Output, caplog: pytest.LogCaptureFixture
) -> None:
    (output.path("runs") / "a").write_text("a")
    output.send("runs", ["a", "b"])
    assert sent(output) == ["runs/a"] and "runs/b is not there any more" in caplog.text
    shutil.rmtree(output.folder)
    output.send("logs")
