"""The whole way on one's own machine in minutes: made songs, a tiny random model, an adapter.

What is learnt is of no use, since the model makes noise; everything else is the real thing. The songs are
composed here rather than shipped: four short loops with chords, bass, drums and a melody, each in another
file format, tempo and key.
"""

import json
import logging
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from sidestep.config.job import JobSpec
from sidestep.runtime.folders import provide_folders
from sidestep.runtime.lean import import_diffusers

log = logging.getLogger(__name__)

Signal = NDArray[np.float64]

SECONDS = 5.0
MINOR, MAJOR = (0, 3, 7), (0, 4, 7)
DEMO_TRAINING = {
    "epochs": 50,
    "lr": 3e-3,
    "accumulation": 1,
    "adapter": {"rank": 16, "alpha": 32},
    "checkpoint": {"every_epochs": 25},
}


@dataclass(frozen=True)
class Tune:
    """A loop: its file, what a dataset JSON says of it, and its chords as (semitones above tonic, kind)."""

    file: str
    codec: str
    rate: int
    bpm: int
    keyscale: str
    tonic: int  # MIDI note
    chords: tuple[tuple[int, tuple[int, ...]], ...]
    genre: str
    caption: str


TUNES = (
    Tune(
        *("night-drive.wav", "pcm_s16le", 44_100, 100, "A minor", 57),
        *(((0, MINOR), (8, MAJOR), (3, MAJOR), (10, MAJOR)), "synthwave"),
        "dark synthwave with a steady kick, saw pads and a plucked lead",
    ),
    Tune(
        *("tin-parade.flac", "flac", 48_000, 126, "C major", 60),
        *(((0, MAJOR), (7, MAJOR), (9, MINOR), (5, MAJOR)), "chiptune"),
        "bright chiptune march, fast drums, simple cheerful melody",
    ),
    Tune(
        *("slow-tide.ogg", "libopus", 48_000, 72, "D minor", 50),
        *(((0, MINOR), (5, MINOR), (10, MAJOR), (3, MAJOR)), "ambient"),
        "slow ambient tide, warm low pads, sparse drums",
    ),
    Tune(
        *("glass-garden.mp3", "libmp3lame", 44_100, 140, "E minor", 52),
        *(((0, MINOR), (3, MAJOR), (8, MAJOR), (10, MAJOR)), "electronic"),
        "glassy electronic arpeggios over a driving beat",
    ),
)


def _hertz(note: float) -> float:
    return float(440 * 2 ** ((note - 69) / 12))


def _tone(note: float, seconds: float, rate: int, harmonics: int, decay: float) -> Signal:
    """A band-limited saw that dies away; `decay` per second, with 10 ms of attack against clicks."""
    t = np.arange(int(seconds * rate)) / rate
    wave = sum(np.sin(2 * np.pi * _hertz(note) * k * t) / k for k in range(1, harmonics + 1))
    return np.asarray(
        wave * np.minimum(t / 0.01, 1) * np.exp(-decay * t) * np.minimum((seconds - t) / 0.01, 1)
    )


def _kick(rate: int) -> Signal:
    t = np.arange(int(0.25 * rate)) / rate
    return np.asarray(np.sin(2 * np.pi * (50 * t + 4 * (1 - np.exp(-25 * t)))) * np.exp(-14 * t))


def _noise(seconds: float, rate: int, decay: float, random: np.random.Generator) -> Signal:
    t = np.arange(int(seconds * rate)) / rate
    return np.asarray(random.standard_normal(t.size) * np.exp(-decay * t))


def compose(tune: Tune) -> NDArray[np.float32]:
    """Play a tune: [2, SECONDS * rate], peak 0.9. One chord a bar of four beats; equal tunes sound equal."""
    rate, beat = tune.rate, 60 / tune.bpm
    sound = np.zeros((2, int(SECONDS * rate)))
    random = np.random.default_rng(tune.bpm)

    def play(signal: Signal, at: float, gain: float, pan: float = 0.0) -> None:
        start = int(at * rate)
        piece = signal[: sound.shape[1] - start] * gain
        sound[:, start : start + piece.size] += piece * np.array([[1 - pan], [1 + pan]])

    for step in range(int(SECONDS / beat * 2)):  # an eighth note each
        at = step * beat / 2
        offset, kind = tune.chords[step // 8 % len(tune.chords)]
        root = tune.tonic + offset
        if step % 8 == 0:
            for voice, interval in enumerate(kind):
                play(_tone(root + interval, 4 * beat, rate, 8, 0.6), at, 0.12, pan=0.4 * (voice - 1))
        if step % 2 == 0:
            play(_tone(root - 24, beat, rate, 4, 3), at, 0.4)
        if step % 4 == 0:
            play(_kick(rate), at, 0.9)
        if step % 4 == 2:
            play(_noise(0.15, rate, 25, random), at, 0.15)
        play(_noise(0.03, rate, 120, random), at, 0.08, pan=0.3)
        melody = root + 12 + int(random.choice(kind))
        play(_tone(melody, beat / 2, rate, 5, 6), at, 0.25, pan=-0.3)
    loudest: float = np.abs(sound).max()
    return (0.9 * sound / loudest).astype(np.float32)


def write_songs(folder: Path) -> Path:
    """Write the four songs and their dataset.json to `folder`; return the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for tune in TUNES:
        with av.open(folder / tune.file, "w", options={"fflags": "bitexact"}) as container:
            stream = container.add_stream(tune.codec, rate=tune.rate, layout="stereo")
            assert isinstance(stream, av.AudioStream)
            frame = av.AudioFrame.from_ndarray(compose(tune), format="fltp", layout="stereo")
            frame.sample_rate = tune.rate
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    samples = [
        {
            "audio_path": tune.file,
            "caption": tune.caption,
            "genre": tune.genre,
            "bpm": tune.bpm,
            "keyscale": tune.keyscale,
            "timesignature": "4",
            "is_instrumental": True,
        }
        for tune in TUNES
    ]
    dataset = folder / "dataset.json"
    dataset.write_text(json.dumps({"samples": samples}, indent=2) + "\n")
    return dataset


def demo(folder: Path, run: Callable[[JobSpec], object]) -> None:
    """Make songs and a tiny model in `folder`, train an adapter on them there, and say where things are.

    `run` is `sidestep.tasks.run`. Run again in the same folder it finds its work done and says so.
    """
    provide_folders(workspace=None)
    import_diffusers()  # before the tiny model does, and with it what no demo needs
    from sidestep.acestep.tiny import write_tiny_checkpoint
    from sidestep.lifecycle.finish import TrainResult

    start = time.monotonic()
    log.info(
        "Demo in %s: %d generated songs of %g s, a tiny random model, the whole pipeline",
        folder,
        len(TUNES),
        SECONDS,
    )
    dataset = write_songs(folder / "songs")
    write_tiny_checkpoint(folder / "checkpoints", variants=["base"])
    spec = JobSpec.load(
        None,
        name="demo",
        checkpoint_dir=str(folder / "checkpoints"),
        dataset_json=str(dataset),
        output_dir=str(folder / "output"),
        train=DEMO_TRAINING,
        # Its own, so that a first run is one, whatever other runs have left in the user's cache.
        runtime={"workspace": str(folder / "workspace")},
    )
    result = run(spec)
    assert isinstance(result, TrainResult)
    first, last = result.first_loss, result.last_loss
    log.info(
        SUMMARY.format(
            seconds=f"{time.monotonic() - start:.0f}",
            loss=f"{first:.4f} at the start, {last:.4f} after {result.steps} steps ({last / first - 1:+.0%})",
            adapter=result.adapter,
            output=spec.output_dir,
            bin=_bin(),
        )
    )


SUMMARY = """
The demo took {seconds} s.
  Loss           {loss}
                 (on fixed draws; the curve is in {output}/loss.png)
  Sensitivity    {output}/estimate/report.png
  Adapter        {adapter}
  TensorBoard    {bin}tensorboard --logdir {output}/runs
  Listen         {bin}sidestep sample {output} --seconds 4
                 (makes a page to listen to, with and without the adapter)

The model is random, so this adapter is of no use. With your own songs and the released weights:
  {bin}sidestep run --checkpoint-dir ACE-Step-1.5/checkpoints --model-variant base \\
      --audio-dir my_songs --output-dir output/my-lora
"""


def _bin() -> str:
    """What to type before a command of this installation: nothing where PATH finds it, else its folder."""
    folder = Path(sys.executable).parent
    if shutil.which("sidestep") == str(folder / "sidestep"):
        return ""
    return f"{folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder}/"
