"""The wizard as a person meets it: in a terminal, by its keys, to a run or a file."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidestep import demo
from sidestep.spec.fields import spec_fields
from sidestep.spec.presets import find_preset
from sidestep.spec.schema import JobSpec

from .terminal import CONTROL_C, ESCAPE, Terminal

MENU = "What is to be done?"
REVIEW = "This is the job."


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    Path("my_tensors").mkdir()
    for number in range(12):
        Path("my_tensors", f"{number}.pt").touch()
    opened = Terminal()
    yield opened
    opened.process.close(force=True)


def to_rank(terminal: Terminal, kind: str = "lora", preset: str = "none", depth: str = "basic") -> None:
    for question, answer in (
        (MENU, "train"),
        ("train.adapter.type:", kind),
        ("train.mode:", ""),
        ("checkpoint_dir:", "checkpoints"),
        ("model_variant:", "xlb"),
        ("dataset_dir:", ""),
        ("output_dir:", "out"),
        ("preset:", preset),
        ("questions:", depth),
    ):
        terminal.answer(question, answer)


def save(terminal: Terminal) -> JobSpec:
    terminal.answer(REVIEW, "save")
    terminal.answer("The file to write.", "mine.yaml")
    terminal.see("Wrote mine.yaml")
    return JobSpec.load("mine.yaml")


@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_a_few_answers_make_a_job(terminal: Terminal, kind: str) -> None:
    to_rank(terminal, kind, preset="qui")
    terminal.answer("train.adapter.rank: [16]", "8")
    terminal.see("For 12 songs 100 to 200 are recommended.")
    terminal.answer("train.epochs: [150]")
    terminal.answer("train.optimizer_type:", "prod")
    terminal.see("Prodigy finds the rate itself")
    terminal.see("xl-base")  # found by xlb
    spec = save(terminal)
    assert (spec.task, spec.model_variant, spec.output_dir) == ("train", "xl-base", "out")
    adapter = spec.train.adapter
    assert (adapter.type, adapter.rank, adapter.alpha) == (kind, 8, 16)
    assert (spec.train.epochs, spec.train.lr, spec.train.chunk_duration) == (150, 1.0, 30)
    assert ("LoKR is experimental" in terminal.text) == (kind == "lokr")


@pytest.mark.parametrize("keys", [ESCAPE, "b\r"])
def test_back_keeps_what_was_answered(terminal: Terminal, keys: str) -> None:
    to_rank(terminal)
    terminal.answer("train.adapter.rank:", "8")
    terminal.wait(lambda: "train.epochs:" in terminal.line, "epochs")
    terminal.process.send(keys)
    terminal.wait(lambda: "train.adapter.rank: [8]" in terminal.line, "rank again")
    terminal.process.send(keys)
    terminal.wait(lambda: "questions: [basic]" in terminal.line, "a picker")
    terminal.process.send(keys)
    terminal.wait(lambda: "preset: [none]" in terminal.line, "the picker before")


def test_back_from_the_first_question_is_the_menu_and_from_there_the_end(terminal: Terminal) -> None:
    terminal.answer(MENU, "train")
    terminal.answer("train.adapter.type:", "b")
    terminal.answer(MENU, "b")
    assert terminal.end() == 0


def test_what_is_not_allowed_is_said_while_it_is_typed(terminal: Terminal) -> None:
    to_rank(terminal)
    terminal.wait(lambda: "train.adapter.rank:" in terminal.line, "rank")
    terminal.process.send("0")
    terminal.see("must be a whole number, at least 1, at most 4096")
    terminal.process.send("\x7f4\r")
    terminal.answer("train.epochs:")


def test_control_c_leads_to_the_menu_then_out_and_the_terminal_is_as_before(terminal: Terminal) -> None:
    to_rank(terminal)
    terminal.wait(lambda: "train.adapter.rank:" in terminal.line, "rank")
    terminal.process.send(CONTROL_C)
    terminal.wait(lambda: MENU in terminal.line, "the menu")
    terminal.process.send(CONTROL_C)
    assert terminal.end() == 0
    assert not Path("out").exists()
    assert terminal.raw.rfind("\x1b[?2004l") > terminal.raw.rfind(
        "\x1b[?2004h"
    )  # bracketed paste is off again


def test_no_color(terminal: Terminal) -> None:
    to_rank(terminal)
    terminal.wait(lambda: "train.adapter.rank:" in terminal.line, "rank")
    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|4[0-7]|9[0-7]|[34]8;)[0-9;]*m", terminal.raw)


def test_a_preset_is_saved_and_used(terminal: Terminal) -> None:
    to_rank(terminal)
    terminal.answer("train.adapter.rank:", "24")
    terminal.answer("train.epochs:", "9")
    terminal.answer("train.optimizer_type:", "adafactor")
    terminal.answer(REVIEW, "preset")
    terminal.answer("The preset's name.", "soft")
    terminal.see("Saved ")
    assert find_preset("soft").read()["train"]["epochs"] == 9
    terminal.answer(REVIEW, "menu")
    to_rank(terminal, preset="soft")
    terminal.answer("train.adapter.rank: [24]")


@pytest.mark.parametrize("columns", [80, 120])
def test_nothing_is_cut_off(columns: int) -> None:
    terminal = Terminal("wizard", columns=columns)
    terminal.answer(MENU, "train")
    terminal.answer("train.adapter.type:")
    terminal.wait(lambda: "train.mode:" in terminal.line, "mode")
    assert "vanilla: the eight turbo steps." in " ".join(terminal.text.split())
    terminal.see("Esc or b: back")
    terminal.process.close(force=True)


def test_a_picker_takes_nothing_that_is_not_there(terminal: Terminal) -> None:
    terminal.wait(lambda: MENU in terminal.line, "the menu")
    terminal.process.send("zzz")
    terminal.see("none of them is like zzz")


def test_settings_are_kept(terminal: Terminal) -> None:
    terminal.answer(MENU, "sett")
    terminal.answer("The checkpoint folder", "models")
    terminal.answer("The folder, or bucket, for results.", "results")
    terminal.answer("Offer vanilla mode?", "no")
    terminal.answer(MENU, "train")
    terminal.answer("train.adapter.type:")
    terminal.answer("checkpoint_dir: [models]")  # mode is not asked
    terminal.see("There are no models in models.")
    terminal.answer("model_variant:")
    terminal.answer("dataset_dir:")
    terminal.answer("output_dir: [results/my-lora]")


@pytest.mark.slow
def test_advanced_asks_for_everything_about_the_chosen_kind(terminal: Terminal) -> None:
    to_rank(terminal, "lora", depth="adv")
    asked = []

    def is_asked() -> bool:
        return REVIEW in terminal.line or bool(re.match(r"(train|runtime)\.[\w.]+:", terminal.line))

    while True:
        terminal.wait(lambda: is_asked() and terminal.line.split(":")[0] not in asked, "another question")
        if REVIEW in terminal.line:
            break
        asked.append(terminal.line.split(":")[0])
        terminal.process.send("\r")
    lokr = {"factor", "decompose_both", "use_tucker", "use_scalar", "weight_decompose"}
    expected = {field.name for path, field in spec_fields().items() if path[0] in ("train", "runtime")}
    expected -= {f"train.adapter.{name}" for name in lokr} | {"train.adapter.type", "train.mode"}
    assert set(asked) == expected
    assert save(terminal).train.lr == 1e-4


@pytest.mark.slow
def test_a_job_is_rendered_for_a_place(terminal: Terminal) -> None:
    to_rank(terminal)
    for _ in range(3):
        terminal.answer("train.")
    terminal.answer(REVIEW, "render")
    terminal.answer("The place.", "slu")
    terminal.answer("The file to write.", "mine.sbatch")
    terminal.see("Submit it with")
    assert "xl-base" in Path("mine.sbatch").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_songs_to_an_adapter(
    terminal: Terminal, tiny_checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree("my_tensors")
    monkeypatch.setattr(demo, "SECONDS", 3.0)
    monkeypatch.setattr(demo, "TUNES", demo.TUNES[:2])
    demo.write_songs(Path("songs"))
    for question, answer in (
        (MENU, "prep"),
        ("checkpoint_dir:", str(tiny_checkpoints)),
        ("model_variant:", "base"),
        ("audio_dir:", "songs"),
        ("dataset_json:", ""),
        ("dataset_dir:", ""),
        ("questions:", ""),
        (REVIEW, "start"),
        ("Train on these tensors now?", "yes"),
        ("train.adapter.type:", ""),
        ("train.mode:", ""),
        ("checkpoint_dir:", ""),
        ("model_variant: [base]", ""),
        ("dataset_dir: [my_tensors]", ""),
        ("output_dir:", "out"),
        ("preset:", ""),
        ("questions:", ""),
        ("train.adapter.rank:", "2"),
        ("train.epochs: [300]", "1"),
        ("train.optimizer_type:", ""),
        (REVIEW, "start"),
        (MENU, "quit"),
    ):
        terminal.answer(question, answer)
    assert terminal.end() == 0
    assert Path("out/adapter/adapter_model.safetensors").exists()
