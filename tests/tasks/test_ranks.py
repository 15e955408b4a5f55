"""Several processes train as one does: the same adapter, the same losses, whatever the count of them."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.job import JobSpec
from sidestep.lifecycle.saver import Saver
from sidestep.runtime.errors import BadSpecError, ExitCode
from sidestep.tasks import run
from sidestep.training import team
from sidestep.training.loop import StepResult, Trainer
from tests.facts import tells
from tests.ranks import start, together
from tests.runs import log_of, newest, outcome, train
from tests.songs import MakeSpec, song, write_songs

LORA: dict[str, Any] = {"adapter": {"dropout": 0.3}}
LOKR: dict[str, Any] = {"adapter": {"type": "lokr", "dropout": 0.3}}
CLIPPED: dict[str, Any] = {"max_grad_norm": 0.1, "accumulation": 2, "epochs": 3}


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("adapter", [LORA, LOKR], ids=str)
def test_it_is_one_rank_s_adapter_to_the_bit(
    make_spec: MakeSpec, adapter: dict[str, Any], count: int
) -> None:
    """With dropout and clipping; neither three songs nor steps of two can be divided by all counts. All ranks
    ask each other the same, in the same order."""
    asked = [Path(f"asked-{rank}").absolute() for rank in range(count)]

    def before(rank: int) -> None:
        for name in ("heard", "shared", "exchange", "joined", "add_up"):
            note_calls(team.Processes, name, asked[rank])

    train(make_spec("alone", **CLIPPED, **adapter))
    assert together(make_spec("together", **CLIPPED, **adapter), count, before) == [0] * count
    assert len({file.read_text() for file in asked}) == 1
    assert outcome(make_spec("together", **CLIPPED, **adapter)) == outcome(
        make_spec("alone", **CLIPPED, **adapter)
    )


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("adapter", [LORA, LOKR], ids=str)
def test_all_reduced_it_has_the_same_losses(make_spec: MakeSpec, adapter: dict[str, Any], count: int) -> None:
    train(make_spec("alone", **CLIPPED, **adapter))
    spec = make_spec("together", **CLIPPED, **adapter)
    quick = spec.model_copy(
        update={"runtime": spec.runtime.model_copy(update={"gradient_sums": "all_reduce"})}
    )
    assert together(quick, count) == [0] * count
    assert losses(spec) == approx(losses(make_spec("alone", **CLIPPED, **adapter)))


@pytest.mark.slow
def test_samples_at_once_and_held_out_songs_to_1e_5(make_spec: MakeSpec) -> None:
    """Steps of two, by three ranks one for each; and each of a validation's draws is made by one of them."""
    songs = write_songs(Path("more"), [song(number, frames=20) for number in range(8)])
    settings: dict[str, Any] = {**CLIPPED, "batch_size": 2, "accumulation": 1, "dataset_dir": songs}
    settings["validation"] = {"share": 0.2, "draws": 5}
    alone = train(make_spec("alone", **settings))
    assert together(make_spec("together", **settings), 3) == [0, 0, 0]
    assert losses(make_spec("together", **settings)) == approx(losses(make_spec("alone", **settings)))
    found = train(make_spec("together", **settings))  # it is finished, and says what it has found
    assert list(found.held_out.values()) == approx(list(alone.held_out.values()))


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(4, 1), (1, 2)])
def test_a_run_goes_on_with_another_count(make_spec: MakeSpec, first: int, then: int) -> None:
    """Notice to any rank ends all of them after the same step, with one checkpoint and 75."""
    train(make_spec("alone", **CLIPPED, **LORA))
    spec, saves = make_spec("together", **CLIPPED, **LORA), Path("saves").absolute()

    def before(rank: int) -> None:
        note_calls(Saver, "save_in_time", saves)
        if rank == first - 1:
            signal_in_step(2, signal.SIGTERM)

    assert together(spec, first, before) == [ExitCode.AGAIN] * first
    assert saves.read_text() == "save_in_time\n"
    assert newest(spec).step in (2, 3)
    assert together(spec, then) == [0] * then
    assert outcome(spec) == outcome(make_spec("alone", **CLIPPED, **LORA))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_is_killed_the_others_end_and_another_attempt_goes_on(
    make_spec: MakeSpec, victim: int
) -> None:
    every = {**CLIPPED, "checkpoint": {"every_steps": 1}}
    train(make_spec("alone", **every))
    spec = make_spec("together", **every)
    spec = spec.model_copy(update={"runtime": spec.runtime.model_copy(update={"lease_seconds": 2.0})})

    def before(rank: int) -> None:
        team.LAST_WORDS = 0.0
        if rank == victim:
            signal_in_step(3, signal.SIGKILL)

    codes = together(spec, 3, before)
    assert codes[victim] == -signal.SIGKILL
    assert {code for rank, code in enumerate(codes) if rank != victim} == {ExitCode.PEER}
    assert newest(spec).step in (2, 3)  # the last one may still have been on its way
    assert together(spec, 2) == [0, 0]
    assert outcome(spec) == outcome(make_spec("alone", **every))


@pytest.mark.slow
def test_another_machine_outlasts_rank_0_and_has_a_probe_s_file(make_spec: MakeSpec) -> None:
    """A platform ends the others as soon as one has ended: rank 0 has saved by then."""
    spec = make_spec(**CLIPPED)

    def before(rank: int) -> None:
        if rank == 0:
            delay_calls(Saver, "save_in_time", 1.5)
        else:
            os.environ["LOCAL_RANK"] = "0"
            spec.runtime.__dict__["workspace"] = str(Path("of node 1").absolute())
            signal_in_step(2, signal.SIGTERM)

    start(spec, 2, before)
    codes = [os.waitstatus_to_exitcode(os.wait()[1])]
    assert newest(spec).step in (2, 3)  # as the first of them has ended
    codes.append(os.waitstatus_to_exitcode(os.wait()[1]))
    assert codes == [ExitCode.AGAIN] * 2
    assert list(Path("of node 1").rglob("alive"))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_hangs_is_lost(make_spec: MakeSpec, victim: int) -> None:
    """It is stopped: its connections stay, and rank 0's store answers nothing any more."""

    def before(rank: int) -> None:
        team.LOST_AFTER, team.LAST_WORDS = 4.0, 0.0
        if rank == victim:
            signal_in_step(2, signal.SIGSTOP)

    started = start(make_spec(**CLIPPED), 2, before)
    other = started.pids.pop(1 - victim)
    until = time.monotonic() + 60
    while not (ended := os.waitpid(other, os.WNOHANG))[0] and time.monotonic() < until:
        time.sleep(0.1)
    for pid in started.pids if ended[0] else [*started.pids, other]:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert ended[0] and os.waitstatus_to_exitcode(ended[1]) == ExitCode.PEER


@pytest.mark.slow
def test_a_rank_that_has_read_other_songs_ends_it(
    make_spec: MakeSpec, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = make_spec()
    others = write_songs(Path("others"), [song(number + 7) for number in range(3)])

    def before(rank: int) -> None:
        team.LAST_WORDS = 0.0
        if rank == 1:
            spec.__dict__["dataset_dir"] = str(others)

    assert together(spec, 2, before) == [ExitCode.PEER, ExitCode.MACHINE]
    assert tells(capfd.readouterr().err, "rank 1 is not as rank 0 is", "dataset_content")


@pytest.mark.slow
def test_a_finished_run_stays_finished(make_spec: MakeSpec) -> None:
    spec = make_spec()
    assert [together(spec, count) for count in (2, 3)] == [[0, 0], [0, 0, 0]]
    assert (
        len([record for record in log_of(spec).back_from(log_of(spec).tail()) if record.kind == "done"]) == 1
    )


@pytest.mark.parametrize("task", ["preprocess", "estimate", "pipeline"])
def test_only_a_training_is_done_by_several(
    make_spec: MakeSpec, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadSpecError, match="launch only the training"):
        run(make_spec().model_copy(update={"task": task}))


def losses(spec: JobSpec) -> list[float]:
    return outcome(spec)[1]


def approx(numbers: list[float]) -> Any:
    return pytest.approx(numbers, rel=1e-5, abs=0)


def signal_in_step(number: int, which: signal.Signals) -> None:
    """This process gets a signal as it begins the step that follows so many others."""
    original = Trainer.step

    def signalled(self: Trainer, step: int) -> StepResult | None:
        if step == number:
            os.kill(os.getpid(), which)
        return original(self, step)

    Trainer.step = signalled  # type: ignore[method-assign]


def note_calls(kind: type, name: str, file: Path) -> None:
    original = getattr(kind, name)

    def noted(*given: Any) -> Any:
        with file.open("a") as notes:
            notes.write(f"{name}\n")
        return original(*given)

    setattr(kind, name, noted)


def delay_calls(kind: type, name: str, seconds: float) -> None:
    original = getattr(kind, name)

    def delayed(*given: Any) -> Any:
        time.sleep(seconds)
        return original(*given)

    setattr(kind, name, delayed)
