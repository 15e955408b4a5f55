"""The wizard, ended while it writes: what it remembers, and the job's file, are the old ones or the new."""

import signal
from pathlib import Path

import pytest

from sidestep.config.job import JobSpec
from sidestep.wizard.job import WISHES
from sidestep.wizard.settings import Settings, load_settings, remember_run, save_settings
from sidestep.wizard.state import WizardState
from tests.killed import SIGNALS, ended_at_each_change


@pytest.mark.parametrize("number", SIGNALS)
def test_what_it_remembers(number: signal.Signals, config: Path, tmp_path: Path) -> None:
    def remember() -> int:
        remember_run("/new")
        return 0

    seen = set()
    for _ in ended_at_each_change(
        remember, number, tmp_path, lambda: save_settings(Settings(runs=("/old",), place="slurm"))
    ):
        settings = load_settings()
        assert settings.place == "slurm"
        seen.add(settings.runs)
    assert seen == {("/old",), ("/new", "/old")}


@pytest.mark.parametrize("number", SIGNALS)
def test_the_file_of_a_job(
    number: signal.Signals, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(question: str, default: str = "", **_: object) -> str:
        return "yes" if question.startswith("Replace") else default

    def save(epochs: str) -> int:
        answers = {("output_dir",): "out", ("train", "epochs"): epochs}
        WISHES["save"][1]("train", WizardState(answers), lambda words: pytest.fail("nothing is run"))
        return 0

    monkeypatch.setattr("sidestep.wizard.job.ask", answer)
    monkeypatch.setattr("sidestep.wizard.ask.ask", answer)
    monkeypatch.setenv("SIDESTEP_DATASET_DIR", "tensors")
    seen = set()
    for _ in ended_at_each_change(lambda: save("7"), number, tmp_path, lambda: save("9")):
        seen.add(JobSpec.load("job.yaml").train.epochs)
    assert seen == {9, 7}


def test_a_file_is_replaced_only_when_that_is_meant(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("job.yaml").write_text("mine")
    monkeypatch.setattr("sidestep.wizard.job.ask", lambda question, default="", **_: default)
    monkeypatch.setattr("sidestep.wizard.ask.ask", lambda question, default="", **_: default)
    WISHES["save"][1]("train", WizardState({("output_dir",): "out"}), lambda words: 0)
    assert Path("job.yaml").read_text() == "mine"
