"""The preprocess command on songs of every kind, and on what is none: its exit code, and what it says."""

import os
import subprocess
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from sidestep.cli import main
from sidestep.data.tensors import read_sample
from sidestep.runtime.errors import ExitCode

ODD_NAMES = {
    "8 kHz mono": 'it\'s "8" kHz.wav',
    "96 kHz 24-bit": "ninety\nsix.wav",
    "5.1": "fünf.eins — 五.flac",
    "0.2 s": " 0.2s %d .wav",
    "20 minutes": "$(long) `song`; rm.wav",
}


def write(path: Path, codec: str, rate: int, layout: str, seconds: float) -> None:
    channels = av.AudioLayout(layout).nb_channels
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (channels, round(rate * seconds))).astype(np.float32)
    with path.open("wb") as file, av.open(file, "w", format=path.suffix[1:]) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(noise, "fltp", layout)
        frame.sample_rate, frame.pts = rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def arguments(checkpoints: Path, *more: str) -> list[str]:
    models = ["--checkpoint-dir", str(checkpoints), "--device", "cpu", "--workspace", "work"]
    return ["preprocess", *models, "--tensor-output", "tensors", *more]


@pytest.mark.slow
def test_songs_of_all_kinds_and_names(golden: Path) -> None:
    folder = Path("songs")
    folder.mkdir()
    write(folder / ODD_NAMES["8 kHz mono"], "pcm_s16le", 8_000, "mono", 0.25)
    write(folder / ODD_NAMES["96 kHz 24-bit"], "pcm_s24le", 96_000, "stereo", 0.25)
    write(folder / ODD_NAMES["5.1"], "flac", 48_000, "5.1", 0.25)
    write(folder / ODD_NAMES["0.2 s"], "pcm_s16le", 44_100, "stereo", 0.2)
    with wave.open(str(folder / ODD_NAMES["20 minutes"]), "wb") as file:
        file.setparams((1, 2, 8_000, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(0).integers(-9000, 9000, 20 * 60 * 8_000, "<i2").tobytes())

    assert main(arguments(golden / "checkpoints", "--audio-dir", "songs", "--max-duration", "0.3")) == 0
    samples = {
        sample.metadata["filename"]: sample for sample in map(read_sample, Path("tensors").glob("*.pt"))
    }
    assert set(samples) == set(ODD_NAMES.values())
    seconds = {kind: samples[name].metadata["duration"] for kind, name in ODD_NAMES.items()}
    assert seconds.pop("20 minutes") == 0.3 and seconds.pop("0.2 s") == pytest.approx(0.2, abs=1e-4)
    assert all(length == pytest.approx(0.25, abs=1e-4) for length in seconds.values())
    frames = {kind: len(samples[name].target_latents) for kind, name in ODD_NAMES.items()}
    assert frames == {"8 kHz mono": 7, "96 kHz 24-bit": 7, "5.1": 7, "0.2 s": 5, "20 minutes": 8}
    assert all(sample.target_latents.std() > 0.01 for sample in samples.values())


JSONS = {
    "no JSON": ('[{"audio_path": ', ExitCode.BAD_DATA, ["dataset.json", "not JSON"]),
    "a missing file": (
        '[{"audio_path": "a.wav"}, {"audio_path": "gone.wav"}]',
        ExitCode.MISSING,
        ["sample 2, audio_path 'gone.wav': there is no such file in"],
    ),
    "a way out": (
        '[{"audio_path": "../secret.wav"}, {"audio_path": "sub/../../secret.wav"}]',
        ExitCode.BAD_DATA,
        ["2 problems", "'../secret.wav': leads out of", "'sub/../../secret.wav': leads out of"],
    ),
    "a link out": ('[{"audio_path": "link.wav"}]', ExitCode.BAD_DATA, ["link.wav is a symbolic link out of"]),
}


@pytest.fixture
def songs() -> Path:
    """A good song and a link to one outside."""
    folder = Path("songs")
    folder.mkdir()
    write(folder / "a.wav", "pcm_s16le", 48_000, "stereo", 0.1)
    write(Path("secret.wav"), "pcm_s16le", 48_000, "stereo", 0.1)
    (folder / "link.wav").symlink_to(Path("secret.wav").absolute())
    return folder


@pytest.mark.parametrize("what", JSONS)
def test_a_bad_dataset_is_one_clear_message(
    golden: Path, songs: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    content, code, messages = JSONS[what]
    (songs / "dataset.json").write_text(content)
    assert main(arguments(golden / "checkpoints", "--dataset-json", "songs/dataset.json")) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said and all(message in said for message in messages)
    assert not Path("tensors").exists()


def test_songs_that_are_none_end_the_command_by_name(golden: Path, songs: Path) -> None:
    """As a process of its own, with nothing of the tests in it."""
    (songs / "link.wav").unlink()
    (songs / "corrupt.mp3").write_bytes(b"\xff\xfb\x90\x00" + bytes(range(256)) * 8)
    (songs / "empty.wav").write_bytes(b"")
    (songs / "text.flac").write_text("la la la\n" * 50)
    run = subprocess.run(
        [sys.executable, "-m", "sidestep", *arguments(golden / "checkpoints", "--audio-dir", "songs")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == ExitCode.BAD_DATA
    assert "Traceback" not in run.stderr and "3 of 4 songs cannot be used:" in run.stderr
    for name in ("corrupt.mp3", "empty.wav", "text.flac"):
        assert f"songs/{name} is " in run.stderr
    assert not Path("tensors").exists()
