"""A page to listen to samples blind: `index.html` beside them, which needs nothing else and no network.

Takes of one prompt, seed and settings are heard in pairs, the base model against each adapter and strength.
Which of the two is A is drawn by the page, in the listener's browser, and shown once they have chosen. A
third sound, X, is A or B again: who can't tell which hears no difference, whatever they prefer.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from sidestep.report.html import template
from sidestep.sampling.takes import Samples, Take

FILE = "index.html"
WAVE_HEIGHT = 64
SILENT = -69.0
"""LUFS: a take at or below it has no level that others could be brought to."""


@dataclass(frozen=True)
class Look:
    """What a take looks like.

    Attributes:
        peaks: the lowest and highest sample, from -1 to 1, of each of some hundred equal parts.
        mel: a mel spectrogram, a PNG file.
    """

    peaks: Sequence[tuple[float, float]]
    mel: bytes


@dataclass(frozen=True)
class Pair:
    """Two takes of one prompt to choose between, by their numbers in samples.json."""

    prompt: int
    takes: tuple[int, int]


def listening_page(samples: Samples, looks: Sequence[Look], note: str = "") -> str:
    """The HTML of a page beside samples.json; `note` stands on top. `looks` are its takes' own, in order."""
    gains = gains_of(samples.takes)
    script = (files("sidestep.report") / "listening.js").read_text(encoding="utf-8")
    data = {
        "key": _key(samples),
        "takes": [
            {"file": take.file, "gain": gain, "name": name_of(take), "prompt": take.prompt}
            for take, gain in zip(samples.takes, gains, strict=True)
        ],
        "pairs": [[pair.prompt, *pair.takes] for pair in pairs_of(samples.takes)],
    }
    return template("listening").render(
        samples=samples,
        note=note,
        names=[name_of(take) for take in samples.takes],
        gains=gains,
        pairs=data["pairs"],
        waves=[wave(look.peaks) for look in looks],
        mels=[base64.b64encode(look.mel).decode() for look in looks],
        parts=[len(look.peaks) for look in looks],
        height=WAVE_HEIGHT,
        script=Markup(script),  # noqa: S704 - a file of this package
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=_in_script(data),
    )


def shows(page: str, samples: Samples) -> bool:
    """Whether a page is that of these samples, and of no others."""
    return f'"key":"{_key(samples)}"' in page


def _key(samples: Samples) -> str:
    return hashlib.sha256(samples.content()).hexdigest()[:16]


def pairs_of(takes: Sequence[Take]) -> list[Pair]:
    """What is compared: in each group of takes that begin alike, its base model with every other one.

    Where the base model has not been sampled, the group's first take stands in its place.
    """
    return [
        Pair(takes[first].prompt, (first, other)) for first, *others in _groups(takes) for other in others
    ]


def _groups(takes: Sequence[Take]) -> Iterator[list[int]]:
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, take in enumerate(takes):
        kind = take.file.rpartition(".")[2]  # the same sound as FLAC and as WAV is nothing to choose from
        alike = (take.prompt, take.seed, take.steps, take.guidance, take.shift, take.seconds, kind)
        groups.setdefault(alike, []).append(number)
    for group in groups.values():
        yield sorted(group, key=lambda number: takes[number].checkpoint is not None)


def gains_of(takes: Sequence[Take]) -> list[float]:
    """The factor, at most 1, that brings each take to the loudness of the softest of its pairs' takes.

    A browser's volume can only make softer. A silent take stays as it is, and nothing is brought down to it.
    """
    gains = [1.0] * len(takes)
    for group in _groups(takes):
        audible = [number for number in group if takes[number].loudness > SILENT]
        target = min((takes[number].loudness for number in audible), default=0.0)
        for number in audible:
            gains[number] = round(10 ** ((target - takes[number].loudness) / 20), 4)
    return gains


def name_of(take: Take) -> str:
    """What is shown of a take once it may be known."""
    if take.checkpoint is None:
        return "base model"
    return f"{take.checkpoint}, strength {take.strength:g}"


def wave(peaks: Sequence[tuple[float, float]]) -> str:
    """The path of a waveform, one upright line for each part, in a field of `len(peaks)` by WAVE_HEIGHT."""
    middle = WAVE_HEIGHT / 2
    return "".join(
        f"M{x + 0.5:g} {middle * (1 - high):.1f}V{middle * (1 - low) + 0.5:.1f}"
        for x, (low, high) in enumerate(peaks)
    )


def _in_script(data: Any) -> Markup:
    """JSON for a script element: no text in it can end the element."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))  # noqa: S704
