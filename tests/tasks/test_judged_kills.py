"""A run that overfits is ended again and again, by real signals: same best, same stop, same bytes."""

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep.commitlog.writer import Writer
from sidestep.config.job import JobSpec
from sidestep.lifecycle.pending import PendingCheckpoints
from sidestep.runtime.errors import ExitCode
from sidestep.training import loop
from sidestep.training.loop import Trainer
from sidestep.training.numbers import NUMBERS_FILE, Progress, Validation, read_numbers
from sidestep.training.snapshot import Snapshot
from sidestep.training.validation import Validator
from sidestep.training.verdict import judge
from tests.killed import Point, attempt
from tests.runs import log_of, newest, outcome, train
from tests.songs import MakeSpec, song, write_songs

OVERFITS: dict[str, Any] = {
    "epochs": 6,
    "accumulation": 1,
    "lr": 3e-2,
    "scheduler": "constant",
    "adapter": {"rank": 2, "alpha": 4, "attention": "self"},
    "validation": {"songs": ["0"], "every_epochs": 1, "draws": 2, "window": 1},
    "stop": {"patience": 2},
    "best": True,
    "checkpoint": {"every_steps": 3, "every_minutes": None, "keep": 1},
}
"""Two steps an epoch. Held-out loss turns after step 4, so that patience ends the run after step 8 of 12."""

POINTS: list[Point] = [
    *((Trainer, "step"), (Validator, "validation"), (loop, "flow_loss"), (Snapshot, "take")),
    *((PendingCheckpoints, "put"), (Writer, "commit"), (Writer, "finish")),
]
"""Before which an attempt ends. The loss by itself is taken in validations and evaluations alone."""


@dataclass(frozen=True)
class Ending:
    """What must be equal, however often a run is ended."""

    adapter: dict[str, bytes]
    losses: list[float]
    step: int
    published: int  # the step of that checkpoint
    validations: dict[int, Validation]
    evaluations: dict[int, float]


@pytest.fixture
def overfitting(make_spec: MakeSpec, tmp_path: Path) -> Callable[[str], JobSpec]:
    """A job by its output."""
    torch.set_num_threads(1)
    folder = write_songs(tmp_path / "overfits", [song(number, frames=12 + 2 * number) for number in range(3)])

    def make(output: str) -> JobSpec:
        places = {"runtime.workspace": str(tmp_path / f"{output}-ws"), "runtime.lease_seconds": 1}
        return make_spec(output, dataset_dir=folder, **OVERFITS).changed(places)

    return make


@pytest.mark.slow
def test_ended_in_a_validation_and_before_the_best_is_committed(
    overfitting: Callable[[str], JobSpec],
) -> None:
    spec, whole = overfitting("ended"), overfitting("whole")
    train(whole)
    expected = ending(whole)
    assert (expected.published, expected.step) == (4, 8)
    draws = 16 + 2 * 4 + 2  # an evaluation, two validations of two songs and two draws, half of a third
    assert attempt(spec, (loop, "flow_loss"), draws, signal.SIGTERM) == ExitCode.AGAIN
    assert newest(spec).folder == "checkpoints/checkpoint-step-4"
    assert list(progress_of(spec).validations) == [0, 2]
    assert attempt(spec, (Writer, "commit"), 1, signal.SIGKILL) == -signal.SIGKILL
    train(spec)
    assert ending(spec) == expected


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ended_at_ten_moments(overfitting: Callable[[str], JobSpec]) -> None:
    train(whole := overfitting("whole"))
    expected, rng, ends = ending(whole), random.Random(14), 0
    for number in count():
        spec = overfitting(f"run-{number}")
        for _ in range(rng.randint(3, 6)):
            moment = rng.choice(POINTS), rng.randint(1, 8), rng.choice([signal.SIGKILL, signal.SIGTERM])
            code = attempt(spec, *moment)
            assert code in (ExitCode.DONE, ExitCode.AGAIN, -signal.SIGKILL), moment
            ends += code != ExitCode.DONE
        train(spec)
        assert ending(spec) == expected
        if ends >= 10:
            return


def progress_of(spec: JobSpec) -> Progress:
    folder = newest(spec).folder
    return read_numbers(Path(spec.output_place, folder, NUMBERS_FILE).read_bytes(), folder).progress


def ending(spec: JobSpec) -> Ending:
    log, done, progress = log_of(spec), newest(spec), progress_of(spec)
    adapter, losses = outcome(spec)
    folder = log.published(log.tail()) or done.folder
    best = judge(progress, spec.train).best
    (published,) = {record.step for record in log.back_from(log.tail()) if record.folder == folder}
    assert published == best
    assert set(done.kept) == {done.folder, folder}
    return Ending(adapter, losses, done.step, published, progress.validations, progress.evaluations)
