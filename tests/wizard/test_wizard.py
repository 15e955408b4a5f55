"""The wizard as a person meets it: in a terminal, by its keys, to a run or a file."""

import re
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.groups import GROUPS
from sidestep.config.job import JobSpec
from sidestep.config.presets import find_preset
from sidestep.lifecycle.status import Status
from sidestep.runtime.errors import ExitCode
from sidestep.tasks import demo
from sidestep.wizard.questions import ASKED
from sidestep.wizard.settings import load_settings
from tests.s3 import S3Server

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


def stands(output: str) -> Status:
    """How the run with this output stands; a fresh one where it has not begun."""
    file = Path(output, "status.json")
    return Status.read(file.read_bytes(), output) if file.exists() else Status(name="", task="train")


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
    terminal.answer("train.epochs: [10]", "150")  # the preset's
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


@pytest.mark.parametrize("question", ["the menu", "a flow"])
def test_notice_ends_it_and_the_terminal_is_as_before(terminal: Terminal, question: str) -> None:
    if question == "a flow":
        terminal.answer(MENU, "train")
        terminal.wait(lambda: "train.adapter.type:" in terminal.line, "the type")
    terminal.wait(lambda: "]" in terminal.line, "a question")
    terminal.wait(lambda: not modes(terminal) & termios.ICANON, "a terminal that sends each key")
    terminal.process.kill(signal.SIGTERM)
    assert terminal.end() == 75
    assert modes(terminal) & termios.ICANON
    assert modes(terminal) & termios.ECHO
    assert terminal.raw.rfind("\x1b[?2004l") > terminal.raw.rfind("\x1b[?2004h")
    assert "Traceback" not in terminal.raw


def modes(terminal: Terminal) -> int:
    """What the terminal does with keys."""
    return int(termios.tcgetattr(terminal.process.child_fd)[3])


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


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (120, 40)])
def test_nothing_is_cut_off(columns: int, lines: int) -> None:
    terminal = Terminal("wizard", columns=columns, lines=lines)
    terminal.answer(MENU, "train")
    terminal.answer("train.adapter.type:")
    terminal.wait(lambda: "train.mode:" in terminal.line, "mode")
    assert "vanilla: turbo's eight timesteps." in " ".join(terminal.text.split())
    terminal.see("Esc or b: back")
    terminal.process.close(force=True)


def test_a_picker_takes_nothing_that_is_not_there(terminal: Terminal) -> None:
    terminal.wait(lambda: MENU in terminal.line, "the menu")
    terminal.process.send("zzz")
    terminal.see("none of them is like zzz")


def test_settings_are_kept(terminal: Terminal) -> None:
    terminal.answer(MENU, "sett")
    terminal.answer("The checkpoint folder", "models")
    terminal.answer("The folder, or bucket, for tensors.", "tensors")
    terminal.answer("The folder, or bucket, for results.", "results")
    terminal.wait(lambda: "The place that jobs are rendered for." in terminal.line, "the place")
    terminal.process.send(ESCAPE)
    terminal.answer("The folder, or bucket, for results. [results]")
    terminal.answer("The place that jobs are rendered for.", "slu")
    terminal.answer("Offer vanilla mode?", "no")
    terminal.answer(MENU, "train")
    terminal.answer("train.adapter.type:")
    terminal.answer("checkpoint_dir: [models]")  # mode is not asked
    terminal.see("There are no models in models.")
    terminal.answer("model_variant:")
    terminal.answer("dataset_dir: [tensors]")
    terminal.answer("output_dir: [results/my-lora]")
    assert load_settings().place == "slurm"


def test_a_model_is_found_in_a_bucket(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SIDESTEP_STORAGE__ENDPOINT_URL", s3_server.endpoint)
    for model in ("acestep-v15-xl-base", "studio-pop-2"):
        s3_server.store("models").write_bytes(f"{model}/silence_latent.pt", b"")
    terminal = Terminal("wizard")
    terminal.answer(MENU, "esti")
    terminal.answer("checkpoint_dir:", s3_server.place("models"))
    terminal.wait(lambda: "studio-pop-2" in terminal.text and "xl-base" in terminal.text, "the models")
    assert "turbo" not in terminal.text  # it is not there
    terminal.answer("model_variant: [xl-base]", "spp")
    terminal.see("model_variant: [xl-base] studio-pop-2")
    terminal.process.close(force=True)


def test_past_runs_are_listed_with_their_state(terminal: Terminal) -> None:
    Path("output/first").mkdir(parents=True)
    status = Status(name="first", task="train", state="done", step=7, steps=7)
    Path("output/first/status.json").write_text(status.model_dump_json())
    terminal.answer(MENU, "stat")
    terminal.see("train: done, step 7 of 7")
    terminal.answer("Which run?", "fir")
    terminal.see("step 7 of 7 (100%)")
    terminal.answer(MENU, "stat")
    terminal.answer("Which run?", "another")
    terminal.answer("The run's output_dir.", "elsewhere")
    terminal.see("no job has begun there")


def test_presets_are_imported_exported_and_deleted(terminal: Terminal) -> None:
    Path("friend.yaml").write_text("# loud\ntrain:\n  epochs: 7\n")
    for what, question, answer in (
        ("import", "The file.", "friend.yaml"),
        ("export", "The preset's name.", "high"),
        ("show", "The preset's name.", "frie"),
    ):
        terminal.answer(MENU, "presets")
        terminal.answer("Presets.", what)
        terminal.answer(question, answer)
    terminal.see("epochs: 7")
    assert Path("high-quality.yaml").exists()
    terminal.answer(MENU, "presets")
    terminal.answer("Presets.", "delete")
    terminal.wait(lambda: "The preset's name." in terminal.line, "the name")
    terminal.process.send(ESCAPE)
    terminal.answer("Presets. [delete]")
    terminal.answer("The preset's name.", "friend")
    terminal.see("Deleted friend")


def test_nothing_starts_before_its_plan_was_made(terminal: Terminal) -> None:
    to_rank(terminal)
    for _ in range(3):
        terminal.answer("train.")
    terminal.see("weight_decay")  # of the whole spec
    terminal.answer(REVIEW, "start")
    terminal.see("checks failed")
    terminal.wait(lambda: REVIEW in terminal.line, "the review again")
    assert "Start it?" not in terminal.text
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"kind": "dumb"}, "TERM=dumb says"),
        ({"columns": 50}, "60 columns and 16 lines"),
        ({"lines": 9}, "and 9"),
    ],
)
def test_a_terminal_that_cannot_show_it_is_told(how: dict[str, Any], says: str) -> None:
    terminal = Terminal("wizard", **how)
    assert terminal.end() == ExitCode.USAGE
    assert says in " ".join(terminal.raw.split())


def test_the_wizard_loads_no_torch() -> None:
    says = "import sys, sidestep.wizard.menu; print({'torch', 'transformers', 's3fs'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", says], text=True) == "set()\n"


@pytest.mark.slow
def test_advanced_asks_for_everything_about_the_chosen_kind(terminal: Terminal) -> None:
    to_rank(terminal, "lora", depth="adv")
    terminal.wait(lambda: "train.adapter.rank:" in terminal.line, "rank")
    asked = []

    def is_asked() -> bool:
        return REVIEW in terminal.line or bool(re.match(r"[a-z][\w.]+:", terminal.line))

    while True:
        terminal.wait(lambda: is_asked() and terminal.line.split(":")[0] not in asked, "another question")
        if REVIEW in terminal.line:
            break
        asked.append(terminal.line.split(":")[0])
        terminal.process.send("\r")
    lokr = {"factor", "decompose_both", "use_tucker", "use_scalar", "weight_decompose"}
    expected = {".".join(path) for group in GROUPS if "train" in group.tasks for path in group.paths}
    expected -= {f"train.adapter.{name}" for name in lokr} | ASKED
    expected |= {"train.adapter.rank", "train.epochs", "train.optimizer_type"}
    assert "— adapter: 1 of" in terminal.raw
    assert "--path-style" not in terminal.raw  # what Enter leaves open stays so
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
        ("Start it?", ""),
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
        ("Start it?", ""),
        (MENU, "stat"),
        ("Which run?", ""),  # the newest
        (MENU, "train"),
        ("train.adapter.type:", "lokr"),
        ("train.mode:", ""),
        ("checkpoint_dir:", str(tiny_checkpoints)),
        ("model_variant:", "base"),
        ("dataset_dir:", ""),
        ("output_dir:", "long"),
        ("preset:", ""),
        ("questions:", ""),
        ("train.adapter.rank:", "2"),
        ("train.epochs: [300]", "9999"),
        ("train.optimizer_type:", ""),
        (REVIEW, "start"),
        ("Start it?", ""),
    ):
        terminal.answer(question, answer)
    terminal.wait(lambda: stands("long").step is not None, "a step")
    terminal.process.send(CONTROL_C)  # it saves, and stops
    terminal.answer(MENU, "quit")
    assert terminal.end() == 0
    assert stands("long").state == "preempted"
    assert stands("long").last_commit is not None
    assert Path("out/adapter/adapter_model.safetensors").exists()
    assert "train: done" in terminal.raw


def test_a_rank_that_is_taken_back_takes_its_alpha_along(terminal: Terminal) -> None:
    to_rank(terminal)
    terminal.answer("train.adapter.rank: [64]", "8")
    terminal.answer("train.epochs:", "b")
    terminal.answer("train.adapter.rank: [8]", "64")
    terminal.answer("train.epochs:")
    terminal.answer("train.optimizer_type:")
    adapter = save(terminal).train.adapter
    assert (adapter.rank, adapter.alpha) == (64, 128)


def test_what_was_typed_is_kept_also_where_it_is_the_default(terminal: Terminal) -> None:
    to_rank(terminal)
    terminal.answer("train.adapter.rank: [64]")
    terminal.answer("train.epochs: [150]", "100")  # recommended for 12 songs; the default is 100
    terminal.answer("train.optimizer_type:", "b")
    terminal.answer("train.epochs: [100]")
    terminal.answer("train.optimizer_type:")
    assert save(terminal).train.epochs == 100


def test_an_answer_can_be_taken_back(terminal: Terminal) -> None:
    terminal.answer(MENU, "preprocess")
    terminal.answer("checkpoint_dir:")
    terminal.answer("model_variant:")
    terminal.answer("audio_dir:", "my_songs")
    terminal.answer("dataset_json:", "nope.json")
    terminal.answer("dataset_dir:", "b")
    terminal.answer("dataset_json: [nope.json]", "-")
    terminal.answer("dataset_dir:", "b")
    terminal.wait(lambda: terminal.line.rstrip().endswith("dataset_json:"), "no answer")
