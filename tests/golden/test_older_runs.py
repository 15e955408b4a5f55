"""Runs begun by an older version, and interrupted, go on under this one as if nothing had happened.

`older/README.md` says how they were begun. The output of a killed run was a folder; that of a run with a
pending checkpoint was s3://studio/older-<run>, and stays so here: the name of the workspace's folder that
holds the checkpoint, `outbox-…`, is a digest of the output's place.
"""

import json
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest
from safetensors.torch import load

import sidestep
from sidestep.config.schema import StorageSpec
from sidestep.data.index import content_digest, dataset_digest
from sidestep.data.preprocessed import Preprocessed
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from sidestep.training.numbers import NUMBERS_FILE
from tests.golden.machine import machine_kind
from tests.golden.trainings import largest_difference
from tests.s3 import S3Server
from tests.torture.outcome import check_log, read_outcome, read_records

OLDER = Path(__file__).parent / "older"
RUNS = ("lora-adamw", "lora-prodigy", "lokr-adamw", "lokr-prodigy")
STEPS = 40


@pytest.mark.parametrize("run", RUNS)
def test_a_killed_run_goes_on(run: str, golden: Path, tmp_path: Path) -> None:
    unpack(f"killed-{run}", tmp_path)
    store = open_store(str(tmp_path / "output"), StorageSpec())
    committed = read_records(store)[-1]["step"]
    go_on(tmp_path, golden, store)
    assert first_step_after(store) > committed
    check_end(run, store)


@pytest.mark.parametrize(
    "run",
    ["lora-adamw", "lokr-prodigy", *(pytest.param(run, marks=pytest.mark.slow) for run in RUNS[1:3])],
)
def test_a_pending_checkpoint_goes_on(run: str, golden: Path, tmp_path: Path, s3_server: S3Server) -> None:
    unpack(f"pending-{run}", tmp_path)
    store = s3_server.store(f"older-{run}")
    for file in (tmp_path / "output").rglob("*"):
        if file.is_file():
            store.write_bytes(file.relative_to(tmp_path / "output").as_posix(), file.read_bytes())
    [note] = (tmp_path / "workspace").glob("scratch/outbox-*/newest.json")
    pending = json.loads(note.read_bytes())["step"]
    assert pending > read_records(store)[-1]["step"]
    go_on(tmp_path, golden, store)
    assert first_step_after(store) == pending
    check_end(run, store)


def test_a_batch_size_leaves_a_run_that_has_none_as_it_is(
    golden: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its masks were drawn for one sample at a time: it goes on so, to the same bytes, and says so."""
    unpack("killed-lora-adamw", tmp_path)
    store = open_store(str(tmp_path / "output"), StorageSpec())
    go_on(tmp_path, golden, store, batch_size=2, accumulation=1)
    check_end("lora-adamw", store)
    assert any("train.batch_size is 2" in line for line in caplog.messages)


def test_a_lokr_s_job_run_anew_has_dropout_and_says_so(
    golden: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its job.yaml names 0.1, as each did, and it was trained without."""
    unpack("killed-lokr-adamw", tmp_path)
    (tmp_path / "output").rename(tmp_path / "old")
    losses = []
    for dropout in (None, 0, 0.1):
        spec = sidestep.JobSpec.load(
            tmp_path / "old" / "job.yaml",
            checkpoint_dir=str(golden / "checkpoints"),
            dataset_dir=str(OLDER / "tensors"),
            output_dir=str(tmp_path / f"output-{dropout}"),
            runtime={"workspace": str(tmp_path / "workspace")},
            train={"max_steps": 2} | ({} if dropout is None else {"adapter": {"dropout": dropout}}),
        )
        caplog.clear()
        sidestep.run(spec)
        warned = [record for record in caplog.records if "train.adapter.dropout 0" in record.getMessage()]
        assert len(warned) == (dropout != 0)
        losses.append((tmp_path / f"output-{dropout}" / "adapter" / "lokr_weights.safetensors").read_bytes())
    assert losses[0] == losses[2] != losses[1]


def unpack(name: str, folder: Path) -> None:
    with tarfile.open(OLDER / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")


def go_on(folder: Path, golden: Path, output: Store, **train: int) -> None:
    """Run the job again by the job.yaml in its output; only the places are other ones, and what is said."""
    spec = sidestep.JobSpec.load(
        folder / "output" / "job.yaml",
        checkpoint_dir=str(golden / "checkpoints"),
        dataset_dir=str(OLDER / "tensors"),
        output_dir=output.place,
        runtime={"workspace": str(folder / "workspace")},
        storage={"endpoint_url": output.options.endpoint_url},
        train=train,
    )
    sidestep.run(spec)


def first_step_after(store: Store) -> int:
    """The first step that was committed under this version."""
    return next(
        int(record["step"])
        for record in read_records(store)
        if record["generation"] == 2 and record["kind"] == "commit"
    )


def check_end(run: str, store: Store) -> None:
    """The adapter is that of the uninterrupted run, and no step is missing or told twice."""
    check_log(store)
    outcome = read_outcome(store)
    steps, losses = zip(*outcome.curves["loss/train"], strict=True)
    assert steps == tuple(range(1, STEPS + 1))
    assert json.loads(store.read_bytes("history.json"))["losses"] == pytest.approx(losses, rel=1e-5)
    expected = {file.name: file.read_bytes() for file in (OLDER / "expected" / run).iterdir()}
    check_content(store)
    if machine_kind() == json.loads((OLDER / "machine.json").read_text()):
        assert outcome.adapter == expected
        assert json.loads(store.read_bytes("receipt.json"))["bit_equality"] == "claimed"
    assert outcome.adapter.keys() == expected.keys()
    for name in expected:
        if name.endswith(".safetensors"):
            # On another CPU: rounding that differs is made larger by each step (1.3e-4 with Prodigy).
            assert largest_difference(load(expected[name]), load(outcome.adapter[name])) <= 4e-4


def check_content(store: Store) -> None:
    """A run whose first checkpoint says nothing of the songs' content has it in all that are made now."""
    files = {file.name: file for file in (OLDER / "tensors").iterdir() if file.suffix == ".pt"}
    digests = {name: sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    numbers = json.loads(store.read_bytes(f"{read_records(store)[-1]['folder']}/{NUMBERS_FILE}"))
    kept = {name: record["sha256"] for name, record in numbers["dataset_files"].items()}
    assert kept == digests
    assert numbers["recipe"]["dataset_content"] == content_digest(digests)
    assert numbers["recipe"]["dataset"] == dataset_digest(
        Preprocessed(open_store(str(OLDER / "tensors"), StorageSpec())).samples()
    )
    inputs = json.loads(store.read_bytes("receipt.json"))["inputs"]
    assert inputs["dataset_content"] == content_digest(digests)
