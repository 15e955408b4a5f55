"""What a plan says of the bounds of a job: all of them, with those that are off."""

import json
from typing import Any

import pytest

from sidestep.config.job import JobSpec
from sidestep.lifecycle.attempts import bound_reached
from sidestep.lifecycle.status import Spent
from sidestep.planning.bounds import Bound, bounds_of
from sidestep.planning.plan import make_plan
from sidestep.planning.report import as_data, as_text
from sidestep.planning.songs import assumed_songs
from tests.planning.test_plan import TINY

OF_ALL = {"max_hours", "max_cost", "max_attempts", "stall_minutes", "hung_minutes", "grace_seconds"}
OF_TRAINING = {"first_step_minutes", "lease_seconds"}


def spec_of(task: str = "train", **runtime: Any) -> JobSpec:
    return JobSpec.load(None, task=task, audio_dir="songs", output_dir="out", runtime=runtime)


def bounds(spec: JobSpec, **seconds_by_card: float) -> dict[str, Bound]:
    return {bound.setting: bound for bound in bounds_of(spec, seconds_by_card)}


@pytest.mark.parametrize("task", ["preprocess", "estimate", "train", "pipeline"])
def test_every_task_has_its_bounds_and_what_is_off_says_so(task: str) -> None:
    found = bounds(spec_of(task, stall_minutes=None))
    assert set(found) == OF_ALL | (OF_TRAINING if task in ("train", "pipeline") else set())
    assert {name for name, bound in found.items() if bound.value is None} == {
        *("max_hours", "max_cost", "stall_minutes", "hung_minutes")
    }
    assert all(bound.says.startswith("off") == (bound.value is None) for bound in found.values())
    phases = ("preprocess", "estimate", "train") if task == "pipeline" else (task,)
    assert {found[name].phases for name in OF_ALL} == {phases}
    assert {found[name].phases for name in OF_TRAINING & set(found)} <= {("train",)}


def test_the_values_are_the_spec_s_and_each_has_its_code() -> None:
    set_to: dict[str, Any] = {
        "max_hours": 5,
        "price_per_hour": 0.5,
        "max_cost": 20,
        "max_attempts": 7,
        "stall_minutes": 2.5,
        "hung_minutes": 45,
        "on_exit": "stop",
    }
    set_to |= {"first_step_minutes": 90, "lease_seconds": 30, "grace_seconds": 25}
    found = bounds(spec_of(**set_to))
    del set_to["price_per_hour"], set_to["on_exit"]
    assert {name: bound.value for name, bound in found.items()} == set_to
    codes = {name: bound.code for name, bound in found.items()}
    assert codes == dict.fromkeys(("max_hours", "max_cost", "max_attempts"), 70) | {
        **dict.fromkeys(("stall_minutes", "hung_minutes", "first_step_minutes"), 76),
        "lease_seconds": 73,
        "grace_seconds": 75,
    }
    assert "20 at 0.5 an hour: 40 h" in found["max_cost"].says


@pytest.mark.parametrize(
    "runtime", [{"max_hours": 2}, {"max_cost": 1, "price_per_hour": 0.5}], ids=["hours", "cost"]
)
def test_a_card_that_takes_longer_is_named(runtime: dict[str, Any]) -> None:
    spec = spec_of(**runtime)
    found = bounds(spec, L4=7201, H100=7200)
    (says,) = [bound.says for bound in found.values() if "too little" in bound.says]
    assert says.endswith("too little for L4")
    assert bound_reached(spec, Spent(seconds={"train": 7200})) and not bound_reached(
        spec, Spent(seconds={"train": 7199})
    )


def test_a_price_of_nothing_is_never_too_much() -> None:
    assert "never" in bounds(spec_of(price_per_hour=0, max_cost=1), L4=1e9)["max_cost"].says


def test_text_and_json_have_them_and_say_what_is_not_seen() -> None:
    plan = make_plan(spec_of("preprocess", max_hours=1e-6), TINY, assumed_songs(7, 8.0))
    data = json.loads(json.dumps(as_data(plan)["bounds"]))
    assert set(data) == OF_ALL
    assert (data["max_hours"]["value"], data["max_hours"]["code"]) == (1e-6, 70)
    assert data["max_cost"]["value"] is None and data["stall_minutes"]["phases"] == ["preprocess"]
    text = as_text(plan)
    assert max(map(len, text.splitlines())) <= 80
    lines = {line.split()[0]: line for line in text.splitlines() if line.split()[:1]}
    assert lines["max_cost"].split() == ["max_cost", "off"] and "(76)" in lines["stall_minutes"]
    assert "too little for RTX 3070" in lines["max_hours"]
    said = " ".join(text.split())
    assert as_data(plan)["not_seen"] in said
    assert all(word in said for word in ("waiting for a machine", "pulling", "booting"))
