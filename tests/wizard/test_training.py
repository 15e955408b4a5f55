"""The questions about a job: what the answers make, what is kept, and what is shown before it starts."""

import re
from pathlib import Path

import pytest

from sidestep.config.groups import GROUPS
from sidestep.config.presets import find_preset
from sidestep.wizard.questions import QUESTIONS

from .answers import MENU, NEXT, save, to_rank, to_review
from .terminal import Terminal


@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_a_few_answers_make_a_job(terminal: Terminal, kind: str) -> None:
    to_rank(terminal, kind, preset="qui")
    terminal.answer("Rank: [16]", "8")
    terminal.see("For 12 songs, 100 to 200 are recommended.")
    terminal.answer("Epochs: [10]", "150")  # the preset's
    terminal.answer("Optimizer:", "prod")
    terminal.see("Prodigy finds the rate itself")
    terminal.see("xl-base")  # found by xlb
    spec = save(terminal)
    assert (spec.task, spec.model_variant, spec.output_dir) == ("train", "xl-base", "out")
    adapter = spec.train.adapter
    assert (adapter.type, adapter.rank, adapter.alpha) == (kind, 8, 16)
    assert (spec.train.epochs, spec.train.lr, spec.train.chunk_duration) == (150, 1.0, 30)
    assert ("LoKR is experimental" in terminal.text) == (kind == "lokr")


def test_a_pipeline_makes_one_job_of_all_steps(terminal: Terminal) -> None:
    Path("songs").mkdir()
    for number in range(3):
        Path("songs", f"{number}.mp3").touch()
    for question, answer in (
        (MENU, ""),  # it is what Enter takes
        ("Models:", "checkpoints"),
        ("Model:", "turbo"),
        ("Songs:", "songs"),
        ("Dataset JSON:", ""),
        ("Output: [output/my-lora]", ""),
        ("Adapter:", "lokr"),
        ("Mode:", ""),
        ("Preset:", ""),
        ("Questions:", ""),
        ("Rank:", ""),
        ("Epochs: [300]", ""),  # for three songs
        ("Optimizer:", ""),
        (NEXT, "all"),
    ):
        terminal.answer(question, answer)
        if question == "Songs:":
            terminal.see("3 songs found.")
    terminal.see("sidestep run --task pipeline --model-variant turbo")
    spec = save(terminal)
    assert (spec.task, spec.audio_dir, spec.dataset_dir) == ("pipeline", "songs", None)
    assert (spec.tensors_place, spec.train.epochs) == ("output/my-lora/tensors", 300)


def test_the_review_is_short_and_shows_all_when_asked(terminal: Terminal) -> None:
    to_rank(terminal, preset="24gb")
    for question in ("Rank:", "Epochs:", "Optimizer:"):
        terminal.answer(question)
    terminal.wait(lambda: NEXT in terminal.line, "the review")
    lines = terminal.text.split("\n")
    rows = lines[lines.index("  Training") : next(n for n, line in enumerate(lines) if NEXT in line)]
    assert 0 < len(rows) < 24
    assert any(re.fullmatch(r"    Tensors +my_tensors", row) for row in rows)
    assert any("(preset 24gb)" in row for row in rows)
    assert "weight_decay" not in terminal.text
    terminal.answer(NEXT, "all")
    terminal.see("weight_decay")
    terminal.see("sidestep train --preset 24gb")


@pytest.mark.slow
def test_a_plan_is_made_when_it_is_asked_for_and_not_before_a_start(terminal: Terminal) -> None:
    to_review(terminal)
    terminal.answer(NEXT, "start")
    terminal.see("there is no folder")  # from the command itself
    terminal.wait(lambda: NEXT in terminal.line, "the review again: nothing answered is lost")
    assert "checks failed" not in terminal.raw
    terminal.answer(NEXT, "plan")
    terminal.see("checks failed")


@pytest.mark.slow
def test_what_is_changed_is_asked_again_from_the_first_question(terminal: Terminal) -> None:
    to_review(terminal)
    terminal.answer(NEXT, "change")
    terminal.answer("Adapter: [lora]", "lokr")
    for question in ("Mode:", "Models:", "Model: [xl-base]", "Tensors:", "Output: [out]", "Preset:"):
        terminal.answer(question)
    for question in ("Questions:", "Rank:", "Epochs:", "Optimizer:"):
        terminal.answer(question)
    assert save(terminal).train.adapter.type == "lokr"


@pytest.mark.slow
def test_a_preset_is_saved_and_used(terminal: Terminal) -> None:
    to_rank(terminal)
    terminal.answer("Rank:", "24")
    terminal.answer("Epochs:", "9")
    terminal.answer("Optimizer:", "adafactor")
    terminal.answer(NEXT, "preset")
    terminal.answer("Name of the preset:", "soft")
    terminal.see("Saved ")
    assert find_preset("soft").read()["train"]["epochs"] == 9
    terminal.answer(NEXT, "menu")
    to_rank(terminal, preset="soft")
    terminal.answer("Rank: [24]")


@pytest.mark.slow
def test_a_rank_that_is_taken_back_takes_its_alpha_along(terminal: Terminal) -> None:
    to_rank(terminal)
    terminal.answer("Rank: [64]", "8")
    terminal.answer("Epochs:", "b")
    terminal.answer("Rank: [8]", "64")
    terminal.answer("Epochs:")
    terminal.answer("Optimizer:")
    adapter = save(terminal).train.adapter
    assert (adapter.rank, adapter.alpha) == (64, 128)


@pytest.mark.slow
def test_what_was_typed_is_kept_also_where_it_is_the_default(terminal: Terminal) -> None:
    to_rank(terminal)
    terminal.answer("Rank: [64]")
    terminal.answer("Epochs: [150]", "100")  # recommended for 12 songs; the default is 100
    terminal.answer("Optimizer:", "b")
    terminal.answer("Epochs: [100]")
    terminal.answer("Optimizer:")
    assert save(terminal).train.epochs == 100


def test_an_answer_can_be_taken_back(terminal: Terminal) -> None:
    terminal.answer(MENU, "preprocess")
    terminal.answer("Models:")
    terminal.answer("Model:")
    terminal.answer("Songs:", "my_songs")
    terminal.answer("Dataset JSON:", "nope.json")
    terminal.answer("Tensors:", "b")
    terminal.answer("Dataset JSON: [nope.json]", "-")
    terminal.answer("Tensors:", "b")
    terminal.wait(lambda: terminal.line.rstrip().endswith("Dataset JSON:"), "no answer")


@pytest.mark.slow
def test_advanced_asks_for_everything_about_the_chosen_kind(config: Path) -> None:
    terminal = Terminal(lines=600)  # all of it at once
    to_rank(terminal, "lora", depth="adv")
    for question in ("Rank:", "Epochs:", "Optimizer:"):
        terminal.answer(question)
    terminal.wait(lambda: bool(titles(terminal)), "the first of the others")
    while NEXT not in terminal.line:
        press_enter(terminal, asked=len(titles(terminal)))
    lokr = {"factor", "decompose_both", "use_tucker", "use_scalar"}
    expected = {".".join(path) for group in GROUPS if "train" in group.tasks for path in group.paths}
    expected -= {f"train.adapter.{name}" for name in lokr} | {"task", *QUESTIONS["train"]}
    assert set(titles(terminal)) == expected
    assert "--path-style" not in terminal.raw  # what Enter leaves open stays so
    spec = save(terminal)
    assert (spec.train.lr, spec.storage.path_style) == (1e-4, None)
    terminal.process.close(force=True)


def titles(terminal: Terminal) -> list[str]:
    """The settings that Advanced has asked for."""
    return re.findall(r"^— .+: ([a-z][\w.]+)$", terminal.text, re.M)


def press_enter(terminal: Terminal, asked: int) -> None:
    terminal.process.send("\r")
    terminal.wait(lambda: len(titles(terminal)) > asked or NEXT in terminal.line, "another question")
