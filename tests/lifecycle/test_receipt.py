"""What receipt.json says of a finished job."""

import json
from typing import Any

import pytest

from sidestep.commitlog.log import FileEntry, Record
from sidestep.config.job import JobSpec
from sidestep.lifecycle.receipt import receipt_bytes, spec_digest
from sidestep.lifecycle.status import Spent
from sidestep.training.numbers import NUMBERS_FILE, Losses, Progress, Validation

FINGERPRINT = {
    "model_variant": "base",
    "weights": "abc",
    "dataset": "def",
    "dataset_content": "ghi",
    "train.seed": 42,
}
PROGRESS = Progress(9, evaluations={0: 1.5, 9: 0.5}, skipped=2)
SPENT = Spent(
    attempts=3, preemptions=2, steps_repeated=4, seconds={"train": 3600.0, "pull": 1800.0}, gpu_seconds=7200
)
ADAPTER: FileEntry = {"size": 2, "sha256": "ghi"}


def receipt(machines: list[dict[str, Any]] | None = None, **runtime: Any) -> dict[str, Any]:
    spec = JobSpec.load(None, task="train", output_dir="out", runtime=runtime)
    files: dict[str, FileEntry] = {"adapter_config.json": ADAPTER, NUMBERS_FILE: {"size": 1, "sha256": "jkl"}}
    done = Record("done", 3, "a nonce", step=9, files=files, machines=machines or [{"processor": "abacus"}])
    content: dict[str, Any] = json.loads(receipt_bytes(spec, done, done, FINGERPRINT, PROGRESS, SPENT))
    return content


def test_what_was_made_from_what_and_what_it_cost() -> None:
    content = receipt(price_per_hour=2)
    assert content["inputs"] == {
        "model_variant": "base",
        "weights": "abc",
        "dataset": "def",
        "dataset_content": "ghi",
    }
    assert content["adapter"] == {"adapter_config.json": ADAPTER}  # and nothing of the training's state
    assert (content["steps"], content["steps_skipped"]) == (9, 2)
    assert content["loss_on_fixed_draws"] == {"first": 1.5, "last": 0.5}
    assert (content["attempts"], content["preemptions"], content["steps_repeated"]) == (3, 2, 4)
    assert content["cost"] == 3.0  # an hour and a half, whatever the GPU did in them
    assert receipt()["cost"] is None


@pytest.mark.parametrize(
    ("machines", "claimed"),
    [
        ([{"processor": "abacus"}], True),
        ([{"processor": "abacus"}, {"processor": "slide rule"}], False),
        ([{"processor": "abacus", "versions": {"side-step": v}} for v in ("0.1", "0.2")], True),
    ],
)
def test_equal_bits_are_claimed_of_machines_of_one_kind_alone(
    machines: list[dict[str, Any]], claimed: bool
) -> None:
    assert (receipt(machines)["bit_equality"] == "claimed") == claimed


def test_a_job_is_the_same_wherever_it_runs() -> None:
    spec = JobSpec.load(None, task="train", output_dir="out")
    assert spec_digest(spec.changed({"runtime.device": "cpu", "storage.region": "eu"})) == spec_digest(spec)
    assert spec_digest(spec.changed({"train.seed": 7})) != spec_digest(spec)


def test_what_is_to_be_generated_with_is_kept_and_is_no_part_of_what_was_made() -> None:
    specs = [
        JobSpec.load(None, task="train", output_dir="out", inference=inference)
        for inference in ({}, {"shift": 3, "num_inference_steps": 8})
    ]
    done = Record("done", 3, "a nonce", step=9, files={}, machines=[{"processor": "abacus"}])
    plain, kept = (
        json.loads(receipt_bytes(spec, done, done, FINGERPRINT, PROGRESS, SPENT)) for spec in specs
    )
    assert kept["inference"] == {"shift": 3, "num_inference_steps": 8} and plain["inference"] == {}
    assert {**kept, "inference": {}} == plain


def test_what_the_held_out_songs_say() -> None:
    def losses(loss: float) -> Losses:
        return Losses((loss - 0.1, loss, loss, loss, loss + 0.1), (loss,))

    curve = {0: 1.0, 3: 0.7, 6: 0.8, 9: 0.9}
    found = {step: Validation(losses(loss), losses(loss / 2)) for step, loss in curve.items()}
    progress = Progress(9, evaluations={0: 1.5, 9: 0.5}, validations=found, timesteps=(0.5,))
    validation = {"share": 0.2, "window": 1}
    spec = JobSpec.load(None, task="train", output_dir="out", train={"validation": validation})
    done = Record("done", 3, "a nonce", step=9, files={"adapter_config.json": ADAPTER}, machines=[{}])
    content = json.loads(
        receipt_bytes(spec, done, done, FINGERPRINT, progress, SPENT, {3: "checkpoints/checkpoint-step-3"})
    )["validation"]
    assert (content["songs_held_out"], content["songs_trained"], content["window"]) == (5, 5, 1)
    assert content["first"]["smoothed"] is None
    assert content["best"] == {
        "step": 3,
        "held_out": pytest.approx(0.7),
        "trained": pytest.approx(0.35),
        "smoothed": pytest.approx(0.7),
        "checkpoint": "checkpoints/checkpoint-step-3",
    }
    assert (content["last"]["step"], content["last"]["checkpoint"]) == (9, None)
    assert content["gain"] == {"mean": pytest.approx(-0.3), "standard_error": pytest.approx(0, abs=1e-9)}
    assert content["after_best"]["mean"] == pytest.approx(0.2)
