"""The ways to save memory: what is left of them, in which order, and that training takes each."""

from math import inf
from typing import Any

import pytest

from sidestep.config.job import JobSpec
from sidestep.config.optimizers import OPTIMIZERS
from sidestep.planning.fit import changed
from sidestep.training.optimizer import BUILD
from sidestep.training.savings import savings

HELD_ELSEWHERE: list[dict[str, Any]] = [
    {"train.offload_activations": True},
    *({"train.block_swap": layers} for layers in (8, 16, 24)),
]
ROUNDED: list[dict[str, Any]] = [{"train.quantize": "8bit"}, {"train.quantize": "nf4"}]


def spec_of(model_variant: str = "base", precision: str = "auto", **train: Any) -> JobSpec:
    return JobSpec.load(
        None,
        task="train",
        model_variant=model_variant,
        checkpoint_dir="ckpt",
        dataset_dir="tensors",
        output_dir="out",
        train=train,
        runtime={"precision": precision},
    )


def left(spec: JobSpec, longest: float = inf) -> list[dict[str, Any]]:
    return [saving.settings for saving in savings(spec, longest)]


def test_all_of_them_the_cheapest_first() -> None:
    spec = spec_of("xl-turbo", "fp32", gradient_checkpointing=False, adapter={"rank": 32, "alpha": 8})
    assert left(spec) == [
        {"train.gradient_checkpointing": True, "train.gradient_checkpointing_ratio": 1.0},
        {"runtime.precision": "bf16"},
        {"train.optimizer_type": "adamw8bit"},
        *HELD_ELSEWHERE,
        *ROUNDED,
        *({"train.chunk_duration": seconds} for seconds in (120, 60, 30)),
        {"train.adapter.rank": 16, "train.adapter.alpha": 4},
        {"train.adapter.rank": 8, "train.adapter.alpha": 2},
        {"model_variant": "turbo"},
    ]


def test_a_step_of_the_same_samples_is_cut_smaller() -> None:
    spec = spec_of(batch_size=6, accumulation=2)
    cuts = [saving for saving in left(spec) if "train.batch_size" in saving]
    assert left(spec)[: len(cuts)] == cuts
    assert [tuple(saving.values()) for saving in cuts] == [(3, 4), (2, 6), (1, 12)]
    assert not any("train.batch_size" in saving for saving in left(spec_of(accumulation=8)))


def test_what_is_saved_already_is_not_offered() -> None:
    small = {"rank": 8, "alpha": 16}
    held: dict[str, Any] = {"quantize": "nf4", "block_swap": 24, "offload_activations": True}
    assert left(spec_of(optimizer_type="adamw8bit", adapter=small, chunk_duration=30, **held)) == []
    assert left(spec_of(optimizer_type="adafactor", adapter=small, **held), longest=60) == [
        {"train.chunk_duration": 30}
    ]
    partly_held: dict[str, Any] = {"quantize": "8bit", "block_swap": 9}
    assert left(spec_of(optimizer_type="adafactor", adapter=small, **partly_held), longest=30) == [
        HELD_ELSEWHERE[0],
        *HELD_ELSEWHERE[2:],
        ROUNDED[1],
    ]
    assert not any("train.quantize" in saving for saving in left(spec_of(quantize="auto")))
    few: dict[str, Any] = {"adapter": small, "optimizer_type": "adafactor", **held}
    (partly,) = left(spec_of(gradient_checkpointing_ratio=0.9, **few), 10)
    assert partly["train.gradient_checkpointing_ratio"] == 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_takes_each(optimizer: str) -> None:
    spec = spec_of("xl-base", "fp32", optimizer_type=optimizer, gradient_checkpointing=False)
    for saving in savings(spec):
        assert saving.setting in str(saving) and saving.frees and saving.price
        assert changed(spec, [saving]) != spec
    rates = [saving.settings.get("train.lr") for saving in savings(spec) if saving.setting.endswith("type")]
    assert rates == {"prodigy": [1e-4], "adamw": [None]}.get(optimizer, [])


def test_the_optimizers_that_are_built_are_those_of_the_table() -> None:
    assert list(BUILD) == list(OPTIMIZERS)
