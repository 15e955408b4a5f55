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


@pytest.mark.parametrize(
    ("words", "code"), [(["--epoch", "3"], 64), (["--json=3"], 64), (["--epochs", "none"], 78)]
)
@pytest.mark.parametrize("local", ["0", "1"])
def test_what_all_processes_find_is_said_by_the_first_of_a_machine(
    words: list[str],
    code: int,
    local: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    variables = {"RANK": f"{2 + int(local)}", "WORLD_SIZE": "4", "LOCAL_RANK": local, "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**variables, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    assert main(["train", *words]) == code
    assert (words[0].partition("=")[0] in capsys.readouterr().err) == (local == "0")
