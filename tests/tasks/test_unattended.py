"""Runs that are stopped, cut off, extended and taken up again, as jobs that nobody watches are."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep.commitlog.log import CommitLog, Record, file_digest
from sidestep.commitlog.writer import Writer
from sidestep.config.job import JobSpec
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.reporter import Reporter
from sidestep.runtime.errors import (
    AccessError,
    AgainError,
    BadSpecError,
    MissingInputError,
    SideStepError,
    StorageError,
)
from sidestep.runtime.preemption import Preemption
from sidestep.storage.open import open_store
from sidestep.storage.retry import Retry
from sidestep.tasks import run as train
from sidestep.tasks import train as train_task
from sidestep.tasks.setup import prepare_setup
from tests.songs import MakeSpec, song, write_songs

EVERY_STEP = {"epochs": 4, "checkpoint": {"every_steps": 1, "every_minutes": None}}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_task, "RETRY", Retry(seconds=60, first_pause=0.01, longest_pause=0.01))


def log_of(spec: JobSpec) -> CommitLog:
    return CommitLog(open_store(spec.output_place, spec.storage))


def newest(spec: JobSpec) -> Record:
    log = log_of(spec)
    record = log.newest_commit(log.tail())
    assert record
    return record


def adapter(spec: JobSpec) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(spec.output_place, "adapter").iterdir()}


def train_with_notice_after(spec: JobSpec, step: int) -> None:
    """Notice comes while step number `step` is made."""

    class Noticed(Reporter):
        def update(self, **changes: Any) -> None:
            super().update(**changes)
            if changes.get("step") == step:
                job.preemption.request()

    job = Job(spec, Preemption(spec.runtime.grace_seconds, end_process=lambda code: None))

    def run() -> None:
        with Noticed(job) as reporter:
            train_task.train(job, reporter)

    with pytest.raises(AgainError, match=f"stopped after step {step} of"):
        run()


def fail_commits(monkeypatch: pytest.MonkeyPatch, failures: Iterator[SideStepError | None]) -> None:
    original = Writer.commit

    def commit(self: Writer, *args: Any) -> Record:
        if failure := next(failures, None):
            raise failure
        return original(self, *args)

    monkeypatch.setattr(Writer, "commit", commit)


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
    assert "checkpoint-step-3 could not be sent: the store is gone" in messages
    assert messages[-1] == ""


def test_other_failures_of_the_background_end_the_run(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(**EVERY_STEP)
    fail_commits(monkeypatch, (AccessError("the key has expired") if n == 2 else None for n in range(10**6)))
    with pytest.raises(AccessError, match="the key has expired"):
        train(spec)
    assert newest(spec).step == 2


def test_five_attempts_without_a_checkpoint_are_enough(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec()
    with monkeypatch.context() as patch:
        fail_commits(patch, (AccessError("no") for _ in range(10**6)))
        for _ in range(5):
            with pytest.raises(AccessError):
                train(spec)
    with pytest.raises(SideStepError, match="5 attempts in a row ended before") as error:
        train(spec)
    assert error.value.exit_code == 70
    train(make_spec(new_attempt=True))


def test_more_epochs_by_a_word(make_spec: MakeSpec, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    train(make_spec(epochs=2))
    with pytest.raises(BadSpecError, match="epochs: 2 then, 4 now"):
        train(make_spec(epochs=4))
    result = train(make_spec(epochs=4, extend=True))
    assert result
    assert result.steps == 8
    assert "The run is extended from 4 to 8 steps: its schedule is restated" in caplog.text
    caplog.clear()
    assert train(make_spec(epochs=4, extend=True)) == result
    assert "Already finished after 8 steps" in caplog.text
    with pytest.raises(BadSpecError, match="has made 8 steps, and the spec asks for 2"):
        train(make_spec(epochs=1, extend=True))


def test_an_extended_run_may_be_cut_too(make_spec: MakeSpec) -> None:
    for name in ("whole", "cut"):
        train(make_spec(name, epochs=2))
    train(make_spec("whole", epochs=4, extend=True))
    train_with_notice_after(make_spec("cut", epochs=4, extend=True), 6)
    train(make_spec("cut", epochs=4, extend=True))
    assert adapter(make_spec("cut")) == adapter(make_spec("whole"))


def test_a_run_begun_from_another_s_checkpoint_goes_on_from_its_own(
    make_spec: MakeSpec, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The same command again, with the same --resume-from: it does not go back there each time."""
    caplog.set_level("INFO")
    whole = make_spec("whole", **EVERY_STEP)
    train(whole)
    train_with_notice_after(make_spec("first", **EVERY_STEP), 3)
    settings = EVERY_STEP | {"resume_from": str(tmp_path / "first" / "checkpoints" / "checkpoint-step-3")}
    other = make_spec("other", **settings)
    train_with_notice_after(other, 5)
    caplog.clear()
    train(other)
    assert "Going on from the newest checkpoint, which came from" in caplog.text
    assert "Going on after step 5 of 8" in caplog.text
    assert adapter(other) == adapter(whole)


def test_a_run_that_went_back_goes_on_when_the_checkpoint_it_went_back_to_is_deleted(
    make_spec: MakeSpec, caplog: pytest.LogCaptureFixture
) -> None:
    """The same command goes on, and once more when all is done, without weights."""
    caplog.set_level("INFO")
    settings = {"epochs": 4, "checkpoint": {"every_steps": 1, "every_minutes": None, "keep": 2}}
    train(make_spec(**settings))
    back = make_spec(**settings, resume_from="checkpoint-step-7", new_attempt=True)
    train(back)
    assert not Path(back.output_place, "checkpoints", "checkpoint-step-7").exists()
    caplog.clear()
    train(back)
    assert "Already finished after 8 steps" in caplog.text
    with pytest.raises(MissingInputError, match="no checkpoint at"):
        train(make_spec(**settings, resume_from="checkpoint-step-5", new_attempt=True))


def test_other_weights_under_the_same_name_are_refused(
    make_spec: MakeSpec, tiny_checkpoints: Path, tmp_path: Path
) -> None:
    from sidestep.acestep.tiny import write_tiny_checkpoint

    models = tmp_path / "models"
    write_tiny_checkpoint(models, ["base"], seed=1)
    train_with_notice_after(make_spec(checkpoint_dir=models, epochs=4), 3)
    write_tiny_checkpoint(models, ["base"], seed=2)
    with pytest.raises(BadSpecError, match=r"weights: '[0-9a-f]+' then, '[0-9a-f]+' now"):
        train(make_spec(checkpoint_dir=models, epochs=4))


def test_another_precision_is_refused(make_spec: MakeSpec) -> None:
    spec = make_spec(epochs=1)
    train(spec)
    for precision, is_same in (("fp32", True), ("bf16", False)):
        runtime = spec.runtime.model_copy(update={"precision": precision})
        again = spec.model_copy(update={"runtime": runtime})
        if is_same:
            train(again)
            continue
        with pytest.raises(BadSpecError, match="was made in fp32, and"):
            train(again)


def test_another_run_that_came_first_is_not_gone_on_with(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of other settings are begun at once: the second one has seen an empty output."""
    first, second = make_spec(epochs=4), make_spec(epochs=4, lr=1e-3)

    def outrun(*args: Any) -> Any:
        monkeypatch.undo()
        train(first)
        return prepare_setup(*args)

    monkeypatch.setattr("sidestep.tasks.train.prepare_setup", outrun)
    with pytest.raises(BadSpecError, match=r"lr: 0\.01 then, 0\.001 now"):
        train(second)


def test_the_receipt(make_spec: MakeSpec) -> None:
    spec = make_spec(epochs=4)
    spec = spec.model_copy(update={"runtime": spec.runtime.model_copy(update={"price_per_hour": 3600.0})})
    train_with_notice_after(spec, 3)
    train(spec)
    receipt = json.loads(Path(spec.output_place, "receipt.json").read_text())
    assert receipt["steps"] == 8
    assert (receipt["attempts"], receipt["preemptions"], receipt["steps_repeated"]) == (2, 1, 0)
    assert set(receipt["adapter"]) == set(adapter(spec))
    assert {"pull", "train", "publish"} <= set(receipt["seconds"])
    assert receipt["cost"] == pytest.approx(sum(receipt["seconds"].values()), abs=0.5)  # a second costs one
    assert len(receipt["machines"]) == 1
    assert receipt["machines"][0]["versions"]["torch"] == torch.__version__
    assert receipt["bit_equality"] == "claimed"
    assert receipt["loss_on_fixed_draws"]["last"] < receipt["loss_on_fixed_draws"]["first"]


def test_the_report_tells_of_the_whole_run_and_is_mended(make_spec: MakeSpec) -> None:
    spec = make_spec(epochs=4)
    train_with_notice_after(spec, 3)
    train(spec)
    output = Path(spec.output_place)
    history = json.loads((output / "history.json").read_text())
    assert len(history["losses"]) == len(history["running_mean"]) == len(history["learning_rates"]) == 8
    assert history["learning_rates"][-1] < history["learning_rates"][0]
    assert set(history["evaluations"]) == {"0", "8"}
    assert all(song["seconds"] > 0 for song in history["songs"])
    report = (output / "report.html").read_bytes()
    assert all(song["name"] in report.decode() for song in history["songs"])
    (output / "report.html").unlink()
    train(spec)
    assert (output / "report.html").read_bytes() == report


def test_a_machine_of_another_kind_is_said(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec(epochs=4)
    train_with_notice_after(spec, 3)
    monkeypatch.setattr("sidestep.training.machine._processor", lambda device: "Abacus 3000")
    train(spec)
    assert "of another kind than the one that began the run (processor: " in caplog.text
    receipt = json.loads(Path(spec.output_place, "receipt.json").read_text())
    assert len(receipt["machines"]) == 2
    assert receipt["bit_equality"].startswith("not claimed")


def test_a_run_that_an_older_version_began_is_of_the_same_kind(
    make_spec: MakeSpec, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec(epochs=4)
    train_with_notice_after(spec, 3)
    write_as_older_versions_did(Path(spec.output_place))
    caplog.clear()
    train(spec)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []
    receipt = json.loads(Path(spec.output_place, "receipt.json").read_text())
    assert (receipt["bit_equality"], len(receipt["machines"])) == ("claimed", 1)


def write_as_older_versions_did(output: Path) -> None:
    """The kind of the machine, in the one checkpoint and in the records: see tests/golden/older."""

    def older(kind: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in kind.items() if key not in ("numerics", "deterministic")}
        return kept | {"versions": {**kind["versions"], "side-step": "0.1.0"}}

    (state,) = output.glob("checkpoints/*/training_state.json")
    numbers = json.loads(state.read_text())
    state.write_text(json.dumps(numbers | {"machine": older(numbers["machine"])}))
    for path in output.glob("commits/*"):
        record = json.loads(path.read_text())
        record["machines"] = [older(kind) for kind in record["machines"]]
        if record["files"]:
            record["files"][state.name] = file_digest(state)
        path.write_text(json.dumps(record))


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
