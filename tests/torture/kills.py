"""Attempts are killed, at named moments and at any time, until the run is through."""

import random
import signal
from collections.abc import Callable
from typing import Any

from tests.torture.field import CELLS, Attempt, Field, same, store_of
from tests.torture.outcome import check_log, damage_newest, read_outcome
from tests.torture.points import JUDGED, POINTS, PREPROCESS, Point
from tests.torture.tally import Tally

PIPELINE = "pipeline"
FRESH_EVERY = 6  # each so-manieth attempt has an interpreter of its own
DAMAGE_EVERY = 9  # after each so-manieth kill, the newest commit's files are damaged, too


def job_of(field: Field, cell: str) -> Callable[[str], dict[str, Any]]:
    """The job of a cell, by its output."""
    if cell == PIPELINE:
        return lambda output: field.pipeline(output, {"max_steps": 2})
    return lambda output: field.spec(output, CELLS[cell])


def kill(field: Field, cell: str, rng: random.Random, tally: Tally) -> None:
    """One run, of which three to eight attempts are killed: it must end as if none had been."""
    spec_of = job_of(field, cell)
    reference = field.reference(spec_of)
    points: dict[str, Point] = PREPROCESS if cell == PIPELINE else POINTS
    if "stop" in CELLS.get(cell, {}):
        points = points | JUDGED
    spec, before, budget, is_damaged = spec_of(field.new_output()), [0], rng.randint(3, 8), False
    records: list[dict[str, Any]] = []
    while True:
        # The fifth attempt in a row that ends before its first checkpoint would be the last.
        is_last_chance = len(records) >= 4 and all(not record["files"] for record in records[-4:])
        spared = budget == 0 or is_last_chance
        name, number, seconds = (None, 0, None) if spared else _moment(points, rng, reference.seconds)
        attempt = field.start(spec, name, number, fresh=rng.randrange(FRESH_EVERY) == 0)
        code = attempt.end(kill_after=seconds)
        assert ("is damaged and is not used" in attempt.said) <= is_damaged, attempt.said
        before = _not_more_lost_than_two_steps(before, attempt, is_damaged)
        if code == 0:
            break
        assert code == -signal.SIGKILL, f"exit code {code}: {attempt.said}"
        tally.done[name or "at a random time"] += 1
        budget -= 1
        records = check_log(store_of(spec), spare_newest=is_damaged)
        if rng.randrange(DAMAGE_EVERY) == 0 and len(records) > 2:
            is_damaged = damage_newest(store_of(spec)) or is_damaged
    same(read_outcome(store_of(spec)), reference.outcome)
    tally.came_to["the same bytes"] += 1


def _moment(
    points: dict[str, Point], rng: random.Random, duration: float
) -> tuple[str | None, int, float | None]:
    """What kills the next attempt: a point and the number of its call, or a time."""
    if rng.randrange(5) == 0:
        return None, 0, rng.uniform(0, duration)
    name = rng.choice(sorted(points))
    return name, rng.randint(1, points[name].most), None


def _not_more_lost_than_two_steps(before: list[int], attempt: Attempt, is_damaged: bool) -> list[int]:
    """Every step is saved: one may be lost, and those made while it was on its way, which is one more."""
    if attempt.steps and not is_damaged:
        assert before[-1] - 2 <= attempt.steps[0] - 1 <= before[-1], (before, attempt.steps)
    return attempt.steps or before
