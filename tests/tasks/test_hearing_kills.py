"""A run that is heard is ended again and again, by real signals: same adapter, same sounds, told once."""

import random
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch

from sidestep.commitlog.writer import Writer
from sidestep.config.job import JobSpec
from sidestep.lifecycle import heard as files
from sidestep.lifecycle.heard import Sounds
from sidestep.runtime.errors import ExitCode
from sidestep.sampling.pipeline import Sampler
from sidestep.tasks import hearing
from sidestep.training.loop import Trainer
from tests.killed import Point, attempt
from tests.runs import outcome, train
from tests.songs import MakeSpec
from tests.tasks.test_hearing import BLUES, HARP, folder, quick, shown, takes

POINTS: list[Point] = [
    *((Sampler, "latents"), (hearing, "decode_tiled"), (files, "flac_bytes"), (Sounds, "keep")),
    *((hearing, "digest_of"), (Trainer, "step"), (Writer, "commit"), (Writer, "finish")),
]
"""Before which an attempt ends."""


@pytest.fixture
def make(make_spec: MakeSpec, tmp_path: Path) -> Callable[..., JobSpec]:
    """A job by its output."""
    torch.set_num_threads(1)

    def make(output: str, *, is_heard: bool = True) -> JobSpec:
        sample = {"sample": quick(prompts=[HARP, BLUES])} if is_heard else {}
        places = {"runtime.workspace": str(tmp_path / f"{output}-ws"), "runtime.lease_seconds": 1}
        spec = make_spec(output, epochs=3, accumulation=3, **sample)
        return spec.changed({**places, "inference.num_inference_steps": 1})

    return make


def sounds(spec: JobSpec) -> dict[str, bytes]:
    """What is in samples/, with the list of it."""
    assert takes(spec)
    return {file.name: file.read_bytes() for file in folder(spec).iterdir()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ended_at_six_moments(make: Callable[..., JobSpec]) -> None:
    train(plain := make("plain", is_heard=False))
    train(whole := make("whole"))
    assert outcome(whole) == outcome(plain)
    expected, told = sounds(whole), shown(whole)
    assert set(map(tuple, told.values())) == {(0, 1, 2, 3)}
    before_last = {name for name in expected if "epoch-3" not in name} - {"samples.json"}
    rng, ends, within = random.Random(16), 0, 0
    for number in count():
        spec, noticed_at_the_end = make(f"run-{number}"), False
        for _ in range(rng.randint(3, 6)):
            point, call, what = (
                *(rng.choice(POINTS), rng.randint(1, 4)),
                rng.choice([signal.SIGKILL, signal.SIGTERM]),
            )
            code = attempt(spec, point, call, what)
            assert code in (ExitCode.DONE, ExitCode.AGAIN, -signal.SIGKILL), (point, call, what)
            ends += code != ExitCode.DONE
            within += code != ExitCode.DONE and point in POINTS[:5]
            noticed_at_the_end |= code == ExitCode.DONE and what == signal.SIGTERM
        train(spec)
        assert outcome(spec) == outcome(plain)
        made = sounds(spec)
        if noticed_at_the_end and made.keys() != expected.keys():
            # All steps were made: the run was finished in the time that was left, without its last sounds.
            del made["samples.json"]
            assert before_last <= made.keys() and made.items() <= expected.items()
            assert all({0, 1, 2} <= set(steps) <= {0, 1, 2, 3} for steps in shown(spec).values())
        else:
            assert made == expected
            assert shown(spec) == told
        if ends >= 6:
            assert within >= 2
            return
