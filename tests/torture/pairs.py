"""Two attempts begin in the same moment: at one output, at one place of tensors, or side by side."""

import random
import time
from pathlib import Path
from typing import Any

from tests.torture.field import CELLS, Attempt, Field, same, store_of
from tests.torture.outcome import check_log, read_outcome
from tests.torture.tally import Tally

TRIES = 4
HEAD_START = 0.1  # until both are forked
APART_AT_MOST = 0.05
FEW = CELLS["lora-adamw"] | {"max_steps": 3}


def pair(field: Field, cell: str, rng: random.Random, tally: Tally) -> None:
    """One pair; see `PAIRS` for what `cell` may be."""
    PAIRS[cell](field, rng, tally)
    tally.done[cell] += 2


def one_output(field: Field, rng: random.Random, tally: Tally, kind: str) -> None:
    """At one output that is not there yet. One of them trains, the other ends with 73, or finds it done."""
    spec = field.spec(field.new_output(kind), FEW)
    codes = [_end(attempt, 0, 73) for attempt in _begin(field, rng, spec, spec)]
    while 0 not in codes:
        assert len(codes) < TRIES, f"nobody finished: {codes}"
        codes.append(_end(field.start(spec), 0, 73))
    check_log(store_of(spec))
    _is_as_alone(field, spec)
    tally.came_to["the same bytes"] += 1


def array_job(field: Field, rng: random.Random, tally: Tally) -> None:
    """At two outputs below one new folder."""
    folder = Path(field.new_output("local"), *["deeper"] * rng.randint(0, 2))
    specs = [field.spec(str(folder / name), FEW) for name in ("0", "1")]
    for attempt in _begin(field, rng, *specs):
        _end(attempt, 0)
    for spec in specs:
        _is_as_alone(field, spec)
    tally.came_to["the same bytes"] += 1


def one_preprocessing(field: Field, rng: random.Random, tally: Tally, kind: str) -> None:
    """At one place of tensors that is not there yet."""
    whole = field.pipeline(field.new_output(kind), {}, task="preprocess")
    reference = field.reference(lambda output: field.pipeline(output, CELLS["lora-adamw"] | {"max_steps": 2}))
    for attempt in _begin(field, rng, whole, whole):
        _end(attempt, 0)
    _same_tensors(whole, reference.spec)
    tally.came_to["the same bytes"] += 1


def one_dataset(field: Field, rng: random.Random, tally: Tally) -> None:
    """At two outputs, while one new place of tensors is made by both."""
    tensors = field.new_output("local")
    settings = CELLS["lora-adamw"] | {"max_steps": 2}
    reference = field.reference(lambda output: field.pipeline(output, settings))
    specs = [field.pipeline(field.new_output("local"), settings, dataset_dir=tensors) for _ in range(2)]
    for attempt in _begin(field, rng, *specs):
        _end(attempt, 0)
    for spec in specs:
        same(read_outcome(store_of(spec)), reference.outcome)
    tally.came_to["the same bytes"] += 1


PAIRS = {
    "one output, local": lambda field, rng, tally: one_output(field, rng, tally, "local"),
    "one output, s3": lambda field, rng, tally: one_output(field, rng, tally, "s3"),
    "an array job": array_job,
    "one preprocessing, local": lambda field, rng, tally: one_preprocessing(field, rng, tally, "local"),
    "one preprocessing, s3": lambda field, rng, tally: one_preprocessing(field, rng, tally, "s3"),
    "one dataset": one_dataset,
}
STARTS = {name: 40 if name.startswith("one output") or name == "an array job" else 16 for name in PAIRS}
"""How many attempts are to be started in each."""


def _begin(field: Field, rng: random.Random, *specs: dict[str, Any]) -> list[Attempt]:
    at = time.monotonic() + HEAD_START
    return [field.start(spec, at=at + rng.choice([0, rng.uniform(0, APART_AT_MOST)])) for spec in specs]


def _end(attempt: Attempt, *allowed: int) -> int:
    code = attempt.end()
    assert code in allowed, f"exit code {code}: {attempt.said}"
    return code


def _is_as_alone(field: Field, spec: dict[str, Any]) -> None:
    reference = field.reference(lambda output: field.spec(output, FEW))
    same(read_outcome(store_of(spec)), reference.outcome)


def _same_tensors(found: dict[str, Any], expected: dict[str, Any]) -> None:
    stores = [store_of(spec).child("tensors") for spec in (found, expected)]
    made, wanted = (
        {file.path: store.read_bytes(file.path) for file in store.list_files() if file.path.endswith(".pt")}
        for store in stores
    )
    assert made == wanted, f"other tensors: {sorted(made)}"
