"""Places as answers: completed, looked up, and told while they are typed."""

from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from sidestep.config.schema import StorageSpec
from sidestep.lifecycle.status import Status
from sidestep.wizard.places import completer, what_is_there, while_typing
from tests.s3 import S3Server

from .answers import MENU
from .terminal import Terminal


@pytest.fixture
def here() -> None:
    Path("songs", "more").mkdir(parents=True)
    for name in ("a.mp3", "b.WAV", "more/c.flac", "cover.jpg", "._a.mp3"):
        Path("songs", name).touch()
    Path("dataset.json").touch()


def test_what_is_said_while_a_path_is_typed(here: None) -> None:
    assert while_typing("songs") == "found"
    assert while_typing("sogns") == "not found"
    assert while_typing("results", is_made=True) == "new: it will be created"
    assert while_typing("dataset.json", is_file=True) == "found"
    assert while_typing("songs", is_file=True) == "this is a folder, not a file"
    assert while_typing("dataset.json") == "this is a file, not a folder"
    assert while_typing("s3://studio/songs") == "looked up when you press Enter"
    assert while_typing(f"file://{Path.cwd()}/songs") == "found"
    assert while_typing("~no-such-user/songs").startswith("'~no-such-user/songs'")
    assert while_typing("a" * 300)  # longer than a name may be: told, not raised


def test_what_is_said_after_it(here: None) -> None:
    def told(name: str, place: str) -> str:
        return what_is_there(name, place, StorageSpec())

    assert told("audio_dir", "songs") == "3 songs found."
    assert told("audio_dir", "songs/more") == "1 song found."
    Path("empty").mkdir()
    assert "no songs in empty" in told("audio_dir", "empty")
    assert told("audio_dir", "dataset.json") == "dataset.json: this is a file, not a folder."
    assert told("dataset_json", "nope.json") == "nope.json: not found."
    assert told("dataset_json", "dataset.json") == ""
    assert told("output_dir", "results") == ""


def test_an_output_that_holds_a_run_says_so() -> None:
    Path("out").mkdir()
    status = Status(name="mine", task="train", state="preempted", step=4, steps=10)
    Path("out", "status.json").write_text(status.model_dump_json())
    assert "mine: training, interrupted, step 4 of 10" in what_is_there("output_dir", "out", StorageSpec())
    Path("out", "status.json").write_text("{")
    assert "out/status.json is damaged" in what_is_there("output_dir", "out", StorageSpec())


@pytest.mark.parametrize(
    ("suffixes", "typed", "offered"),
    [((), "", ["songs"]), ((".json",), "", ["dataset.json", "songs"]), ((), "songs/", ["more"])],
)
def test_hidden_names_and_other_files_are_not_offered(
    here: None, suffixes: tuple[str, ...], typed: str, offered: list[str]
) -> None:
    Path(".hidden").mkdir()
    found = completer(suffixes).get_completions(Document(typed), CompleteEvent())
    assert sorted(one.display_text.rstrip("/") for one in found) == offered


def test_a_path_is_completed(terminal: Terminal) -> None:
    Path("models", "mine").mkdir(parents=True)
    terminal.answer(MENU, "estimate")
    terminal.wait(lambda: "Models:" in terminal.line, "the question")
    terminal.process.send("mod")
    terminal.see("not found")
    terminal.process.send("\t")
    terminal.wait(lambda: terminal.line.endswith("Models: [checkpoints] models"), "the folder")
    terminal.see("found")
    terminal.process.send("/")
    terminal.see("mine")
    terminal.process.send("\t")
    terminal.wait(lambda: terminal.line.endswith("models/mine"), "the folder in it")


def test_a_model_is_found_in_a_bucket(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, config: Path
) -> None:
    monkeypatch.setenv("SIDESTEP_STORAGE__ENDPOINT_URL", s3_server.endpoint)
    for model in ("acestep-v15-xl-base", "studio-pop-2"):
        s3_server.store("models").write_bytes(f"{model}/silence_latent.pt", b"")
    terminal = Terminal("wizard")
    terminal.answer(MENU, "esti")
    terminal.answer("Models:", s3_server.place("models"))
    terminal.wait(lambda: "studio-pop-2" in terminal.text and "xl-base" in terminal.text, "the models")
    assert "turbo" not in terminal.text  # it is not there
    terminal.answer("Model: [xl-base]", "spp")
    terminal.see("Model: [xl-base] studio-pop-2")
    terminal.process.close(force=True)
