"""The end of a run: what is said of it, and what is mended when it is run again."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep.commitlog.lease import Lease
from sidestep.commitlog.log import CommitLog, file_digest
from sidestep.commitlog.writer import take_over
from sidestep.config.schema import StorageSpec
from sidestep.lifecycle.publish import publish_checkpoint
from sidestep.lifecycle.results import FILES
from sidestep.runtime.errors import BadDataError, TakenError
from sidestep.runtime.preemption import Preemption
from sidestep.runtime.workspace import Workspace
from sidestep.storage.local import LocalStore
from tests.facts import tells
from tests.runs import adapter, files, log_of, newest, train, train_with_notice_after
from tests.songs import MakeSpec


def test_a_finished_run_says_so_and_mends_its_adapter(
    make_spec: MakeSpec, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    spec = make_spec()
    first = train(spec)
    before = files(tmp_path / "out" / "adapter")
    (tmp_path / "out" / "adapter" / "adapter_config.json").unlink()
    assert train(spec) == first
    assert "Already finished after 4 steps" in caplog.text
    assert files(tmp_path / "out" / "adapter") == before


def test_a_name_that_the_app_cannot_load_is_said_at_the_end(
    make_spec: MakeSpec, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    spec = make_spec().model_copy(update={"name": "jazz.v3"})
    train(spec)
    told = [line for line in caplog.messages if "jazz.v3" in line and "jazz-v3" in line]
    assert len(told) == 1
    caplog.clear()
    train(spec.model_copy(update={"name": "jazz", "output_dir": str(tmp_path / "runs.2" / "out.4")}))
    assert [line for line in caplog.messages if "out-4" in line]
    assert not [line for line in caplog.messages if "runs-2" in line]


def test_the_receipt(make_spec: MakeSpec) -> None:
    spec = make_spec(epochs=4)
    spec = spec.model_copy(update={"runtime": spec.runtime.model_copy(update={"price_per_hour": 3600.0})})
    train_with_notice_after(spec, 3)
    train(spec)
    receipt = json.loads(Path(spec.output_place, "receipt.json").read_text())
    assert receipt["steps"] == 8
    assert (receipt["attempts"], receipt["preemptions"], receipt["steps_repeated"]) == (2, 1, 0)
    assert set(receipt["adapter"]) == set(adapter(spec)) - {"card.json", "README.md"}
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
    assert not [line for line in caplog.messages if "another kind" in line]
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
        del record["number"], record["digest"]
        record["machines"] = [older(kind) for kind in record["machines"]]
        if record["files"]:
            record["files"][state.name] = file_digest(state)
        path.write_text(json.dumps(record))


WITHOUT_TORCH = """
import sys
import sidestep

result = sidestep.run(sidestep.JobSpec.load("job.json"))
assert "torch" not in sys.modules
print(result.steps, result.adapter)
"""


@pytest.mark.parametrize("lost", ["nothing", "adapter", "everything after the last record"])
def test_a_finished_run_is_known_and_mended_without_torch(
    make_spec: MakeSpec, tmp_path: Path, lost: str
) -> None:
    """In a fresh process; also where the machine was gone right after the last record."""
    spec, output = make_spec(), tmp_path / "out"
    train(spec)
    made = files(output / "adapter")
    if lost != "nothing":
        shutil.rmtree(output / "adapter")
    if lost == "everything after the last record":
        status = json.loads((output / "status.json").read_text())
        status |= {"state": "running", "phase": "publish", "exit_code": None}
        (output / "status.json").write_text(json.dumps(status))
        for name in ("receipt.json", "report.html"):
            (output / name).unlink()
    Path("job.json").write_text(spec.model_dump_json())
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"4 {output}/adapter\n"
    assert files(output / "adapter") == made
    assert json.loads((output / "receipt.json").read_text())["steps"] == 4
    assert (output / "report.html").stat().st_size > 1000
    status = json.loads((output / "status.json").read_text())
    was_lost = lost == "everything after the last record"
    assert (status["state"], status["attempt"]) == ("done", 2 if was_lost else 1)


def test_a_finished_run_whose_last_checkpoint_is_damaged_is_finished_again(
    make_spec: MakeSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The adapter is made again from there: the steps after the checkpoint before it are."""
    spec = make_spec(epochs=3, checkpoint={"every_epochs": 1})
    train(spec)
    made = files(tmp_path / "out" / "adapter")
    shutil.rmtree(tmp_path / "out" / "adapter")
    (tmp_path / "out" / newest(spec).folder / "adapter_model.safetensors").write_bytes(b"damaged")
    train(spec)
    assert "damaged" in caplog.text
    assert files(tmp_path / "out" / "adapter") == made


def flip(data: bytes) -> bytes:
    """One bit in the middle, which a reader need not notice."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = {"gone": lambda data: None, "cut": lambda data: data[: len(data) // 2], "a bit": flip}
MADE = ("job.yaml", "history.json", "loss.png", "receipt.json", "report.html")


def test_what_a_finished_run_left_is_mended_whatever_became_of_it(
    make_spec: MakeSpec, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    spec = make_spec()
    first = train(spec)
    output = Path(spec.output_place)
    made = {name: (output / name).read_bytes() for name in (*MADE, "made.json", "status.json")}
    for name in made:
        for damage, change in DAMAGES.items():
            changed = change(made[name])
            (output / name).write_bytes(changed) if changed is not None else (output / name).unlink()
            caplog.clear()
            assert train(spec) == first, (name, damage)
            assert "Already finished" in caplog.text
            content = (output / name).read_bytes()
            if name in ("receipt.json", "report.html"):  # what was spent is known to the moment of the end
                assert json.loads((output / "receipt.json").read_bytes())["attempts"] == 1, (name, damage)
                assert abs(len(content) - len(made[name])) < 200, (name, damage)
            elif name == "status.json":
                status = json.loads(content)
                assert (status["state"], status["spent"]["steps_repeated"]) == ("done", 0), damage
            else:
                assert content == made[name], (name, damage)
            for other in made:
                (output / other).write_bytes(made[other])


def test_a_sound_output_is_not_written_again(make_spec: MakeSpec) -> None:
    spec = make_spec()
    train(spec)
    output = Path(spec.output_place)
    written = {name: (output / name).stat().st_mtime_ns for name in (*MADE, "made.json")}
    train(spec)
    assert {name: (output / name).stat().st_mtime_ns for name in written} == written


def test_an_output_of_an_older_version_is_looked_over_and_noted(make_spec: MakeSpec) -> None:
    spec = make_spec()
    train(spec)
    output = Path(spec.output_place)
    made = {name: (output / name).read_bytes() for name in (*MADE, "made.json")}
    (output / "made.json").unlink()
    (output / "history.json").write_bytes(made["history.json"][:100])
    (output / "job.yaml").write_bytes(b"[" * 100_000)
    train(spec)
    assert (output / "history.json").read_bytes() == made["history.json"]
    assert (output / "job.yaml").read_bytes() == made["job.yaml"]
    assert (output / "loss.png").read_bytes() == made["loss.png"]
    assert json.loads((output / "made.json").read_bytes())["files"].keys() == set(MADE)


def test_what_cannot_be_made_again_is_said(make_spec: MakeSpec, caplog: pytest.LogCaptureFixture) -> None:
    spec = make_spec()
    first = train(spec)
    output = Path(spec.output_place)
    (output / "history.json").unlink()
    (output / newest(spec).folder / "training_state.safetensors").write_bytes(b"damaged")
    assert train(spec) == first
    assert "history.json cannot be made again" in caplog.text
    assert not (output / "history.json").exists()


def test_a_status_that_is_lost_costs_no_number_of_the_receipt(make_spec: MakeSpec) -> None:
    spec = make_spec(epochs=4)
    train_with_notice_after(spec, 3)
    train(spec)
    output = Path(spec.output_place)
    receipt = (output / "receipt.json").read_bytes()
    (output / "status.json").unlink()
    train(spec)
    assert (output / "receipt.json").read_bytes() == receipt
    spent = json.loads((output / "status.json").read_bytes())["spent"]
    assert (spent["attempts"], spent["preemptions"]) == (3, 1)
    (output / "receipt.json").unlink()
    train(spec)
    assert json.loads((output / "receipt.json").read_bytes())["attempts"] == 3


def publish_again(spec: Any, workspace: Path, name: str | None) -> None:
    publish_checkpoint(log_of(spec), Workspace(workspace), Lease(60), name)


def test_what_was_published_since_the_end_is_the_adapter(make_spec: MakeSpec, tmp_path: Path) -> None:
    """The same command finds nothing to do, and mends what was published."""
    spec = make_spec(epochs=3, checkpoint={"every_epochs": 1})
    first = train(spec)
    at_the_end, receipt = adapter(spec), Path(spec.output_place, "receipt.json").read_bytes()
    publish_again(spec, tmp_path / "w", "checkpoint-epoch-1")
    older, records = adapter(spec), len(list(Path(spec.output_place, "commits").iterdir()))
    assert older != at_the_end
    assert train(spec) == first
    assert adapter(spec) == older
    (tmp_path / "out" / "adapter" / "adapter_model.safetensors").write_bytes(b"damaged")
    take_over(log_of(spec), Lease(60), None, None).release()  # another one was cut off before its record
    assert train(spec) == first
    assert adapter(spec) == older
    assert len(list(Path(spec.output_place, "commits").iterdir())) == records + 1
    assert Path(spec.output_place, "receipt.json").read_bytes() == receipt
    publish_again(spec, tmp_path / "w", None)
    assert adapter(spec) == at_the_end


def test_what_was_published_and_cannot_be_mended_is_said_and_not_trained_again(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(epochs=2, checkpoint={"every_epochs": 1})
    train(spec)
    publish_again(spec, tmp_path / "w", "checkpoint-epoch-1")
    for folder in ("adapter", "checkpoints/checkpoint-epoch-1"):
        (tmp_path / "out" / folder / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(BadDataError, match="checkpoint-epoch-1"):
        train(spec)
    assert adapter(spec)["adapter_model.safetensors"] == b"damaged"


@pytest.mark.slow
def test_a_run_that_was_published_in_the_middle_ends_as_one_that_was_not(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(epochs=4)
    train_with_notice_after(spec, 3)
    publish_again(spec, tmp_path / "w", None)
    in_the_middle = adapter(spec)
    train(spec)
    whole = make_spec("whole", epochs=4)
    train(whole)
    assert in_the_middle != adapter(spec) == adapter(whole)
    receipt = json.loads(Path(spec.output_place, "receipt.json").read_text())
    assert (receipt["bit_equality"], len(receipt["machines"])) == ("claimed", 1)


def test_who_stops_a_run_by_hand_is_told_how_to_use_what_it_has(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not where nobody may read it, or nothing was saved."""
    told = ("sidestep publish", "step 3")
    assert not tells(train_with_notice_after(make_spec("by a signal", epochs=4), 3), *told)
    monkeypatch.setattr(Preemption, "is_interrupt", True)
    spec = make_spec("by hand", epochs=4)
    assert tells(train_with_notice_after(spec, 3), *told, f"'{spec.output_place}'")


def taken_over_after(name: str, output: Path, patch: pytest.MonkeyPatch) -> None:
    """Another attempt takes the output over right after the file `name` is written."""
    write = LocalStore.write_bytes

    def write_and_pause(store: LocalStore, path: str, data: bytes) -> None:
        write(store, path, data)
        if path == name and store.root == output:
            take_over(CommitLog(LocalStore(output, StorageSpec())), Lease(1e-6), None, {})

    patch.setattr(LocalStore, "write_bytes", write_and_pause)


@pytest.mark.parametrize(
    ("last", "left"),
    [
        ("history.json", "loss.png"),
        ("receipt.json", "adapter/README.md"),
        ("adapter/README.md", "report.html"),
        ("report.html", "made.json"),
    ],
)
def test_a_writer_that_was_paused_at_its_end_replaces_nothing(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str, left: str
) -> None:
    output = tmp_path / "out"
    taken_over_after(last, output, monkeypatch)
    with pytest.raises(TakenError):
        train(make_spec())
    assert (output / last).exists() and not (output / left).exists()


def test_who_mends_a_finished_run_replaces_nothing_of_one_that_has_gone_on(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec, output = make_spec(), tmp_path / "out"
    train(spec)
    whole = tmp_path / "whole"
    shutil.copytree(output, whole)
    made = ["loss.png", "history.json", "job.yaml", "receipt.json", "report.html"]  # in this order
    assert {*made} == {*FILES}
    for last in made:
        for name in FILES:
            (output / name).unlink(missing_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            taken_over_after(last, output, patch)
            with pytest.raises(TakenError):
                train(spec)
        there = [name for name in made if (output / name).exists()]
        assert there == made[: made.index(last) + 1]
        assert (output / "made.json").read_bytes() == (whole / "made.json").read_bytes()
        shutil.rmtree(output)
        shutil.copytree(whole, output)
