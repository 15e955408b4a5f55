"""What the menu leads to beside a job: settings, presets, past runs, a job's file for a platform."""

from pathlib import Path

import pytest

from sidestep.lifecycle.status import Commit, Status, now
from sidestep.wizard.settings import load_settings

from .answers import MENU, NEXT, to_review
from .terminal import ESCAPE, Terminal


def test_settings_are_kept_and_hold_from_every_folder(terminal: Terminal) -> None:
    terminal.answer(MENU, "sett")
    terminal.answer("Folder or bucket with the models:", "models")
    terminal.answer("Folder or bucket for tensors:", "s3://studio/tensors")
    terminal.answer("Folder or bucket for results:", "results")
    terminal.wait(lambda: "Platform" in terminal.line, "the platform")
    terminal.process.send(ESCAPE)
    terminal.answer("Folder or bucket for results: [results]")
    terminal.answer("Platform you render jobs for:", "slu")
    terminal.answer("Offer vanilla mode:", "no")
    terminal.answer(MENU, "train")
    terminal.answer("Adapter:")
    terminal.answer("Models: [models]")  # mode is not asked
    terminal.see("No model found in models.")
    terminal.answer("Model:")
    terminal.wait(lambda: "Tensors: [s3://studio/tensors]" in terminal.line, "the tensors")
    settings = load_settings()
    assert (settings.place, settings.dataset_dir) == ("slurm", "s3://studio/tensors")
    assert (settings.checkpoint_dir, settings.output_dir) == (
        str(Path.cwd() / "models"),
        str(Path.cwd() / "results"),
    )


def test_past_runs_are_listed_with_their_state(terminal: Terminal) -> None:
    Path("output/first").mkdir(parents=True)
    status = Status(name="first", task="train", state="done", step=7, steps=7)
    Path("output/first/status.json").write_text(status.model_dump_json())
    terminal.answer(MENU, "stat")
    terminal.see("first: training, finished, 7 steps, ")
    terminal.answer("Run:", "fir")
    terminal.see("step 7 of 7 (100%)")


def test_a_run_with_a_checkpoint_is_published(terminal: Terminal) -> None:
    for name, commit in (("early", None), ("good", Commit(folder="checkpoints/x", step=4, at=now()))):
        Path("output", name).mkdir(parents=True)
        status = Status(name=name, task="train", state="preempted", last_commit=commit)
        Path("output", name, "status.json").write_text(status.model_dump_json())
    terminal.answer(MENU, "publish")
    terminal.wait(lambda: "Run: [output/good]" in terminal.line, "the run")
    assert "early" not in terminal.text
    terminal.process.send("\r")
    terminal.wait(lambda: MENU in terminal.line, "the menu")
    assert "sidestep publish" in terminal.text and "no checkpoint" in terminal.text  # it ran, and looked


def test_presets_are_imported_exported_and_deleted(terminal: Terminal) -> None:
    Path("friend.yaml").write_text("# loud\ntrain:\n  epochs: 7\n")
    for what, question, answer in (
        ("import", "Preset file:", "friend.yaml"),
        ("export", "Preset:", "high"),
        ("show", "Preset:", "frie"),
    ):
        terminal.answer(MENU, "presets")
        terminal.answer("Presets:", what)
        terminal.answer(question, answer)
    terminal.see("epochs: 7")
    assert Path("high-quality.yaml").exists()
    terminal.answer(MENU, "presets")
    terminal.answer("Presets:", "delete")
    terminal.wait(lambda: "Preset:" in terminal.line, "the name")
    terminal.process.send(ESCAPE)
    terminal.answer("Presets: [delete]")
    terminal.answer("Preset:", "friend")
    terminal.see("Deleted friend")


@pytest.mark.slow
def test_a_job_is_rendered_for_a_platform(terminal: Terminal) -> None:
    to_review(terminal)
    terminal.answer(NEXT, "render")
    terminal.answer("Platform:", "slu")
    terminal.answer("Save as:", "mine.sbatch")
    terminal.see("Submit it with")
    assert "xl-base" in Path("mine.sbatch").read_text()
