"""Finds the songs that cannot be trained on.

A header says little: a download that broke off, a recording of nothing or a text called song.flac may show
only when they are decoded. So every song is judged as it is decoded, as far as it will be used. One that is
to be encoded is decoded once, for that. Before any model is loaded it is only looked at, which finds most
of what is no whole song.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sidestep.config.schema import PreprocessSpec
from sidestep.data.dataset import Song, by_store
from sidestep.data.index import Index
from sidestep.data.survey import Heard
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.progress import track
from sidestep.runtime.words import out_of, shown
from sidestep.runtime.workspace import Workspace
from sidestep.storage.paths import unfit
from sidestep.storage.transfer import copy_of, pull

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

SILENCE_DB = -60.0
"""A song that stays below this peak (dBFS) is noise of a recorder, and no music."""

_DECODERS = 4  # each holds a decoded song, some 100 MB


@dataclass(frozen=True)
class Decoded:
    """A song that can be used."""

    waveform: "Tensor"  # [2, N], float32 at 48 kHz
    heard: Heard


def sound_songs(
    songs: list[Song],
    spec: PreprocessSpec,
    known: Index,
    workspace: Workspace,
    heard: dict[str, Heard] | None = None,
    judge: "Judge | None" = None,
) -> list[Song]:
    """The songs that can be used; those that `known` does not know are pulled and judged: by `listen`, or by
    `look` where they are decoded later.

    What was heard of those is added to `heard`, by the song's place.

    Raises BadDataError with all that cannot be used, where `spec.on_bad_file` is fail or none is left.
    """
    problems = problems_of_names(songs)
    unknown = [
        song
        for song in songs
        if song.place not in problems
        and (probed_by(spec) is None or not known.is_sound(song.store, song.file, spec.max_duration))
    ]
    if not unknown and not problems:
        return songs
    folders = {
        store.place: pull(store, files, workspace, "Pulling songs") for store, files in by_store(unknown)
    }
    with (
        track("Probing songs", len(unknown), "songs") as bar,
        ThreadPoolExecutor(min(_DECODERS, os.cpu_count() or 1)) as pool,
    ):
        paths = [copy_of(song.store, folders[song.store.place], song.path) for song in unknown]
        judged = judge or listen
        found = pool.map(lambda path: judged(path, spec.max_duration, spec.float_scale), paths)
        for song, result in zip(unknown, found, strict=True):
            if isinstance(result, str):
                problems[song.place] = result
            elif heard is not None and result is not None:
                heard[song.place] = result
            bar.advance(1)
    return without_bad(songs, problems, spec)


def without_bad(songs: list[Song], problems: Mapping[str, str], spec: PreprocessSpec) -> list[Song]:
    """The songs without those that have one of the `problems`, by place.

    Raises BadDataError with all of them, where `spec.on_bad_file` is fail or none is left.
    """
    if not problems:
        return songs
    lines = [f"{shown(place)} {problem}" for place, problem in sorted(problems.items())]
    report = "\n  ".join([f"{out_of(len(lines), len(songs), 'songs')} cannot be used:", *lines])
    if spec.on_bad_file == "fail":
        raise BadDataError(
            f"{report}\n  mend them or take them out of the dataset, "
            "or leave them out with preprocess.on_bad_file skip (--on-bad-file skip)"
        )
    if len(problems) == len(songs) and spec.shards == 1:  # others may have songs of this dataset
        raise BadDataError(f"{report}\n  none is left to preprocess")
    log.warning("%s\n  they are left out, as on_bad_file says", report)
    return [song for song in songs if song.place not in problems]


def probed_by(spec: PreprocessSpec) -> float | None:
    """The seconds over which a song is found sound. None for another full scale, which no index knows."""
    return float(spec.max_duration) if spec.float_scale == 1 else None  # as JSON gives it back


def problems_of_names(songs: list[Song]) -> dict[str, str]:
    """Why songs cannot be pulled or named, by the song's place: nothing is read for that."""
    # Tensors and reports name their songs in UTF-8.
    nameless = [song.place for song in songs if not _is_utf8(song.path)]
    problems = dict.fromkeys(nameless, "has a name that is no UTF-8: rename it")
    for store, files in by_store(songs):
        if store.local_root is None:
            reasons = unfit(file.path for file in files)
            problems |= {f"{store.place}/{path}": reason for path, reason in reasons.items()}
    return problems


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def problem_of(path: Path, max_duration: float, float_scale: int = 1) -> str | None:
    """Why the first `max_duration` seconds of a file cannot be used; None if they are sound."""
    found = listen(path, max_duration, float_scale)
    return found if isinstance(found, str) else None


Judge = Callable[[Path, float, int], Heard | str | None]


def look(path: Path, max_duration: float, float_scale: int) -> Heard | str | None:
    """Why a file cannot be used, as far as its packets show it; None where it seems whole.

    One that does not seem so is decoded: what is said of it is what decoding shows.
    """
    from sidestep.data.audio import seems_whole

    return None if seems_whole(path, max_duration) else listen(path, max_duration, float_scale)


def listen(path: Path, max_duration: float, float_scale: int) -> Heard | str:
    """What is in the first `max_duration` seconds of a file, or why they cannot be used."""
    try:
        return decoded(path, max_duration, float_scale).heard
    except (BadDataError, OSError) as error:
        return problem_in(error, path)


def problem_in(error: BadDataError | OSError, path: Path) -> str:
    """What `decoded` has raised, in words that follow the song's name."""
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    return str(error).removeprefix(f"{path} ").splitlines()[0]


def decoded(path: Path, max_duration: float, float_scale: int) -> Decoded:
    """The first `max_duration` seconds of a song.

    Raises BadDataError where they cannot be used, and OSError where the file cannot be read.
    """
    from sidestep.data.audio import SAMPLE_RATE, read_audio
    from sidestep.data.level import peak_db

    waveform = read_audio(path, max_duration, float_scale)
    if peak_db(waveform) < SILENCE_DB:
        seconds = waveform.shape[1] / SAMPLE_RATE
        raise BadDataError(
            f"{path} is silent: nothing in its first {seconds:.1f} s is above {SILENCE_DB:g} dBFS"
        )
    return Decoded(waveform, hear(waveform))


def hear(waveform: "Tensor") -> Heard:
    """What a decoded song [2, N] at 48 kHz is known by."""
    import torch

    from sidestep.data.audio import SAMPLE_RATE
    from sidestep.data.level import QUIETEST_LUFS, loudness

    lufs = loudness(waveform)
    samples = (waveform.clamp(-1, 1) * 32767).round().to(torch.int16).contiguous()
    return Heard(
        seconds=waveform.shape[1] / SAMPLE_RATE,
        lufs=round(lufs, 1) if lufs > QUIETEST_LUFS else None,
        sound=hashlib.sha256(samples.numpy().tobytes()).hexdigest()[:16],
    )
