"""Runs that are stopped, cut off, extended and taken up again, as jobs that nobody watches are."""

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sidestep.commitlog.log import Record
from sidestep.commitlog.writer import Writer
from sidestep.config.job import JobSpec
from sidestep.lifecycle.reporter import Reporter
from sidestep.runtime.errors import (
    AccessError,
    StorageError,
)
from sidestep.storage.retry import Retry
from sidestep.tasks import train as train_task
from tests.runs import (
    EVERY_STEP,
    adapter,
    fail_commits,
    newest,
    train,
    train_with_notice_after,
)
from tests.songs import MakeSpec, song, write_songs


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_task, "RETRY", Retry(seconds=60, first_pause=0.01, longest_pause=0.01))


def test_notice_saves_in_the_middle_of_an_epoch(make_spec: MakeSpec) -> None:
    whole, cut = (make_spec(name, epochs=4) for name in ("whole", "cut"))
    train(whole)
    train_with_notice_after(cut, 3)
    assert newest(cut).folder == "checkpoints/checkpoint-step-3"
    status = json.loads(Path(cut.output_place, "status.json").read_text())
    assert (status["state"], status["exit_code"], status["step"]) == ("preempted", 75, 3)
    assert "stopped after step 3 of 8: all of it is saved in the output" in status["message"]
    train(cut)
    assert adapter(cut) == adapter(whole)


@pytest.mark.slow
def test_notice_does_not_wait_for_the_checkpoint_before(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The newer state is kept first, and counts on this machine although the older one comes through."""
    caplog.set_level("INFO")
    whole, cut = (make_spec(name, **EVERY_STEP) for name in ("whole", "cut"))
    cut = cut.model_copy(update={"runtime": cut.runtime.model_copy(update={"grace_seconds": 3})})
    train(whole)
    is_over, original = threading.Event(), Writer.commit

    def commit(self: Writer, folder: Path, name: str, step: int, *args: Any) -> Record:
        if step == 2:
            is_over.wait(60)
        return original(self, folder, name, step, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit", commit)
        train_with_notice_after(cut, 3)
        is_over.set()
        while newest(cut).step < 2:
            time.sleep(0.02)
    status = json.loads(Path(cut.output_place, "status.json").read_text())
    assert "the output has step 1; step 3 waits in the workspace" in status["message"]
    caplog.clear()
    train(cut)
    assert "Going on from checkpoint-step-3, which waited on this machine" in caplog.text
    assert adapter(cut) == adapter(whole)


@pytest.mark.slow
@pytest.mark.parametrize("has_workspace", [True, False])
def test_what_could_not_be_sent_waits_on_the_machine(
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    has_workspace: bool,
) -> None:
    """With its workspace the next attempt sends it; without, it makes the steps again. Both are the same."""
    caplog.set_level("INFO")
    runtime = {"workspace": str(tmp_path / "ws"), "lease_seconds": 1}
    whole, cut = (
        make_spec(name, **EVERY_STEP).model_copy(
            update={"runtime": JobSpec.load(None, output_dir="o", task="train", runtime=runtime).runtime}
        )
        for name in ("whole", "cut")
    )
    train(whole)
    gone = (StorageError("the store is gone") if n >= 5 else None for n in range(10**6))
    with monkeypatch.context() as patch:
        patch.setattr(train_task, "RETRY", Retry(tries=1, seconds=0))
        fail_commits(patch, gone)
        with pytest.raises(StorageError, match="the last checkpoint could not be sent: it waits"):
            train(cut)
    assert newest(cut).step == 5
    if not has_workspace:
        shutil.rmtree(tmp_path / "ws")
    caplog.clear()
    train(cut)
    assert ("Going on from checkpoint-epoch-4, which waited on this machine" in caplog.text) == has_workspace
    assert ("Going on after step 5 of 8" in caplog.text) != has_workspace
    assert adapter(cut) == adapter(whole)


def test_a_store_that_is_gone_for_a_while_stops_nothing(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec(**EVERY_STEP)
    gone = (StorageError("the store is gone") if 2 <= n < 8 else None for n in range(10**6))
    fail_commits(monkeypatch, gone)
    told: list[dict[str, Any]] = []
    update = Reporter.update

    def tell(self: Reporter, **what: Any) -> None:
        told.append(what)
        update(self, **what)

    monkeypatch.setattr(Reporter, "update", tell)
    train(spec)
    assert "could not be sent" in caplog.text
    assert newest(spec).step == 8
    messages = [what["message"] for what in told if "message" in what]
    assert any("checkpoint-step-3" in message and "the store is gone" in message for message in messages)
    assert messages[-1] == ""


def test_other_failures_of_the_background_end_the_run(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(**EVERY_STEP)
    fail_commits(monkeypatch, (AccessError("the key has expired") if n == 2 else None for n in range(10**6)))
    with pytest.raises(AccessError, match="the key has expired"):
        train(spec)
    assert newest(spec).step == 2


@pytest.mark.slow
def test_a_checkpoint_changes_no_number(make_spec: MakeSpec) -> None:
    often, never = make_spec("often", **EVERY_STEP), make_spec("never", epochs=4)
    train(often)
    train(never)
    assert adapter(often) == adapter(never)


def test_one_song_is_a_run(make_spec: MakeSpec, tmp_path: Path) -> None:
    folder = write_songs(tmp_path / "one", [song(0)])
    result = train(make_spec(dataset_dir=folder, epochs=1))
    assert result
    assert result.steps == 1
