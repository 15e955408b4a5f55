"""Commands that run no job, ended at every change that they make: the same command then works as ever."""

import signal
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.config.presets import all_presets, find_preset
from sidestep.config.schema import StorageSpec
from sidestep.storage.open import open_store
from tests.killed import SIGNALS, ended_at_each_change
from tests.tasks.preprocessing import write_song

EPOCHS = {"epochs": 9}


@pytest.fixture(autouse=True)
def presets_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def files(folder: Path) -> dict[str, bytes]:
    found = (file for file in folder.rglob("*") if file.is_file()) if folder.exists() else ()
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_preset_is_saved_as_a_whole_or_not_at_all(number: signal.Signals, tmp_path: Path) -> None:
    words = ["presets", "save", "mine", "--epochs", "9"]
    changes = 0
    for changes in ended_at_each_change(lambda: main(words), number, tmp_path):  # noqa: B007
        mine = all_presets().get("mine")
        assert mine is None or mine.read().get("train") == EPOCHS
        if mine:
            assert main(["presets", "delete", "mine"]) == 0
    assert changes > 4  # the log, folders, a temporary file, its name


@pytest.mark.parametrize("number", SIGNALS)
def test_a_preset_is_replaced_as_a_whole(number: signal.Signals, tmp_path: Path) -> None:
    def prepare() -> None:
        assert main(["presets", "save", "mine", "--epochs", "9", "--force"]) == 0

    seen = set()
    words = ["presets", "save", "mine", "--epochs", "7", "--force"]
    for _ in ended_at_each_change(lambda: main(words), number, tmp_path, prepare):
        seen.add(find_preset("mine").read()["train"]["epochs"])
    assert seen == {9, 7}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_plan_that_was_ended_leaves_nothing_that_counts(
    number: signal.Signals, tmp_path: Path, tiny_checkpoints: Path
) -> None:
    """What it tries in a place is known as unfinished, which the job then clears."""
    for name in ("songs", "output"):
        (tmp_path / name).mkdir()
    write_song(tmp_path / "songs" / "a.wav", 0)
    words = ["plan", "--check-only", "--task", "pipeline", "--checkpoint-dir", str(tiny_checkpoints)]
    words += ["--audio-dir", "songs", "--output-dir", "output"]
    output, seen = open_store("output", StorageSpec()), set[str]()
    for _ in ended_at_each_change(lambda: main(words), number, tmp_path):
        assert main(words) == 0
        assert list(files(tmp_path / "songs")) == ["a.wav"]
        left = {file.path for file in output.unfinished()}
        assert set(files(tmp_path / "output")) == left
        seen |= left
    assert seen
