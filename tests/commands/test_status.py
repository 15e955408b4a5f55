"""`sidestep status`: what people and programs are told of a job, and when watching ends."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sidestep.cli import main
from sidestep.commands.status import show_status
from sidestep.commitlog.lease import Lease
from sidestep.commitlog.log import CommitLog
from sidestep.commitlog.writer import take_over
from sidestep.config.schema import StorageSpec
from sidestep.lifecycle.status import Status, now
from sidestep.storage.local import LocalStore
from tests.facts import tells


@pytest.fixture
def running(tmp_path: Path) -> Status:
    return Status(
        name="my-lora",
        task="train",
        phase="train",
        step=120,
        steps=1000,
        epoch=3,
        epochs=25,
        loss=0.8125,
        steps_per_second=0.5,
        seconds_left=1760,
        last_commit={"folder": "checkpoints/checkpoint-step-100", "step": 100, "at": now()},
        spent={"attempts": 2, "preemptions": 1, "seconds": {"pull": 60, "train": 240}},
        attempt=2,
    )


def write(status: Status, tmp_path: Path) -> str:
    (tmp_path / "status.json").write_text(status.model_dump_json())
    return str(tmp_path)


def test_the_command_for_people(running: Status, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", write(running, tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[:5] == [
        "my-lora: running (train)",
        "  step 120 of 1000 (12%), epoch 3 of 25, loss 0.8125",
        "  0.5 steps/s, 29 min 20 s left",
        "  newest checkpoint: checkpoints/checkpoint-step-100, after step 100",
        "  attempt 2, 1 of them preempted, 5 min 00 s in all",
    ]


def test_after_a_kill_the_log_knows_the_newest_checkpoint(
    running: Status, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The attempt was killed before it told of it, or the next one has made none of its own yet."""
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "adapter_model.safetensors").write_bytes(b"adapter")
    log = CommitLog(LocalStore(tmp_path, StorageSpec()))
    with take_over(log, Lease(60), None, {}) as writer:
        writer.commit(tmp_path / "made", "checkpoint-step-110", 110, [])
    for told in (running.last_commit, None):
        status = running.model_copy(update={"last_commit": told})
        assert main(["status", write(status, tmp_path)]) == 0
        said = capsys.readouterr().out
        assert "newest checkpoint: checkpoints/checkpoint-step-110, after step 110\n" in said
    assert main(["status", write(running.model_copy(update={"step": 101}), tmp_path)]) == 0
    assert "  step 110 of 1000 (11%)\n" in capsys.readouterr().out  # the attempt had told of fewer
    (tmp_path / "commits" / "000001.json").write_text("damaged")
    (tmp_path / "commits" / "000002.json").write_text("damaged")
    assert main(["status", write(running, tmp_path)]) == 0
    assert "newest checkpoint: checkpoints/checkpoint-step-100" in capsys.readouterr().out


def test_what_the_held_out_songs_say(
    running: Status, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"step": 100, "held_out": 0.8123, "trained": None, "gain": -0.012, "gain_error": 0.004}
    best = {"best_step": 80, "best_held_out": 0.8}
    at = {"step": 120, "done": 7, "total": 640}
    status = Status.model_validate(running.model_dump() | {"validation": found | best, "validating": at})
    assert main(["status", write(status, tmp_path)]) == 0
    said = capsys.readouterr().out
    for fact in ("100", "0.8123", "-0.0120 ± 0.0040", "not finite", "step 80", "0.8000", "7 of 640"):
        assert fact in said
    ended = status.model_copy(update={"state": "preempted"})
    assert main(["status", write(ended, tmp_path)]) == 0
    assert "7 of 640" not in capsys.readouterr().out


def test_a_stale_heartbeat_is_said(
    running: Status, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running.heartbeat = now() - timedelta(hours=2)
    assert main(["status", write(running, tmp_path)]) == 0
    said = capsys.readouterr().out
    assert tells(said, "no sign of life for 2 h 00 min", "probably gone", "goes on")
    assert said.startswith("my-lora: lost (train)") and "steps/s" not in said


def test_the_command_for_programs(
    running: Status, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", write(running, tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["last_commit"]["step"] == 100


def test_watching_ends_with_the_job(
    running: Status, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(running, tmp_path)

    def ends(seconds: float) -> None:
        assert Status.read((tmp_path / "status.json").read_bytes(), "").state == "running"
        write(running.model_copy(update={"state": "done"}), tmp_path)

    show_status(LocalStore(tmp_path, StorageSpec()), as_json=False, watch=True, sleep=ends)
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("my-lora")]
    assert shown == ["my-lora: running (train)", "my-lora: done"]


@pytest.mark.parametrize("content", [None, "{}", "no JSON"])
def test_no_status(tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    if content:
        (tmp_path / "status.json").write_text(content)
    assert main(["status", str(tmp_path)]) == (65 if content else 66)
    said = capsys.readouterr().err
    assert "status.json" in said and ("next attempt" in said) == bool(content)
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "change",
    [
        {"loss": float("inf")},
        {"seconds_left": float("nan")},
        {"seconds_left": 1e999},
        {"steps_per_second": "1"},
        {"step": True},
        {"steps": -5},
        {"attempt": 10**30},
        {"heartbeat": "2026-01-01T00:00:00"},
        {"heartbeat_seconds": -1},
        {"spent": {"seconds": {"train": float("inf")}}},
        {"name": "\ud800"},
    ],
    ids=str,
)
@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["people", "programs"])
def test_numbers_that_are_none_are_refused_with_their_field(
    running: Status,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    flags: list[str],
) -> None:
    write(running, tmp_path)
    content = json.loads((tmp_path / "status.json").read_text())
    (tmp_path / "status.json").write_text(json.dumps(content | change))
    assert main(["status", str(tmp_path), *flags]) == 65
    said = capsys.readouterr()
    assert "status.json" in said.err and next(iter(change)) in said.err
    assert (json.loads(said.out)["error"]["exit_code"] == 65) if flags else said.out == ""


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["people", "programs"])
def test_what_a_status_says_is_text(
    running: Status, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    hostile = "\x1b]0;taken\x07\u202e\x9b2J\nmy-lora: done"
    status = running.model_copy(update={"name": hostile, "message": hostile})
    assert main(["status", write(status, tmp_path), *flags]) == 0
    out = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(out)
    assert not [line for line in out.splitlines() if line.startswith("my-lora")]
