"""`sidestep launch`: what it cannot take is told once, before any process is started."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.platforms import launcher
from tests.facts import tells


@pytest.fixture(autouse=True)
def none_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def launched(command: Sequence[str], *_: object) -> int:
        pytest.fail(f"started: {command}")

    monkeypatch.setattr(launcher, "launch", launched)


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        ([], ["train", "fixed", "vanilla", "run"]),
        (["--processes", "2"], ["train", "fixed", "vanilla", "run"]),
        (["--processes", "2", "demo"], ["demo", "train", "fixed", "vanilla", "run"]),
        (["--processes", "2", "fixed", "--preprocess"], ["--preprocess", "sidestep fixed --preprocess"]),
        (["train", "--processes", "2"], ["--processes", "before train"]),
        (["train", "--nodes=2"], ["--nodes", "before train"]),
    ],
)
def test_what_no_process_could_do(
    words: list[str], facts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", *words]) == 64
    assert tells(capsys.readouterr().err, *facts)


def test_what_is_only_answered_is_answered_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--checkpoint-dir", "c", "--tensor-output", "t", "--output-dir", "o"]
    assert main(["launch", "--processes", "2", "train", "--dry-run", *places]) == 0
    assert capsys.readouterr().out.count("task: train") == 1
    assert main(["launch", "--processes", "2", "vanilla", "--help"]) == 0
    assert capsys.readouterr().out.count("usage: sidestep vanilla") == 1
