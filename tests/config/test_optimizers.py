"""The table of optimizers beside the schema. What they really keep is compared in tests/planning."""

import typing

import pytest

from sidestep.config.job import JobSpec
from sidestep.config.optimizers import OPTIMIZERS, OptimizerName, doubtful_rate
from sidestep.config.training import TrainSpec


def test_the_table_has_a_row_for_each_name() -> None:
    assert tuple(OPTIMIZERS) == typing.get_args(OptimizerName)
    for row in OPTIMIZERS.values():
        assert row.lighter is None or (OPTIMIZERS[row.lighter].saves and row.price)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_s_own_rate_and_schedule_stand_where_none_is_given(name: OptimizerName) -> None:
    train, row = TrainSpec(optimizer_type=name), OPTIMIZERS[name]
    assert (train.lr, train.scheduler) == (row.lr, row.scheduler)
    given = TrainSpec(optimizer_type=name, lr=0.5, scheduler="linear")
    assert (given.lr, given.scheduler) == (0.5, "linear")


def test_prodigy_alone_has_a_rate_of_its_own() -> None:
    own = {name: (row.lr, row.scheduler) for name, row in OPTIMIZERS.items()}
    assert own == dict.fromkeys(OPTIMIZERS, (1e-4, "cosine")) | {"prodigy": (1.0, "constant")}


@pytest.mark.parametrize(
    ("name", "lr", "is_doubtful"),
    [
        ("prodigy", 1e-4, True),
        ("prodigy", 0.02, True),
        ("prodigy", 0.5, False),
        ("prodigy", 1.0, False),
        ("prodigy", None, False),
        ("adamw", 1e-4, False),
        ("adafactor", 1e-6, False),
    ],
)
def test_a_rate_for_another_optimizer(name: OptimizerName, lr: float | None, is_doubtful: bool) -> None:
    said = doubtful_rate(name, lr)
    assert ("train.lr" in said and name in said) == is_doubtful == bool(said)


def test_the_schema_names_them_all() -> None:
    schema = JobSpec.model_json_schema()["$defs"]["TrainSpec"]["properties"]["optimizer_type"]
    assert schema["enum"] == list(OPTIMIZERS)
    assert all(name in schema["description"] for name in OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_grows_with_the_tensor(name: OptimizerName) -> None:
    """Exact for shapes whose state is known by hand; what a real step keeps is compared in tests/planning."""
    kept = OPTIMIZERS[name].state_bytes
    assert {
        "adamw": (80, 8 * 4096, 8 * 8192),
        "adamw8bit": (80, 2 * 4096 + 8 * 16, 2 * 8192 + 8 * 32),
        "adafactor": (40, 4 * (64 + 64), 4 * (64 + 64) * 2),
        "prodigy": (140, 14 * 4096, 14 * 8192),
    }[name] == (kept((10,)), kept((64, 64)), kept((2, 64, 64)))
