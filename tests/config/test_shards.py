"""Which shard a process makes: where shards are on alone, by one meaning of an index."""

from typing import Any

import pytest

from sidestep.config.job import JobSpec, resolve
from sidestep.config.shards import Shard, shard_of, shard_problems
from sidestep.runtime.errors import BadSpecError

MANY = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3"}


def spec_of(shards: int = 3, **values: Any) -> JobSpec:
    given = {"task": "preprocess", "audio_dir": "songs", "dataset_dir": "tensors", **values}
    preprocess = {"shards": shards, **given.pop("preprocess", {})}
    return JobSpec.model_validate({**given, "preprocess": preprocess})


@pytest.mark.parametrize(
    "environ",
    [
        {"JOB_COMPLETION_INDEX": "2"},
        MANY,
        {"SKYPILOT_JOB_RANK": "2"},
        {"SKYPILOT_NODE_RANK": "2", "SKYPILOT_NUM_NODES": "3"},
        {"DSTACK_NODE_RANK": "2", "DSTACK_NODES_NUM": "3"},
    ],
)
def test_a_platform_says_which_one_it_is(environ: dict[str, str]) -> None:
    assert shard_of(spec_of(), environ) == Shard(2, 3)
    assert shard_of(spec_of(1), environ) is None  # an array of jobs, each with all songs
    for task in ("train", "estimate"):  # the same spec in a later phase
        assert shard_of(spec_of(task=task), environ) is None


def test_the_spec_says_which_one_it_is() -> None:
    named = spec_of(preprocess={"shard": 1})
    assert shard_of(named, {}) == Shard(1, 3)
    assert shard_of(named, {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "1"}) == Shard(1, 3)
    with pytest.raises(BadSpecError, match="JOB_COMPLETION_INDEX"):
        shard_of(named, {"JOB_COMPLETION_INDEX": "2"})


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "which of them"),
        ({"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "1"}, "which of them"),
        ({"JOB_COMPLETION_INDEX": "3"}, "0 to 2"),
        ({**MANY, "SLURM_ARRAY_TASK_COUNT": "4"}, "SLURM_ARRAY_TASK_COUNT"),
        ({"DSTACK_NODE_RANK": "1", "DSTACK_NODES_NUM": "2"}, "DSTACK_NODES_NUM"),
        ({"JOB_COMPLETION_INDEX": "one"}, "whole number"),
    ],
)
def test_no_or_another_index_is_a_wrong_spec(environ: dict[str, str], said: str) -> None:
    with pytest.raises(BadSpecError, match=said):
        shard_of(spec_of(), environ)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"task": "pipeline"}, "preprocess.shards"),
        ({"sweep": {"train.lr": [1e-3, 1e-4]}}, "preprocess.shards"),
        ({"preprocess": {"shard": 3}}, "preprocess.shard"),
    ],
)
def test_two_meanings_at_once_are_a_wrong_spec(values: dict[str, Any], field: str) -> None:
    spec = spec_of(**values)
    assert [problem.field for problem in shard_problems(spec)] == [field]
    with pytest.raises(BadSpecError, match="phases of their own" if field.endswith("s") else "below"):
        shard_of(spec, MANY)
    with pytest.raises(BadSpecError, match=field):
        resolve(
            arguments=spec.model_dump(exclude_defaults=True, exclude_none=True) | {"output_dir": "out"},
            environ={},
        )


def test_a_sweep_trains_on_what_shards_made() -> None:
    assert not shard_problems(spec_of(task="train", sweep={"train.lr": [1e-3, 1e-4]}))


def test_names() -> None:
    assert Shard.called("2-of-3") == Shard(2, 3)
    assert [Shard.called(name) for name in ("3-of-3", "02-of-3", "2-of-03", "merged.json")] == [None] * 4
