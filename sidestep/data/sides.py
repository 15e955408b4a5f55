"""Which songs are held out of the training. A song's content decides it: never its name, nor its caption.

So a song stays on its side under another name, with other texts, and in a dataset that has grown. Copies are
one song. Whichever sides a run has taken are kept in its checkpoints and in its adapter's header, and a run
that begins with that adapter takes them over: what was trained on is never a test later.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, Field

from sidestep.config.judging import ValidationSpec
from sidestep.runtime.errors import BadSpecError
from sidestep.runtime.parsing import as_kind, parse_json
from sidestep.runtime.shown import shown
from sidestep.runtime.words import counted, some

HEADER = "sidestep_sides"
"""What an adapter's files call the list in their headers."""

FEWEST_SONGS = 8
"""Of which a share is held out: of fewer, each is missed, and the loss on one or two says little."""
FEWEST_HELD_OUT = 2


@dataclass(frozen=True)
class Song:
    """A song of a dataset as far as its side goes: what it is called, and digests of its content."""

    name: str
    latents: str
    audio: str = ""  # of the file it was made from; "" where that is not known
    also: tuple[str, ...] = ()  # other names that it goes by: of its copies, or one that it got later


@dataclass(frozen=True)
class Sided:
    """A song that has its side."""

    latents: str
    audio: str
    held_out: bool


@dataclass(frozen=True)
class Sides:
    """The side of each song that a run, or one that it goes back to, has met. Sorted, each song once."""

    songs: tuple[Sided, ...]

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {"latents": song.latents, "audio": song.audio, "held_out": song.held_out} for song in self.songs
        ]

    @classmethod
    def of_json(cls, content: Any, name: str) -> "Sides":
        """Raises BadDataError, which names the file, where it is no list of sides."""
        read = as_kind(_Content, {"sides": content}, name).sides
        return cls(tuple(Sided(song.latents, song.audio, song.held_out) for song in read))

    def as_metadata(self) -> dict[str, str]:
        """For the header of an adapter's file; see `sides_in`."""
        text = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"))
        return {HEADER: text}

    def joined(self, other: "Sides") -> "Sides":
        """Those of two adapters that become one: what either of them was trained on is no test any more."""
        both = sorted(
            (*self.songs, *other.songs), key=lambda song: song.audio
        )  # of a song, who knows it last
        trained = {digest for song in both if not song.held_out for digest in (song.latents, song.audio)}
        trained.discard("")
        songs = {song.latents: song for song in both}
        return Sides(
            tuple(
                replace(songs[latents], held_out=trained.isdisjoint({latents, songs[latents].audio}))
                for latents in sorted(songs)
            )
        )

    @property
    def digest(self) -> str:
        """Of the list."""
        return hashlib.sha256(self.as_metadata()[HEADER].encode()).hexdigest()

    def are_held_out(self, songs: Iterable[Song]) -> list[bool]:
        """Of each of `songs`, all of which have their side."""
        sides = [_side_in(self._by_digest, song) for song in songs]
        assert None not in sides, "split gives each song its side"
        return [bool(side) for side in sides]

    def side_of(self, latents: str, audio: str) -> bool | None:
        """Whether the song of these digests is held out; None where the list does not have it."""
        return _side_in(self._by_digest, Song("", latents, audio))

    @cached_property
    def _by_digest(self) -> dict[str, bool]:
        return {
            digest: song.held_out for song in self.songs for digest in (song.latents, song.audio) if digest
        }


def sides_in(metadata: Mapping[str, str], name: str) -> Sides | None:
    """The sides in the header of an adapter's file; None where nothing was held out of its training.

    Raises BadDataError, which names the file, where they cannot be read: whoever trained on nevertheless
    could train on what is to be a test.
    """
    text = metadata.get(HEADER)
    return None if text is None else Sides.of_json(parse_json(text.encode(), name), name)


def split(songs: Sequence[Song], spec: ValidationSpec, before: Sides | None = None) -> Sides:
    """Give each song its side: the one it has in `before`, or else the one that its name or content says.

    Songs of `before` that are not among `songs` stay in the list: they may come back.

    Raises BadSpecError where a share of fewer than eight songs is to be held out, where a name fits no song
    or one that has been trained on, and where no song would be left to train on, or to hold out.
    """
    frozen = before._by_digest if before else {}
    contents = _contents(songs)
    named = {contents[number] for number in _named(songs, spec.songs)}
    hashes = {content: _hash(content) for content in contents}
    if spec.share and not (named or frozen):
        _refuse_few(len(hashes))
    taken = dict.fromkeys(contents)  # the side of each that has one
    for song, content in zip(songs, contents, strict=True):
        if (side := _side_in(frozen, song)) is not None:
            taken[content] = side
    chosen = named | {content for content, number in hashes.items() if number < spec.share}
    held_out = {content for content, side in taken.items() if (content in chosen if side is None else side)}
    if spec.share:
        new = [content for content, side in taken.items() if side is None and content not in held_out]
        lowest = sorted(new, key=lambda content: hashes[content])
        held_out |= set(lowest[: max(FEWEST_HELD_OUT - len(held_out), 0)])
    sides = {song.latents: song for song in (before.songs if before else ())}
    for song, content in zip(songs, contents, strict=True):
        if taken[content] is False and content in named:
            raise BadSpecError(
                f"train.validation.songs holds out {shown(song.name)}, which has been trained on\n"
                "  the adapter that this run begins with, or its checkpoint, says so: hold out other songs"
            )
        sides[song.latents] = Sided(song.latents, song.audio, content in held_out)
    if spec.is_on and not held_out:
        raise BadSpecError(
            "no song can be held out: all of them have been trained on\n"
            "  the adapter that this run begins with says so: add songs, or leave out train.validation"
        )
    if all(sides[song.latents].held_out for song in songs):
        raise _none_left()
    return Sides(tuple(sides[latents] for latents in sorted(sides)))


def guess(songs: Sequence[Song], spec: ValidationSpec, before: Sides | None = None) -> list[bool]:
    """Whether each song is held out, where nobody has read its content yet, nor perhaps its name ("").

    Those that are named are; others are as many as is likely, spread evenly over the dataset.

    Raises BadSpecError for what `split` will refuse, whatever the content turns out to be.
    """
    count = len(songs)
    if all(song.name for song in songs):
        named = _named(songs, spec.songs)
    else:
        named = set(range(min(len(spec.songs), count - 1)))
    if spec.share and not (named or before):
        _refuse_few(count)
    if len(named) >= count:
        raise _none_left()
    rest = [number for number in range(count) if number not in named]
    known = before.songs if before else ()
    more = sum(song.held_out for song in known) + round(spec.share * max(len(rest) - len(known), 0))
    if spec.share:
        more = max(more, FEWEST_HELD_OUT - len(named))
    more = min(more, len(rest) - 1)
    out = named | {rest[number * len(rest) // more] for number in range(more)}
    return [number in out for number in range(count)]


def named_in(songs: Sequence[Song], pattern: str) -> list[int]:
    """The numbers of the songs that a pattern names, by a file's name with or without its ending.

    Where a song is called just like the pattern, brackets and all, it means such songs alone.
    """
    names = [
        {name for own in (song.name, *song.also) for name in (own, PurePosixPath(own).stem)} for song in songs
    ]
    exactly = [number for number, own in enumerate(names) if pattern in own]
    return exactly or [
        number for number, own in enumerate(names) if any(fnmatchcase(name, pattern) for name in own)
    ]


def by_hash(songs: Sequence[Song], numbers: Iterable[int]) -> list[int]:
    """Of `songs` those of these `numbers`, ordered by their content alone; of copies the first."""
    contents = _contents(songs)
    first = {contents[number]: number for number in sorted(numbers, reverse=True)}
    return sorted(first.values(), key=lambda number: _hash(contents[number]))


def _contents(songs: Iterable[Song]) -> list[str]:
    """What each song is known by: the digest of its audio, if a copy of it has one, else of its latents."""
    songs = list(songs)
    audio = {song.latents: song.audio for song in sorted(songs, key=lambda song: song.audio) if song.audio}
    return [audio.get(song.latents, song.latents) for song in songs]


def _hash(content: str) -> float:
    """A number from 0 up to 1 that stands for the content, and for nothing else: no seed, no dataset."""
    return int.from_bytes(hashlib.sha256(f"held-out/{content}".encode()).digest()[:8], "big") / 2**64


def _side_in(frozen: Mapping[str, bool], song: Song) -> bool | None:
    sides = [frozen[digest] for digest in (song.audio, song.latents) if digest in frozen]
    return sides[0] if sides else None


def _named(songs: Sequence[Song], patterns: Sequence[str]) -> set[int]:
    """The numbers of the songs that any of the patterns names. Raises BadSpecError where one names none."""
    found = {pattern: named_in(songs, pattern) for pattern in patterns}
    if lost := [pattern for pattern, numbers in found.items() if not numbers]:
        raise BadSpecError(
            f"train.validation.songs names no song by {some(lost)}\n"
            f"  the songs are {some([song.name for song in songs])}"
        )
    return {number for numbers in found.values() for number in numbers}


def _refuse_few(count: int) -> None:
    if count < FEWEST_SONGS:
        raise BadSpecError(
            f"train.validation.share needs {FEWEST_SONGS} songs or more, and there are "
            f"{counted(count, 'songs')} (copies are one)\n"
            "  name those to hold out in train.validation.songs, or set the share to 0"
        )


def _none_left() -> BadSpecError:
    return BadSpecError("every song is held out: lower train.validation.share, or name fewer songs")


class _Sided(BaseModel):
    latents: Annotated[str, Field(min_length=1)]
    audio: str = ""
    held_out: bool


class _Content(BaseModel):
    sides: list[_Sided]
