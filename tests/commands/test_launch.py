"""`sidestep launch`: what it cannot take is told once, before any process is started."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from sidestep import tasks
from sidestep.cli import main
from sidestep.platforms import launcher
from sidestep.runtime.errors import BadDataError
from tests.facts import tells
from tests.receiver import receiver

PLACES = ("--checkpoint-dir", "c", "--tensor-output", "t", "--output-dir", "o")


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
    assert main(["launch", "--processes", "2", "train", "--dry-run", *PLACES]) == 0
    assert capsys.readouterr().out.count("task: train") == 1
    assert main(["launch", "--processes", "2", "vanilla", "--help"]) == 0
    assert capsys.readouterr().out.count("usage: sidestep vanilla") == 1


@pytest.mark.parametrize(
    ("words", "code", "fact"),
    [
        (["--epoch", "3"], 64, "--epoch"),
        (["--json=3"], 64, "--json"),
        (["--epochs", "none"], 78, "epochs"),
        (["--config", "nosuch.yaml"], 66, "nosuch.yaml"),
        (["--config", "."], 65, "is a folder"),
        (["--device", "cuda:1"], 78, "runtime.device"),
    ],
)
@pytest.mark.parametrize("local", ["0", "1"])
def test_what_all_processes_find_is_said_by_the_first_of_a_machine(
    words: list[str],
    code: int,
    fact: str,
    local: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    be_rank(2 + int(local), local, monkeypatch)
    assert main(["train", *PLACES, *words]) == code
    assert (fact in capsys.readouterr().err) == (local == "0")


def test_what_one_finds_that_has_met_the_others_is_said_by_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends(*_: object, **__: object) -> None:
        error = BadDataError("a song that only this one has read")
        error.is_own = True
        raise error

    be_rank(3, "1", monkeypatch)
    monkeypatch.setattr(tasks, "run", ends)
    assert main(["train", *PLACES]) == 65
    assert tells(capsys.readouterr().err, "rank 3", "only this one has read")


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_0_tells_programs_and_webhooks_that_it_ends(
    rank: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    be_rank(rank, str(rank), monkeypatch)
    with receiver() as hook:
        monkeypatch.setenv("SIDESTEP_RUNTIME__WEBHOOK", hook.url)
        assert main(["train", "--json", "--epochs", "none"]) == 78
    assert len(hook.got) == capsys.readouterr().out.count('"exit_code": 78') == (rank == 0)


def be_rank(rank: int, local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of four, two of a machine."""
    variables = {"RANK": f"{rank}", "WORLD_SIZE": "4", "LOCAL_RANK": local, "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**variables, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
