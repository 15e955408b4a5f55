"""How much of a run each song is: how often it comes in an epoch, and what it weighs in a step's loss.

A dataset says it for each song (`repeats`, `weight`), and preprocessing hands it on in the index beside the
tensors: it changes no tensor and no key. The spec may say it by file name, and wins.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, TypeVar

from sidestep.config.training import TrainSpec
from sidestep.data.index import ONE, Index, Share, tensors_file
from sidestep.runtime.errors import BadSpecError
from sidestep.runtime.words import some

Number = TypeVar("Number", int, float)


def shares_of(index: Index | None, files: Sequence[str], train: TrainSpec) -> list[Share]:
    """Those of tensor files, which `index` is of: what `train` says of their songs, else the index, else 1.

    A song is known by the place it was made from, or without an index by its tensors' own name. Of copies of
    a song, which are one, the larger numbers count.

    Raises BadSpecError where a pattern fits no song, or two that fit one say different things.
    """
    index = index or Index()
    places: dict[str, list[str]] = {}
    for place, key in sorted(index.samples.items()):
        places.setdefault(tensors_file(key), []).append(place)
    names = [places.get(file) or [file] for file in files]
    given = []
    for own in names:
        said = [index.shares.get(place, ONE) for place in own]
        given.append(Share(max(share.repeats for share in said), max(share.weight for share in said)))
    return as_set(names, given, train)


def as_set(names: Sequence[Sequence[str]], given: Iterable[Share], train: TrainSpec) -> list[Share]:
    """What songs are given, and over it what `train` sets by their `names`, each song's own.

    Raises BadSpecError as `shares_of` does.
    """
    repeats = _by_pattern(names, train.repeats, "train.repeats")
    weights = _by_pattern(names, train.weights, "train.weights")
    return [
        replace(share, repeats=repeats.get(n, share.repeats), weight=weights.get(n, share.weight))
        for n, share in enumerate(given)
    ]


def shares_said(files: Sequence[str], shares: Sequence[Share]) -> dict[str, Any]:
    """What of them makes a run another: by file, as far as it is not 1. Nothing, where all is."""
    pairs = list(zip(files, shares, strict=True))
    said = {
        "train.repeats": {file: share.repeats for file, share in pairs if share.repeats != 1},
        "train.weights": {file: share.weight for file, share in pairs if share.weight != 1},
    }
    return {name: values for name, values in said.items() if values}


def shares_in(recipe: Mapping[str, Any], files: Sequence[str]) -> list[Share]:
    """Those of files, by what `shares_said` of them."""
    repeats, weights = recipe.get("train.repeats", {}), recipe.get("train.weights", {})
    return [Share(repeats.get(file, 1), weights.get(file, 1.0)) for file in files]


def _by_pattern(
    names: Sequence[Sequence[str]], values: Mapping[str, Number], field: str
) -> dict[int, Number]:
    """Number of the song → its value."""
    found: dict[int, tuple[str, Number]] = {}
    for pattern, value in values.items():
        fitting = _fitting(pattern, names)
        if not fitting:
            known = sorted(PurePosixPath(own[0]).name for own in names)
            raise BadSpecError(f"{field} names no song by {pattern!r}\n  the songs are {some(known)}")
        for n in fitting:
            other, said = found.setdefault(n, (pattern, value))
            if said != value:
                raise BadSpecError(
                    f"{field} says two things of {PurePosixPath(names[n][0]).name}: {said:g} as {other!r}, "
                    f"{value:g} as {pattern!r}\n  let one pattern fit it"
                )
    return {n: value for n, (_, value) in found.items()}


def _fitting(pattern: str, names: Sequence[Sequence[str]]) -> list[int]:
    """The numbers of the songs that the pattern is for, by the ends of their paths.

    Where a song is called just like the pattern, brackets and all, it is for such songs alone.
    """
    pattern = pattern.strip("/")
    depth = pattern.count("/") + 1
    ends = [{end for name in own for end in _ends(name, depth)} for own in names]
    exactly = [n for n, own in enumerate(ends) if pattern in own]
    return exactly or [n for n, own in enumerate(ends) if any(fnmatchcase(end, pattern) for end in own)]


def _ends(name: str, depth: int) -> tuple[str, str]:
    """The last `depth` parts of a path, with the file's ending and without."""
    path = PurePosixPath(*PurePosixPath(name).parts[-depth:])
    return str(path), str(path.with_suffix(""))
