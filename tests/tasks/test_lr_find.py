"""The range test: on copies, with a report and nothing else, and a rate that trains."""

import json
import os
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.config.job import JobSpec
from sidestep.lifecycle.job import Job
from sidestep.runtime import interrupts
from sidestep.runtime.errors import BadSpecError, ExitCode
from sidestep.tasks import lr_find as module
from sidestep.tasks.lr_find import Found, lr_find
from sidestep.training.loop import Trainer
from tests.runs import train
from tests.songs import MakeSpec, song, write_songs


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAWS", 2)


@pytest.fixture
def spec(make_spec: MakeSpec, tmp_path: Path) -> JobSpec:
    """Eight songs that have something in common, of which two are held out."""
    common = song(99, frames=12).target_latents
    alike = [
        replace(song(number, frames=12), target_latents=common + 0.1 * song(number, frames=12).target_latents)
        for number in range(8)
    ]
    folder = write_songs(tmp_path / "eight", alike)
    return make_spec(dataset_dir=folder, validation={"songs": ["3", "5"]}, accumulation=2)


def words(spec: JobSpec, *more: str) -> list[str]:
    return [
        *("lr-find", "--checkpoint-dir", spec.checkpoint_dir, "--dataset-dir", str(spec.dataset_dir)),
        *("--output-dir", str(spec.output_dir), "--rank", "4", "--steps", "20", *more),
    ]


def files(folder: Path) -> dict[str, bytes]:
    found = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def found_in(spec: JobSpec, **changes: object) -> Found:
    return lr_find(Job(spec.changed(changes)), 20)


@pytest.mark.slow
def test_a_rate_that_three_seeds_agree_on(spec: JobSpec) -> None:
    found = found_in(spec, **{"train.stop": {"patience": 1, "min_delta": 0.5}})  # which ends no ramp
    assert found.suggestion.rate and 1e-4 < found.suggestion.rate < 1e-1
    assert found.measured_on == "2 held-out songs"
    assert len({curve.losses for curve in found.curves}) == 3, "of different draws"
    assert len({curve.before for curve in found.curves}) == 1, "each begins anew, and is measured alike"
    assert all(rate < after for curve in found.curves for rate, after in pairwise(curve.rates))


@pytest.mark.slow
def test_the_rate_that_is_set_plays_no_part(spec: JobSpec) -> None:
    found = found_in(spec)
    again = found_in(spec, **{"train.lr": 1e-7, "train.epochs": 3, "train.scheduler": "linear"})
    assert again.suggestion == found.suggestion


@pytest.mark.slow
def test_without_held_out_songs_it_says_what_it_is_measured_on(spec: JobSpec) -> None:
    found = found_in(spec, **{"train.validation.songs": []})
    assert "trained on" in found.measured_on
    assert found.suggestion.rate


@pytest.mark.slow
def test_the_command_leaves_its_report_and_nothing_else(
    spec: JobSpec, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train(spec.changed({"train.epochs": 1}))
    output = Path(spec.output_place)
    before = files(output)
    assert main(words(spec, "--json")) == 0
    after = files(output)
    report = json.loads(after.pop("lr-find/report.json"))
    assert after.pop("lr-find/report.png").startswith(b"\x89PNG")
    assert after == before
    assert json.loads(capsys.readouterr().out) == report
    assert len(report["ramps"]) == 3
    rate = report["suggestion"]
    assert f"--lr {rate:g}" in caplog.text if rate else report["reason"] in caplog.text


def test_an_optimizer_that_finds_the_rate_itself_is_refused(spec: JobSpec) -> None:
    with pytest.raises(BadSpecError, match="prodigy"):
        found_in(spec, **{"train.optimizer_type": "prodigy", "train.lr": 1.0})
    assert main(words(spec, "--optimizer", "prodigy")) == ExitCode.BAD_SPEC
    assert not Path(spec.output_place, "lr-find").exists()


@pytest.mark.parametrize("steps", ["19", "401", "many"])
def test_too_few_or_too_many_steps(steps: str, spec: JobSpec) -> None:
    assert main([*words(spec), "--steps", steps]) == ExitCode.USAGE


@pytest.mark.slow
def test_a_rate_that_loses_everything_ends_a_ramp(spec: JobSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def step(self: Trainer, number: int) -> object:
        made = original(self, number)
        steps.append(number)
        if number == 13:
            for parameter in self.adapter.parameters().values():
                parameter.data.fill_(float("nan"))
        return made

    original = Trainer.step
    monkeypatch.setattr(Trainer, "step", step)
    found = found_in(spec)
    assert max(steps) < 19, "it ends where the loss is lost"
    assert all(len(curve.losses) == len(curve.rates) <= 8 for curve in found.curves)


def test_notice_ends_it_at_once_and_leaves_nothing(spec: JobSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Trainer, number: int) -> object:
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, number)

    original = Trainer.step
    monkeypatch.setattr(Trainer, "step", step)
    pid = os.fork()
    if not pid:
        code = 99
        try:
            interrupts.raise_them()
            code = main(words(spec))
        except (interrupts.Terminated, KeyboardInterrupt):
            code = ExitCode.AGAIN
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == ExitCode.AGAIN
    assert not Path(spec.output_place, "lr-find").exists()
