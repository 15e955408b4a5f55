"""Status of many jobs that are one: a damaged file hides no other, and who is lost is not called running."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sidestep.cli import main
from sidestep.config.sweep import folder_of
from sidestep.lifecycle.status import Status, now
from tests.facts import tells

VALUES: list[dict[str, Any]] = [{"train.lr": 0.0001}, {"train.lr": 0.0003}, {"train.lr": 0.001}]
FOLDERS = [folder_of(values) for values in VALUES]


def told(place: Path, seconds: float = 0, **changes: Any) -> None:
    """A job's last word, `seconds` ago."""
    status = {
        "name": "my-lora",
        "task": "train",
        "phase": "train",
        "heartbeat": now() - timedelta(seconds=seconds),
    }
    place.mkdir(parents=True, exist_ok=True)
    (place / "status.json").write_text(Status.model_validate(status | changes).model_dump_json())


def status_of(place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["status", str(place)]) == 0
    return capsys.readouterr().out


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for k in range(3):
        told(
            tmp_path / "shards" / f"{k}-of-3",
            seconds=20 * k,
            task="preprocess",
            phase="preprocess",
            attempt=k + 1,
        )
    return tmp_path


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    runs = [{"folder": folder, "values": values} for folder, values in zip(FOLDERS, VALUES, strict=True)]
    (tmp_path / "sweep.json").write_text(json.dumps({"format": 1, "runs": runs}))
    for folder in FOLDERS:
        told(tmp_path / folder)
    return tmp_path


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"name": "my-lora", "task": 5}', "\0" * 100])
def test_a_damaged_shard_hides_no_other(
    shards: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = shards / "shards" / "1-of-3" / "status.json"
    damaged.write_text(content)
    said = status_of(shards, capsys)
    assert tells(
        said, "my-lora", "3 shards", "2 running, 1 damaged", "0-of-3: running", "2-of-3: running", "attempt 3"
    )
    assert tells(next(line for line in said.splitlines() if "1-of-3:" in line), damaged, "next attempt")
    (shards / "status.json").write_text(content)  # of the run after them
    assert tells(status_of(shards, capsys), shards / "status.json", "2-of-3: running")


def test_where_all_are_damaged_each_is_named(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(3):
        (shards / "shards" / f"{k}-of-3" / "status.json").write_text("{")
    assert main(["status", str(shards)]) == 65
    assert tells(capsys.readouterr().err, *(f"{k}-of-3/status.json" for k in range(3)), "next attempt")


def test_a_damaged_run_of_a_sweep_hides_no_other(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sweep / FOLDERS[1] / "status.json").write_text("{}")
    (sweep / "status.json").write_text("{}")
    (sweep / "best.json").write_text('{"folder": "../elsewhere"}')
    said = status_of(sweep, capsys)
    assert tells(said, "2 running, 1 damaged", sweep / "status.json", sweep / "best.json", "sidestep run")
    assert tells(said, f"train.lr=0.0003 ({FOLDERS[1]}): damaged", f"train.lr=0.001 ({FOLDERS[2]}): running")


def test_the_last_sign_of_life_is_said_and_who_gives_none_is_lost(
    shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told(shards / "shards" / "2-of-3", seconds=7200, task="preprocess", phase="preprocess", attempt=3)
    said = status_of(shards, capsys)
    assert tells(
        said,
        "2 running, 1 lost",
        "2-of-3: lost",
        "no sign of life for 2 h 00 min",
        "probably gone",
        "goes on",
    )
    assert "1-of-3: running, attempt 2, last sign of life 2" in said


def test_of_thousands_of_shards_the_first_that_wait_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told(tmp_path / "shards" / "7-of-5000", task="preprocess", phase="preprocess")
    said = status_of(tmp_path, capsys)
    assert tells(said, "1 running, 4999 not begun", "7-of-5000: running", "0-of-5000, 1-of-5000", "4989 more")
    assert len(said.splitlines()) < 6


def test_a_folder_in_place_of_a_status(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told as it is: no attempt would write it anew."""
    file = sweep / FOLDERS[0] / "status.json"
    file.unlink()
    file.mkdir()
    said = status_of(sweep, capsys)
    assert tells(said, f"({FOLDERS[0]}): damaged", file, "is a folder") and "next attempt" not in said


def test_a_file_is_no_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["status", str(tmp_path / "file")]) == 65
    said = capsys.readouterr().err
    assert "is a file" in said and "sweep" not in said


def test_lost_runs_of_a_sweep_are_not_called_running(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(sweep / FOLDERS[0], seconds=300)
    told(sweep, seconds=300, task="preprocess", phase="preprocess")
    said = status_of(sweep, capsys)
    assert tells(said, "2 running, 1 lost", "what they share: lost (preprocess), no sign of life for 5 min")
    assert tells(
        said, f"({FOLDERS[0]}): lost (train), no sign of life for 5 min", "running (train), last sign of life"
    )


ENTRY = {"folder": FOLDERS[0], "values": VALUES[0]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"5",
        b'"sweep"',
        b"{}",
        b'{"runs": []}',
        b'{"runs": {}}',
        b'{"format": 2, "runs": []}',
        b'{"runs": [5]}',
        b'{"runs": [{"folder": 5, "values": {}}]}',
        b'{"runs": [{"folder": "../../elsewhere", "values": {}}]}',
        b'{"runs": [{"folder": "/etc", "values": {}}]}',
        json.dumps({"runs": [{"folder": f"{FOLDERS[0]}\n", "values": VALUES[0]}]}).encode(),
        json.dumps({"runs": [{"folder": FOLDERS[0], "values": [1]}]}).encode(),
        json.dumps({"runs": [ENTRY, ENTRY]}).encode(),
        json.dumps({"runs": [ENTRY, {"folder": FOLDERS[1], "values": VALUES[0]}]}).encode(),
        json.dumps({"format": 1, "runs": [ENTRY]}).encode()[:-9],
        b"\xff\xfe\x00",
        b'{"runs": ' + b"[" * 5000,
    ],
    ids=lambda content: content[:50].decode(errors="replace"),
)
@pytest.mark.parametrize("command", ["status", "compare"])
def test_a_list_of_runs_that_is_none(
    tmp_path: Path, content: bytes, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "output" / "sweep.json"
    file.parent.mkdir()
    file.write_bytes(content)
    assert main([command, str(file.parent)]) == 65
    assert tells(capsys.readouterr().err, file, "sidestep run", "nothing is trained twice")
    assert file.read_bytes() == content and list(file.parent.iterdir()) == [file]
