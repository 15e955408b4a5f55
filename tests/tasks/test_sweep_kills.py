"""A sweep of four, from songs to the best adapter, killed twice: all is made once, with the same bytes."""

import json
import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sidestep.cli import main
from sidestep.commitlog.lease import Lease
from sidestep.commitlog.writer import Writer
from sidestep.config.job import JobSpec
from sidestep.config.sweep import members_of
from sidestep.lifecycle.attempts import attempts_of
from sidestep.lifecycle.sweep import alone
from sidestep.lifecycle.sweep_best import read_best
from sidestep.runtime.errors import ExitCode
from sidestep.runtime.preemption import Preemption
from sidestep.storage.open import open_store
from sidestep.tasks import run
from sidestep.tasks.sweep import run_sweep
from tests.killed import attempt
from tests.runs import outcome
from tests.tasks.preprocessing import Counted, MakeJob, write_song

SWEEP = {"train.lr": [1e-2, 1e-3], "train.adapter.rank": [2, 4]}


@pytest.fixture
def sweep(spec: MakeJob, songs: Path, tmp_path: Path) -> Callable[[str], JobSpec]:
    """A pipeline on four songs, of which one is held out; two steps a run, with a checkpoint after each."""
    torch.set_num_threads(1)
    for number in (2, 3):
        write_song(songs / f"{number}.wav", number)
    train = {
        "epochs": 2,
        "accumulation": 3,
        "adapter": {"type": "lora", "rank": 2, "alpha": 4},
        "validation": {"songs": ["2.wav"], "every_epochs": 1, "draws": 2},
        "checkpoint": {"every_steps": 1, "every_minutes": None},
        "best": True,
    }

    def make(output: str) -> JobSpec:
        places = {"output_dir": str(tmp_path / output), "dataset_dir": None}
        runtime = {"device": "cpu", "workspace": str(tmp_path / f"{output}-ws"), "lease_seconds": 1}
        return spec(
            **places, task="pipeline", sweep=SWEEP, train=train, runtime=runtime, estimate={"batches": 1}
        )

    return make


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_twice_ended_and_compared(
    sweep: Callable[[str], JobSpec], tmp_path: Path, counted: Counted, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, spec = sweep("whole"), sweep("killed")
    run(whole)
    assert counted()["encode_audio"] == 4  # once for all runs
    assert attempt(spec, (Writer, "commit"), 3, signal.SIGKILL) == -signal.SIGKILL  # in the second run
    assert attempt(spec, (Writer, "commit"), 3, signal.SIGTERM) == ExitCode.AGAIN  # in the third
    run(spec)
    assert counted() == {}  # the songs were encoded in the first attempt
    for one, other in zip(members_of(whole), members_of(spec), strict=True):
        assert outcome(one.spec) == outcome(other.spec)
    ends = [
        [made.code for made in attempts_of(open_store(member.spec.output_place, spec.storage)).values()]
        for member in members_of(spec)
    ]
    assert ends[0] == [0] and sum(map(len, ends)) == 6  # what was finished was not begun again
    bests = [read_best(open_store(one.output_place, one.storage)) for one in (whole, spec)]
    assert bests[0] and bests[0] == bests[1] and bests[0].finished == 4
    page = tmp_path / "page.html"
    words = ["compare", spec.output_place, "--json", "--output", str(page)]
    assert main(words, is_process=False) == ExitCode.DONE
    compared = json.loads(capsys.readouterr().out)
    assert len(compared["runs"]) == 4
    assert compared["best"] == f"{spec.output_place}/{bests[0].folder}"


@pytest.mark.slow
def test_of_two_jobs_at_once_one_makes_what_both_share(
    sweep: Callable[[str], JobSpec], caplog: pytest.LogCaptureFixture
) -> None:
    """The second waits for as long as the first one lives, and finds it made then."""
    spec, begun, may_end, order = sweep("both"), threading.Event(), threading.Event(), []

    def first() -> None:
        with alone(open_store(spec.output_place, spec.storage), Lease(1), "at work"):
            begun.set()
            may_end.wait(20)
            order.append("made")

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(20)
    threading.Timer(2.5, may_end.set).start()  # longer than a lease
    environ = {"JOB_COMPLETION_INDEX": "0"}
    caplog.set_level(logging.INFO)
    run_sweep(spec, Preemption(), lambda one: order.append(one.task), environ)
    thread.join()
    assert order == ["made", "preprocess", "estimate", "train"]
    told = [message for message in caplog.messages if "waiting" in message]
    assert all("Another run of this sweep is making what all of them share" in message for message in told)
    assert told
