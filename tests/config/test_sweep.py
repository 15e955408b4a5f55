"""What a spec may say of a sweep, and what is said of it where it is wrong."""

import json
from typing import Any

import pytest

from sidestep.config.job import JobSpec, resolve
from sidestep.config.sweep import MOST, members_of
from sidestep.runtime.errors import BadSpecError

PLACES = {"SIDESTEP_OUTPUT_DIR": "out", "SIDESTEP_AUDIO_DIR": "songs"}


def spec_of(sweep: Any, **environ: str) -> JobSpec:
    text = sweep if isinstance(sweep, str) else json.dumps(sweep)
    return resolve(environ={**PLACES, "SIDESTEP_SWEEP": text, **environ})[0]


def test_the_last_setting_changes_the_fastest_and_all_forms_are_one() -> None:
    spec = spec_of({"train.lr": [1e-4, 3e-4], "train.adapter.rank": [16, 64]})
    members = members_of(spec)
    assert [(one.spec.train.lr, one.spec.train.adapter.rank) for one in members] == [
        *((1e-4, 16), (1e-4, 64), (3e-4, 16), (3e-4, 64))
    ]
    assert members[1].name == "train.adapter.rank=64 train.lr=0.0001"
    for form in (
        "train.lr=1e-4,3e-4 train.adapter.rank=16,64",
        'train.lr=["1e-4",3E-4] train.adapter.rank=[16,64]',
    ):
        assert [one.folder for one in members_of(spec_of(form))] == [one.folder for one in members]
    lists = members_of(spec_of({"train.adapter.target_modules": [["q_proj"], "q_proj v_proj"]}))
    assert [one.spec.train.adapter.target_modules for one in lists] == [("q_proj",), ("q_proj", "v_proj")]
    assert [one.spec.train.chunk_duration for one in members_of(spec_of("train.chunk_duration=null,30"))] == [
        None,
        30,
    ]


def test_a_run_is_its_own_job_on_shared_tensors() -> None:
    spec = spec_of("train.seed=1", SIDESTEP_NAME="n" * 63)
    (one,) = members_of(spec)
    assert (one.spec.task, one.spec.sweep, one.spec.is_sweep) == ("train", {}, False)
    assert (one.spec.output_dir, one.spec.dataset_dir) == (f"out/{one.folder}", "out/tensors")
    assert one.spec.name.endswith(one.folder) and len(one.spec.name) == 63


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"train.lrr": [1]}, ["sweep.train.lrr", "train.lr?"]),
        ({"train.adapter": [{}]}, ["sweep.train.adapter", "section"]),
        ({"name": ["a"]}, ["sweep.name", "cannot be swept"]),
        ({"preprocess.max_duration": [30]}, ["cannot be swept"]),
        ({"train.extend": [True]}, ["cannot be swept"]),
        ({"train.lr": []}, ["sweep.train.lr", "one value or more"]),
        ({"train.lr": 1e-4}, ["sweep.train.lr", "list of values"]),
        ({"train.lr": [-1, "x"], "train.seed": [1]}, ["sweep.train.lr = -1", "sweep.train.lr = 'x'"]),
        ({"train.lr": ["1e-4", 1e-4]}, ["train.lr=0.0001 twice"]),
        ({"train.seed": [1], "train.epochs": list(range(1, MOST + 2))}, [f"{MOST + 1:,} runs"]),
        ("train.lr", ["sweep = 'train.lr'", "pairs"]),
        ('{"train.lr": [1e-4,', ["is not JSON", "at its end"]),
        ('{"train.lr" [1e-4]}', ["is not JSON", "at character 13, '[1e-4]}'"]),
        ('train.adapter.target_modules=[["q_proj"]', ["is not JSON", "at its end"]),
    ],
)
def test_what_is_wrong_is_said_of_the_spec(sweep: Any, said: list[str]) -> None:
    with pytest.raises(BadSpecError) as error:
        spec_of(sweep)
    for words in ("SIDESTEP_SWEEP", *said):
        assert words in str(error.value)


def test_a_checkpoint_of_one_run_is_none_of_all() -> None:
    with pytest.raises(BadSpecError, match=r"train\.resume_from"):
        spec_of("train.seed=1,2", SIDESTEP_TRAIN__RESUME_FROM="checkpoint-epoch-1")
