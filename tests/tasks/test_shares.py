"""What a dataset says of repeats and weights reaches the training, and makes no tensors anew."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidestep.data.index import Share, read_index
from sidestep.lifecycle.job import Job
from sidestep.planning.songs import find_songs
from sidestep.tasks.preprocess import preprocess
from tests.runs import run_task, settings_of_job
from tests.tasks.preprocessing import Counted, MakeJob, tensors, write_dataset


@pytest.mark.slow
def test_it_goes_with_the_index_and_changes_no_tensor(
    spec: MakeJob, tmp_path: Path, counted: Counted
) -> None:
    plain = spec(dataset_json=write_dataset(tmp_path, caption="x"))
    run_task(preprocess, plain)
    before = tensors(plain)
    counted()
    job = spec(dataset_json=write_dataset(tmp_path, caption="x", repeats=3, weight=0.5))
    assert sorted(find_songs(Job(job)).repeats) == [1, 3]
    run_task(preprocess, job)
    assert not counted() and tensors(job) == before
    told = read_index(Job(job).tensors)
    assert told and list(told.shares.values()) == [Share(3, 0.5)]

    def fingerprint(**train: Any) -> dict[str, Any]:
        output = str(tmp_path / "out")
        return settings_of_job(job.changed({"task": "train", "output_dir": output, "train": train}))

    said = fingerprint()
    assert {"train.repeats", "train.weights"} <= said.keys()
    ((file, times),) = said["train.repeats"].items()
    assert (file in before, times, said["train.weights"]) == (True, 3, {file: 0.5})
    assert fingerprint(repeats={"a": 3}) == said  # whoever says it
    assert "train.repeats" not in fingerprint(repeats={"a": 1})
    train = job.changed({"task": "train", "output_dir": str(tmp_path / "out")})
    assert sorted(find_songs(Job(train)).repeats) == [1, 3]
    write_dataset(tmp_path, caption="x")
    run_task(preprocess, plain)
    assert "shares" not in json.loads((tmp_path / "tensors" / "index.json").read_bytes())
    assert tensors(plain) == before
