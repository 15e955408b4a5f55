"""Outputs of finished runs, as their files stand there, without a run."""

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidestep.config.job import JobSpec
from sidestep.storage.open import open_store
from sidestep.storage.store import Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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


@pytest.fixture
def judged(output: Store, receipt: dict[str, Any], history: dict[str, Any]) -> Store:
    """The same with two songs held out, of which one has a hostile name."""

    def validation(step: int) -> dict[str, Any]:
        held_out = 2 + abs(step - 120) / 200
        smoothed = held_out if step else None
        levels = {"0.3-0.4": held_out, "0.6-0.7": None}
        losses = {"held_out": held_out, "trained": 2 - step / 400, "smoothed": smoothed}
        return {**losses, "by_level": levels, "by_song": [held_out, None]}

    def at(step: int, checkpoint: str | None = None) -> dict[str, Any]:
        made = validation(step)
        losses = {name: made[name] for name in ("held_out", "trained", "smoothed")}
        return {"step": step, **losses, "checkpoint": checkpoint}

    songs = [song | {"held_out": number < 2} for number, song in enumerate(history["songs"])]
    validations = {str(step): validation(step) for step in range(0, 201, 40)}
    names = [song["name"] for song in songs[:2]]
    found = {
        "songs_held_out": 2,
        "songs_trained": 1,
        "draws": 16,
        "window": 3,
        "first": at(0),
        "best": at(120, "checkpoints/checkpoint-epoch-12"),
        "last": at(200),
        "gain": None,
    }
    told = {"songs": songs, "held_out": names, "validations": validations}
    output.write_bytes("history.json", json.dumps(history | told).encode())
    output.write_bytes(
        "receipt.json", json.dumps(receipt | {"validation": found, "ended_by": "patience"}).encode()
    )
    return output


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright  # `make test-browser` installs it

    program = shutil.which(os.environ.get("CHROMIUM") or "chromium")
    assert program, "these tests need Chromium: install it, or name it with CHROMIUM="
    quiet = [
        "--no-sandbox",
        "--disable-quic",
        "--disable-background-networking",
        "--disable-component-update",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=quiet)
        yield browser
        browser.close()
