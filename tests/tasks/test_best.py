"""Runs that end by their held-out loss, and publish their best checkpoint: the end, again, and extended."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sidestep.cli import main
from sidestep.config.job import JobSpec
from sidestep.runtime.errors import AgainError, BadSpecError, MissingInputError
from sidestep.runtime.preemption import Preemption
from sidestep.tasks import run
from sidestep.training.loop import Trainer
from sidestep.training.numbers import Losses, Progress, Validation, numbers_in
from tests.runs import files, log_of, newest, train, train_until_stopped
from tests.songs import MakeSpec, song, write_songs

JUDGED: dict[str, Any] = {
    "epochs": 12,
    "best": True,
    "validation": {"songs": ["0"], "every_epochs": 1, "draws": 1, "window": 1},
    "checkpoint": {"every_epochs": 100, "every_minutes": None, "keep": 1},
    "stop": {"patience": 3},
}
"""One step an epoch: two of the three songs are trained on."""
TURNS = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.4, 5: 2.3, 6: 1.9, 7: 1.8, 8: 2.1, 9: 2.2, 10: 2.2}
"""Best at step 2, and patience ends the run after step 5; where it goes on, the best is step 7."""

Judge = Callable[[dict[int, float]], None]


@pytest.fixture
def judged_by(monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Has validations find these held-out losses."""

    def judged(curve: dict[int, float]) -> None:
        def validate(trainer: Trainer, progress: Progress) -> bool:
            if trainer.is_settled(progress):
                return False
            found = Losses((curve.get(progress.step, 4.0),), (4.0,))
            progress.validations[progress.step] = Validation(found, found)
            progress.timesteps = (0.5,)
            return True

        monkeypatch.setattr(Trainer, "validate", validate)

    return judged


def published(spec: JobSpec) -> int:
    """The step of the checkpoint that the log says is published; adapter/ is that one's, byte for byte."""
    log, done = log_of(spec), newest(spec)
    assert done.kind == "done"
    folder = log.published(log.tail()) or done.folder
    output = Path(spec.output_place)
    made = files(output / "adapter")
    assert made.pop("card.json") and made.pop("README.md")  # which no checkpoint has
    assert made.items() <= files(output / folder).items()
    return next(record.step for record in log.back_from(log.tail()) if record.folder == folder)


def receipt(spec: JobSpec) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(spec.output_place, "receipt.json").read_text())
    return content


def status(spec: JobSpec) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(spec.output_place, "status.json").read_text())
    return content


def test_patience_ends_a_run_and_its_best_is_published(make_spec: MakeSpec, judged_by: Judge) -> None:
    judged_by(TURNS)
    spec = make_spec(**JUDGED)
    result = train(spec)
    assert (result.steps, newest(spec).step, published(spec)) == (5, 5, 2)
    assert (result.best_step, result.best_held_out) == (2, 2.0)
    assert sorted(newest(spec).kept) == ["checkpoints/checkpoint-epoch-2", "checkpoints/checkpoint-epoch-5"]
    told = status(spec)
    assert (told["state"], told["exit_code"], told["spent"]["preemptions"]) == ("done", 0, 0)
    assert "step 5 of 12" in told["message"] and "3 validations" in told["message"]
    made = receipt(spec)
    assert made["checkpoint"] == {"folder": "checkpoints/checkpoint-epoch-2", "step": 2}
    adapter = files(Path(spec.output_place, "adapter"))
    assert {name: entry["size"] for name, entry in made["adapter"].items()} == {
        name: len(data) for name, data in adapter.items() if name not in ("card.json", "README.md")
    }
    assert "3 validations" in made["ended_by"]


def test_the_best_is_told_by_the_mean_that_makes_it_the_best(
    make_spec: MakeSpec, judged_by: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    judged_by(TURNS)
    judged = {**JUDGED, "validation": {**JUDGED["validation"], "window": 2}}
    result = train(make_spec(**judged))
    assert result.best_step == 7
    assert result.best_held_out == pytest.approx(1.85)  # the mean of 1.9 and 1.8
    assert "step 7, with 1.8500 as the mean" in caplog.text


def test_again_there_is_nothing_to_do_and_it_is_mended(
    make_spec: MakeSpec, judged_by: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    judged_by(TURNS)
    spec = make_spec(**JUDGED)
    train(spec)
    made, tail = files(Path(spec.output_place, "adapter")), log_of(spec).tail()
    caplog.clear()
    caplog.set_level(logging.INFO)
    for name in ("adapter/adapter_model.safetensors", "receipt.json"):
        Path(spec.output_place, name).unlink()
    assert train(spec).steps == 5
    assert (files(Path(spec.output_place, "adapter")), log_of(spec).tail()) == (made, tail)
    assert receipt(spec)["checkpoint"]["step"] == 2
    assert "--extend" in caplog.text and "3 validations" in caplog.text


def test_publish_last_publishes_the_last_and_the_best_stays(make_spec: MakeSpec, judged_by: Judge) -> None:
    judged_by(TURNS)
    spec = make_spec(**JUDGED, publish="last")
    train(spec)
    assert (newest(spec).step, published(spec), len(newest(spec).kept)) == (5, 5, 2)


def test_a_target_ends_a_run(make_spec: MakeSpec, judged_by: Judge) -> None:
    judged_by(TURNS)
    spec = make_spec(**{**JUDGED, "stop": {}, "target_loss": 1.95})
    assert (train(spec).steps, published(spec)) == (6, 6)
    assert newest(spec).published == ""  # the best is the last


def test_an_early_end_is_saved_within_skipped_steps(
    make_spec: MakeSpec, judged_by: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(TURNS)
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, n: _skipped(step(self, n)) if n >= 3 else step(self, n))
    spec = make_spec(**JUDGED)
    train(spec)
    assert (newest(spec).step, published(spec)) == (5, 2)


def test_the_best_is_saved_within_skipped_steps(
    make_spec: MakeSpec, judged_by: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(TURNS)
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, n: _skipped(step(self, n)) if n == 1 else step(self, n))
    spec = make_spec(**JUDGED)
    train(spec)
    assert published(spec) == 2


def _skipped(result: Any) -> Any:
    result.__dict__["loss"] = float("nan")  # it is frozen
    return result


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"epochs": 9}, {"epochs": 12, "stop": {"patience": 4}}])
def test_extended_it_goes_on_from_the_last(
    make_spec: MakeSpec, judged_by: Judge, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Patience begins anew where it would end the run at once, also where the extended run is cut off."""
    judged_by(TURNS)
    spec = make_spec(**JUDGED)
    train(spec)
    longer = make_spec(**{**JUDGED, **changes, "extend": True})
    train_until_stopped(longer, monkeypatch, commits=1)
    assert newest(longer).step == 6  # it is the best now
    assert "checkpoints/checkpoint-epoch-2" in newest(longer).kept  # adapter/ is that one's until the end
    result = train(longer)
    assert (result.steps, published(longer)) == ((9, 7) if "stop" not in changes else (11, 7))
    state = numbers_in(Path(longer.output_place, newest(longer).folder))
    assert state.progress.patient_from == (5 if "stop" not in changes else 0)
    assert state.progress.evaluations.keys() == {0, 5, result.steps}


def test_extended_with_nothing_changed_there_is_nothing_to_do(
    make_spec: MakeSpec, judged_by: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    judged_by(TURNS)
    train(make_spec(**JUDGED))
    spec = make_spec(**JUDGED, extend=True)
    tail = log_of(spec).tail()
    caplog.clear()
    caplog.set_level(logging.INFO)
    assert train(spec).steps == 5
    assert log_of(spec).tail() == tail
    assert "train.stop.patience" in caplog.text and "train.epochs" in caplog.text


def test_extended_though_its_target_is_reached_there_is_nothing_to_do(
    make_spec: MakeSpec, judged_by: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    judged_by(TURNS)
    settings = {**JUDGED, "stop": {}, "target_loss": 2.0}
    train(make_spec(**settings))
    spec = make_spec(**{**settings, "epochs": 20}, extend=True)
    tail = log_of(spec).tail()
    caplog.clear()
    caplog.set_level(logging.INFO)
    assert train(spec).steps == 2
    assert log_of(spec).tail() == tail
    assert "train.target_loss" in caplog.text
    assert train(make_spec(**{**settings, "target_loss": 1.8}, extend=True)).steps == 7


def test_other_stop_settings_without_extend_are_another_run(make_spec: MakeSpec, judged_by: Judge) -> None:
    judged_by(TURNS)
    train(make_spec(**JUDGED))
    with pytest.raises(BadSpecError, match=r"train\.stop\.patience(.|\n)*--extend"):
        train(make_spec(**{**JUDGED, "stop": {"patience": 4}}))


def test_a_finished_run_with_another_publish_says_what_to_do(
    make_spec: MakeSpec, judged_by: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    judged_by(TURNS)
    train(make_spec(**JUDGED))
    other = make_spec(**JUDGED, publish="last")
    caplog.clear()
    caplog.set_level(logging.INFO)
    train(other)
    assert published(other) == 2
    assert f"sidestep publish {other.output_place} --checkpoint checkpoint-epoch-5" in caplog.text
    train(make_spec("two", **JUDGED, publish="last"))
    train(make_spec("two", **JUDGED))
    assert "--checkpoint checkpoint-epoch-2" in caplog.text


def test_published_by_hand(
    make_spec: MakeSpec, judged_by: Judge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Best by name, from the log and the validations alone; what is published by hand stays so."""
    judged_by(TURNS)
    spec = make_spec(**JUDGED, publish="last")
    train(spec)
    workspace = ["--workspace", str(tmp_path / "ws")]
    assert main(["publish", spec.output_place, "--checkpoint", "best", *workspace]) == 0
    assert published(spec) == 2
    caplog.clear()
    train(make_spec(**JUDGED))  # that asks for what has been published
    assert published(spec) == 2
    assert "another train.publish" not in caplog.text
    assert main(["publish", spec.output_place, *workspace]) == 0
    assert published(spec) == 5


def test_best_of_an_output_without_validations_is_refused(
    make_spec: MakeSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_spec(epochs=1)
    train(spec)
    assert main(["publish", spec.output_place, "--checkpoint", "best"]) == MissingInputError.exit_code
    assert "train.validation" in capsys.readouterr().err


def test_the_best_of_an_earlier_attempt_stays(
    make_spec: MakeSpec, judged_by: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(TURNS)
    spec = make_spec(**JUDGED)
    train_until_stopped(spec, monkeypatch, commits=2)
    train(spec)
    assert (newest(spec).step, published(spec)) == (5, 2)


def cut_off_validating(step: int, spec: JobSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice comes in the validation after `step`."""
    preemption, made = Preemption(end_process=lambda code: None), Trainer.validate

    def cut_off(trainer: Trainer, progress: Progress) -> bool:
        if progress.step == step:
            preemption.request()
            return False
        return made(trainer, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", cut_off)
        with pytest.raises(AgainError, match=f"step {step} of {spec.train.epochs}"):
            run(spec, preemption)


def test_the_best_that_the_next_attempt_finds_out_about_is_committed(
    make_spec: MakeSpec, judged_by: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(TURNS)
    spec = make_spec(**JUDGED)
    cut_off_validating(2, spec, monkeypatch)
    train(spec)
    assert (newest(spec).step, published(spec)) == (5, 2)
    assert newest(spec).published == "checkpoints/checkpoint-epoch-2.g2"


def test_one_whose_last_validation_is_cut_off_is_not_over(
    make_spec: MakeSpec, judged_by: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its steps are all made and saved; the next attempt judges them, and publishes what it must."""
    judged_by(TURNS)
    spec = make_spec(**{**JUDGED, "stop": {}, "epochs": 6})
    cut_off_validating(6, spec, monkeypatch)
    saved = newest(spec)
    assert (saved.kind, saved.folder) == ("commit", "checkpoints/checkpoint-step-6")
    assert 6 not in numbers_in(Path(spec.output_place, saved.folder)).progress.evaluations
    train(spec)
    done = newest(spec)
    assert (published(spec), done.folder) == (6, "checkpoints/checkpoint-epoch-6.g2")
    progress = numbers_in(Path(spec.output_place, done.folder)).progress
    assert (list(progress.validations), list(progress.evaluations)) == ([0, 1, 2, 3, 4, 5, 6], [0, 6])
    events = EventAccumulator(f"{spec.output_place}/runs")
    events.Reload()
    for tag, steps in (("loss/eval", [0, 6]), ("validation/held_out", list(range(7)))):
        assert [point.step for point in events.Scalars(tag)] == steps


def test_extended_over_the_same_songs_no_song_changes_sides_and_over_more_it_is_another_run(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    folder = write_songs(tmp_path / "ten", [song(number, frames=12) for number in range(10)])
    settings: dict[str, Any] = {
        "dataset_dir": folder,
        "accumulation": 8,
        "epochs": 1,
        "validation": {"share": 0.3, "draws": 1},
    }
    train(make_spec(**settings))
    sides = numbers_in(Path(make_spec().output_place, newest(make_spec()).folder)).sides
    longer = make_spec(**{**settings, "epochs": 2}, extend=True)
    assert train(longer).steps == 2
    assert sides and numbers_in(Path(longer.output_place, newest(longer).folder)).sides == sides
    write_songs(folder, [song(number, frames=12) for number in range(11)])
    for spec in (make_spec(**{**settings, "epochs": 2}), make_spec(**{**settings, "epochs": 3}, extend=True)):
        with pytest.raises(BadSpecError, match="dataset"):
            train(spec)


def test_going_back_the_best_is_that_of_what_is_left(make_spec: MakeSpec, judged_by: Judge) -> None:
    settings = {**JUDGED, "stop": {}, "epochs": 8}
    settings["checkpoint"] = {**settings["checkpoint"], "keep_every_epochs": 3}
    judged_by(TURNS)
    spec = make_spec(**settings)
    train(spec)
    assert published(spec) == 7
    judged_by({**TURNS, 7: 3.0, 6: 3.0})
    back = make_spec(**settings, new_attempt=True, resume_from="checkpoint-epoch-6")
    train(back)
    assert (newest(back).step, published(back)) == (8, 6)  # step 2 was given up for 7; of these 6 was best
