"""The demo, with songs of a second each."""

import logging
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.data.audio import read_audio
from sidestep.tasks import demo as demo_module
from sidestep.tasks import run
from sidestep.tasks.demo import TUNES, demo, write_songs


def test_the_songs_are_sound_and_the_same_everywhere(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_songs(tmp_path / name)
    for tune in TUNES:
        assert (tmp_path / "a" / tune.file).read_bytes() == (tmp_path / "b" / tune.file).read_bytes()
        waveform = read_audio(tmp_path / "a" / tune.file, max_duration=60)
        assert abs(waveform.shape[1] / 48_000 - demo_module.SECONDS) < 0.05
        assert 0.05 < waveform.std() < 0.5
        assert not waveform[0].equal(waveform[1])


@pytest.mark.slow
def test_the_demo_trains_and_says_what_it_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(demo_module, "SECONDS", 1.0)
    with caplog.at_level(logging.INFO, "sidestep"):
        demo(Path("demo"), run)
    summary = caplog.messages[-1]
    assert "sidestep run --checkpoint-dir" in summary
    assert "demo/output/adapter" in summary
    command = next(line for line in summary.splitlines() if "sidestep sample" in line)
    assert main(command.partition("sidestep ")[2].split()) == 0
    assert Path("demo/output/listen/index.html").exists()
    made = {
        file.relative_to("demo/output").as_posix()
        for file in Path("demo/output").rglob("*")
        if file.is_file()
    }
    assert {"loss.png", "adapter/adapter_model.safetensors", "estimate/report.png"} <= made
    assert any(name.startswith("runs/events.out.tfevents") for name in made)
    first, last = (float(word) for word in summary.split("Loss")[1].split()[:6] if "." in word)
    assert last < first * 2 / 3

    caplog.clear()
    adapter = Path("demo/output/adapter/adapter_model.safetensors").read_bytes()
    with caplog.at_level(logging.INFO, "sidestep"):
        demo(Path("demo"), run)
    assert any("Already finished" in message for message in caplog.messages)
    assert Path("demo/output/adapter/adapter_model.safetensors").read_bytes() == adapter
