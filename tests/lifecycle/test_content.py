"""What is in the tensors: a run goes on with what it was begun with, whatever their names and times are."""

import json
import os
from pathlib import Path

import pytest

from sidestep.data.index import content_digest
from sidestep.runtime.errors import BadDataError, BadSpecError
from tests.facts import facts
from tests.runs import EVERY_STEP, newest, outcome, train, train_until_stopped
from tests.songs import MakeSpec, flip_a_bit, sha256


@pytest.mark.slow
def test_a_run_goes_on_with_the_bytes_that_it_was_begun_with(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of tensors without an index."""
    file = tmp_path / "tensors" / "1.pt"
    digests = {path.name: sha256(path.read_bytes()) for path in file.parent.iterdir()}
    train(make_spec("whole", **EVERY_STEP))
    spec = make_spec(**EVERY_STEP)
    train_until_stopped(spec, monkeypatch, commits=1)
    state = json.loads(Path(spec.output_place, newest(spec).folder, "training_state.json").read_bytes())
    assert state["recipe"]["dataset_content"] == content_digest(digests)
    assert {name: kept["sha256"] for name, kept in state["dataset_files"].items()} == digests

    flip_a_bit(file)
    with pytest.raises(BadDataError, match=facts("is damaged", file)):
        train(spec)
    os.utime(file, ns=(1, 1))
    with pytest.raises(BadSpecError, match=facts(file.name, file.parent)):
        train(spec)
    flip_a_bit(file)
    train(spec)
    assert outcome(spec) == outcome(make_spec("whole", **EVERY_STEP))
    receipt = json.loads(Path(spec.output_place, "receipt.json").read_bytes())
    assert receipt["inputs"]["dataset_content"] == content_digest(digests)


def test_a_checkpoint_without_digests_goes_on_and_the_next_one_has_them(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    """As an older version wrote it; given by its path, as its record has its digest."""
    settings = {"epochs": 4, "checkpoint": {"every_steps": 1, "every_minutes": None, "keep": 99}}
    train(make_spec("whole", **settings))
    checkpoint = tmp_path / "whole" / "checkpoints" / "checkpoint-step-3"
    state = checkpoint / "training_state.json"
    content = json.loads(state.read_bytes())
    kept, digest = content.pop("dataset_files"), content["recipe"].pop("dataset_content")
    state.write_text(json.dumps(content))
    spec = make_spec("again", **settings, resume_from=str(checkpoint))
    train(spec)
    assert outcome(spec) == outcome(make_spec("whole", **settings))
    state = Path(spec.output_place, newest(spec).folder, "training_state.json")
    content = json.loads(state.read_bytes())
    assert (content["dataset_files"], content["recipe"]["dataset_content"]) == (kept, digest)
