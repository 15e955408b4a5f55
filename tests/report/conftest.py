"""Outputs of finished runs, as their files stand there, without a run."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.job import JobSpec
from sidestep.storage.open import open_store
from sidestep.storage.store import Store

HOSTILE = (
    '<script>document.title = "taken"</script><img src=x onerror="document.title=\'taken\'">"\'&\n\u202egnos'
)


def loss(step: int) -> float | None:
    return None if step % 97 == 50 else 2 + math.exp(-step / 40) + 0.1 * math.sin(step)


@pytest.fixture
def receipt() -> dict[str, Any]:
    return {
        "name": "night-drive",
        "spec_sha256": "ab" * 32,
        "inputs": {"model_variant": "acestep-v15-base", "weights": "0123456789abcdef", "dataset": "fedcba98"},
        "adapter": {"adapter_model.safetensors": {"size": 1000, "sha256": "cd" * 32}},
        "steps": 200,
        "steps_skipped": 2,
        "loss_on_fixed_draws": {"first": 3.0374, "last": 1.5204},
        "attempts": 3,
        "preemptions": 2,
        "steps_repeated": 4,
        "seconds": {"pull": 61.0, "train": 3900.4, "publish": 2.0},
        "gpu_seconds": 3963.4,
        "cost": 0.44,
        "machines": [],
        "bit_equality": "claimed",
    }


@pytest.fixture
def history() -> dict[str, Any]:
    steps = range(1, 201)
    return {
        "losses": [loss(step) for step in steps],
        "running_mean": [loss(step - step % 20) or 2.0 for step in steps],
        "learning_rates": [1e-4 * step / 200 for step in steps],
        "evaluations": {"0": 3.0374, "200": 1.5204},
        "songs": [
            {"name": f"{HOSTILE}.wav", "seconds": 200.4, "caption": HOSTILE},
            {"name": "a" * 300, "seconds": 4000.0, "caption": "أغنية " * 200},
            {"name": "plain.flac", "seconds": 0.2, "caption": ""},
        ],
    }


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    places = {"checkpoint_dir": "models", "dataset_dir": "tensors", "output_dir": str(tmp_path / "out")}
    return JobSpec.load(None, task="train", name="night-drive", **places)


@pytest.fixture
def output(spec: JobSpec, receipt: dict[str, Any], history: dict[str, Any]) -> Store:
    store = open_store(spec.output_place, spec.storage)
    ranking = [{"module": f"layers.{n}.self_attn.q_proj", "norm": 3 / (n + 1)} for n in range(24)]
    files = {"receipt.json": receipt, "history.json": history, "estimate/report.json": {"modules": ranking}}
    for path, content in files.items():
        store.write_bytes(path, json.dumps(content).encode())
    return store
