"""The liveness file follows progress, and nothing else."""

import os
from pathlib import Path

import pytest

from sidestep.runtime import liveness
from sidestep.runtime.progress import track


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "_file", None)
    monkeypatch.setattr(liveness, "_last", 0.0)


def test_progress_is_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    liveness.begin(tmp_path)
    file = tmp_path / liveness.FILE
    os.utime(file, (0, 0))
    with track("Training", total=2, unit="steps") as bar:
        bar.advance(1)
        assert file.stat().st_mtime == 0  # not more often than every few seconds
        monkeypatch.setattr(liveness, "EVERY_SECONDS", 0)
        bar.advance(1)
    assert file.stat().st_mtime > 0


def test_a_full_disk_stops_no_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    liveness.begin(tmp_path / "gone")
    liveness.sign_of_life(at_once=True)
    assert caplog.text.count("cannot be written, and a probe will miss it") == 1
