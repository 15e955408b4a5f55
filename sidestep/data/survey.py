"""dataset-report.json beside the tensors: what a dataset is, said before any of it is encoded, and once more
where decoding its songs has shown more.

How many songs and hours, the shortest and longest, the quietest and loudest; which lack a caption, are there
twice, and in which languages they are sung. It keeps what decoding a song has shown, so that no song is
decoded again to say it.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from sidestep.config.schema import PreprocessSpec
from sidestep.data.dataset import Song, caption_from_name
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.parsing import parse_as
from sidestep.runtime.words import duration, shown, some
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

FILE = "dataset-report.json"


class Heard(BaseModel, frozen=True):
    """What decoding a song has shown, as far as it is used."""

    seconds: float
    lufs: float | None = None  # integrated loudness; None for silence and for less than 0.4 s
    sound: str = ""  # digest of its samples at 16 bits and 48 kHz


class HeardIn(BaseModel, frozen=True):
    """The same with the file that it was heard in, and the settings that it was decoded with."""

    heard: Heard
    size: int
    version: str
    max_duration: float
    float_scale: int


class Extreme(BaseModel, frozen=True):
    """The song that has the least or the most of something."""

    song: str
    value: float


class Survey(BaseModel, frozen=True):
    """What a dataset is. `measured` songs have a known length; `songs` has what was heard of each."""

    count: int
    measured: int
    hours: float
    shortest: Extreme | None = None  # seconds
    longest: Extreme | None = None
    quietest: Extreme | None = None  # LUFS
    loudest: Extreme | None = None
    without_caption: list[str] = []
    same_bytes: list[list[str]] = []
    same_sound: list[list[str]] = []
    languages: dict[str, int] = {}
    songs: dict[str, HeardIn] = {}


def heard_before(
    places: Iterable[Store], songs: Iterable[Song], settings: PreprocessSpec
) -> dict[str, Heard]:
    """What the reports in some places know of songs, by place, if they are as they were."""
    surveys = [survey for place in places if (survey := read_survey(place))]
    known = {name: one for survey in surveys for name, one in survey.songs.items()}
    return {
        song.place: known[song.place].heard
        for song in songs
        if song.place in known and known[song.place] == _in_file(song, known[song.place].heard, settings)
    }


def survey_of(
    songs: Sequence[Song], heard: Mapping[str, Heard], digests: Mapping[str, str], settings: PreprocessSpec
) -> Survey:
    """What a dataset is, by what was heard of its songs and the digests of their files, both by place."""
    return Survey(
        count=len(songs),
        **_of_heard({song.path: heard[song.place] for song in songs if song.place in heard}),
        **_twice({song.path: (digests.get(song.place), heard.get(song.place)) for song in songs}),
        without_caption=[song.path for song in songs if song.caption == caption_from_name(song.path)],
        languages=dict(sorted(Counter(song.language for song in songs if not song.is_instrumental).items())),
        songs={
            song.place: _in_file(song, heard[song.place], settings) for song in songs if song.place in heard
        },
    )


def joined(surveys: Sequence[Survey], paths: Mapping[str, str], digests: Mapping[str, str]) -> Survey:
    """What a dataset is, of what its shards are. `paths` are those of its songs below their folders, and
    `digests` those of their files, both by place."""
    songs = {place: one for survey in surveys for place, one in survey.songs.items()}
    heard = {place: one.heard for place, one in songs.items()}
    known = sorted(paths, key=paths.__getitem__)
    return Survey(
        count=sum(survey.count for survey in surveys),
        **_of_heard({paths[place]: heard[place] for place in known if place in heard}),
        **_twice({paths[place]: (digests.get(place), heard.get(place)) for place in known}),
        without_caption=sorted(path for survey in surveys for path in survey.without_caption),
        languages=dict(sorted(sum((Counter(survey.languages) for survey in surveys), Counter()).items())),
        songs=songs,
    )


def _of_heard(known: Mapping[str, Heard]) -> dict[str, Any]:
    """The figures of songs, by path."""
    lengths = [Extreme(song=path, value=one.seconds) for path, one in known.items()]
    levels = [Extreme(song=path, value=one.lufs) for path, one in known.items() if one.lufs is not None]
    return {
        "measured": len(known),
        "hours": sum(one.seconds for one in known.values()) / 3600,
        "shortest": min(lengths, key=lambda one: one.value, default=None),
        "longest": max(lengths, key=lambda one: one.value, default=None),
        "quietest": min(levels, key=lambda one: one.value, default=None),
        "loudest": max(levels, key=lambda one: one.value, default=None),
    }


def _twice(songs: Mapping[str, tuple[str | None, Heard | None]]) -> dict[str, list[list[str]]]:
    """The songs that are the same file, and those that only sound the same, of both by path."""
    same_bytes = _alike((path, digest) for path, (digest, _) in songs.items())
    same_sound = _alike((path, heard.sound if heard else None) for path, (_, heard) in songs.items())
    return {
        "same_bytes": same_bytes,
        "same_sound": [group for group in same_sound if group not in same_bytes],
    }


def in_words(survey: Survey) -> dict[str, str]:
    """The survey for people: what is told of, and what there is to say."""
    unknown = survey.count - survey.measured
    rest = f" (of {unknown} not known)" if unknown and survey.measured else ""
    said = {"songs": str(survey.count)}
    if survey.shortest and survey.longest:
        said["sound"] = f"{duration(survey.hours * 3600)}{rest}"
        said["length"] = (
            f"{duration(survey.shortest.value)} ({shown(survey.shortest.song)}) to "
            f"{duration(survey.longest.value)} ({shown(survey.longest.song)})"
        )
    if survey.quietest and survey.loudest:
        said["loudness"] = (
            f"{survey.quietest.value:.1f} LUFS ({shown(survey.quietest.song)}) to "
            f"{survey.loudest.value:.1f} LUFS ({shown(survey.loudest.song)})"
        )
    said["without a caption"] = some(survey.without_caption) or "none"
    for name, groups in (("same file", survey.same_bytes), ("same sound", survey.same_sound)):
        if groups:
            said[name] = "; ".join(" = ".join(map(shown, group)) for group in groups[:10])
    languages = [f"{language} {count}" for language, count in survey.languages.items()]
    said["languages"] = ", ".join(languages) or "none is sung"
    return said


def read_survey(tensors: Store) -> Survey | None:
    """The report beside tensors; None where there is none that can be read: it is made of other files."""
    if not tensors.stat(FILE):
        return None
    try:
        return parse_as(Survey, tensors.read_small(FILE), f"{tensors.place}/{FILE}")
    except BadDataError as error:
        log.warning("%s", error)
        return None


def write_survey(tensors: Store, survey: Survey) -> None:
    """Write the report, if it says anything new."""
    content = json_bytes(survey.model_dump())
    if not tensors.stat(FILE) or tensors.read_small(FILE) != content:
        tensors.write_bytes(FILE, content)


def _in_file(song: Song, heard: Heard, settings: PreprocessSpec) -> HeardIn:
    return HeardIn(
        heard=heard,
        size=song.file.size,
        version=song.file.version,
        max_duration=settings.max_duration,
        float_scale=settings.float_scale,
    )


def _alike(keys: Iterable[tuple[str, str | None]]) -> list[list[str]]:
    """The songs that share a key, in groups."""
    groups: dict[str, list[str]] = defaultdict(list)
    for song, key in keys:
        if key:
            groups[key].append(song)
    return [group for group in groups.values() if len(group) > 1]
