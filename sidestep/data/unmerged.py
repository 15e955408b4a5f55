"""From the indexes of shards to one of the dataset.

A dataset is not trained on before every shard of it is there, whole, once, and made by one recipe of one list
of songs. What does not belong is named and left alone. The index is written last; `shards/merged.json` then
says of which shards' indexes it was made, so that none of them is merged twice, or over a newer one.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256

from sidestep.config.shards import FOLDER, Shard, shards_of
from sidestep.data.checked import read_checked, write_checked
from sidestep.data.index import Index, find_files, read_index, tensors_file, write_index
from sidestep.data.listing import PREVIEWS
from sidestep.data.shards import INDEX_FILE, Dealt, shards_in
from sidestep.data.survey import joined, read_survey, write_survey
from sidestep.data.unfinished import clear_unfinished, has_unfinished
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadDataError, MissingInputError, SideStepError, StorageError
from sidestep.runtime.words import counted, out_of, some
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

NOTE = f"{FOLDER}/merged.json"
AGAIN = "run `sidestep preprocess` of these shards again: it makes what is missing, and nothing twice"


@dataclass(frozen=True)
class Part:
    """A shard's index, and of what dataset it says that it is a part."""

    shard: Shard
    dealt: Dealt
    index: Index


@dataclass(frozen=True)
class Merged:
    """What was merged, and the shards that do not belong to it, each with the reason."""

    index: Index
    of: int
    foreign: dict[str, str]


def places_before(tensors: Store, shard: Shard | None) -> list[Store]:
    """Where earlier attempts have left indexes, reports and unfinished work of this one's songs, its own
    folder first: of all songs by one job, and of shards of another number."""
    if shard is None:
        return [tensors]
    others = [other for other in shards_in(tensors) if other.of != shard.of]
    return [tensors.child(one.folder) for one in (shard, *others)] + [tensors]


def known_before(own: Store, *others: Store) -> Index:
    """What earlier attempts knew of songs and tensors: no song is read again for its digest."""
    known = read_index(own) or Index()
    with ThreadPoolExecutor(own.options.connections) as pool:
        indexes = [index for index in pool.map(_read_if_sound, others) if index]
    for index in indexes:
        known.files = index.files | known.files
        known.tensors = index.tensors | known.tensors
        known.stored = index.stored | known.stored
        known.samples = index.samples | known.samples
        known.weights = known.weights or index.weights
    return known


def check_indexes(tensors: Store, shards: Collection[Shard]) -> str | None:
    """Make sure that what an attempt at `shards`, or at all songs where there are none, reads first is sound:
    the index that the one before has left, of which something is said. None where there is none.

    Raises BadDataError that names each damaged one.
    """
    places = (
        [tensors.child(one.folder) for one in shards_in(tensors) if one in shards] if shards else [tensors]
    )
    with ThreadPoolExecutor(tensors.options.connections) as pool:
        found = list(pool.map(_index_or_damage, places))
    if damaged := [str(one) for one in found if isinstance(one, BadDataError)]:
        raise BadDataError("\n  ".join(damaged))
    songs = sum(len(one.samples) for one in found if isinstance(one, Index))
    return f"of {counted(songs, 'songs')}, by an earlier attempt" if any(found) else None


def _read_if_sound(place: Store) -> Index | None:
    try:
        return read_index(place)
    except BadDataError as error:
        log.warning("%s", error)
        return None


def settle(tensors: Store) -> None:
    """Say that the index in a place holds by now, whatever the shards' own say: it was made after them."""
    if digests := _digests(tensors):
        _note(tensors, digests)


def is_merged(tensors: Store, of: int | None = None) -> bool:
    """Whether the index in a place is made of the shards' as they are, or there are none. A listing may lag
    behind: where `of` says how many there are, each is asked for."""
    digests = _digests(tensors, of)
    if not digests:
        return True
    try:
        return tensors.read_small(NOTE) == json_bytes(digests) and tensors.stat(INDEX_FILE) is not None
    except MissingInputError:
        return False


def _note(tensors: Store, digests: Mapping[str, str]) -> None:
    content = json_bytes(dict(digests))
    if not tensors.stat(NOTE) or tensors.read_small(NOTE) != content:
        tensors.write_bytes(NOTE, content)


def _digests(tensors: Store, of: int | None = None) -> dict[str, str]:
    """The digest of each shard's index, by the shard's name."""

    def digest(shard: Shard) -> str | None:
        try:
            return sha256(tensors.read_bytes(f"{shard.folder}/{INDEX_FILE}")).hexdigest()
        except MissingInputError:
            return None

    shards = sorted({*shards_in(tensors), *shards_of(of or 0)})
    with ThreadPoolExecutor(tensors.options.connections) as pool:
        found = zip(shards, pool.map(digest, shards), strict=True)
        return {shard.name: known for shard, known in found if known}


def merge_waiting(tensors: Store, of: int | None = None) -> None:
    """Merge the shards in a place, unless its index is made of them. Raises as `merge_shards`."""
    try:
        if is_merged(tensors, of):
            return
    except StorageError:
        raise
    except SideStepError:  # whoever checks the job's places says so, with all else that is wrong
        return
    merge_shards(tensors, of)


def merge_shards(tensors: Store, of: int | None = None, songs: str | None = None) -> Merged:
    """Make one index, and one report, of the shards in a place.

    Args:
        of: how many shards there are; None: as many as are there, whole.
        songs: digest of the dataset's songs (`data.dealing.list_digest`), where they can be listed.

    Raises MissingInputError where a shard is missing or not finished, and BadDataError where one is of
    another dataset, or there twice.
    """
    digests, there, number, parts = _whole(tensors, of, songs)
    foreign = {
        shard.name: f"is one of {shard.of}, and {number} are merged" for shard in there if shard.of != number
    }
    for name, why in foreign.items():
        log.warning("%s/%s/%s %s: not used", tensors.place, FOLDER, name, why)
    before = _index_or_damage(tensors)
    index = _joined(tensors, parts, before if isinstance(before, Index) else Index())
    if isinstance(before, BadDataError):
        log.warning(
            "%s/%s is damaged, and written anew of what the shards know; tensors of other songs there are "
            "read again before they count",
            *(tensors.place, INDEX_FILE),
        )
    _report(tensors, parts, index)
    _keep_preview(tensors, parts)
    write_checked(tensors, read_checked(*(tensors.child(part.shard.folder) for part in parts)))
    write_index(tensors, index)
    _note(tensors, digests)
    others = [tensors.child(shard.folder) for shard in there if shard.of != number]
    _clear_unfinished([(tensors, before), *((other, _index_or_damage(other)) for other in others)], index)
    songs_said = counted(len(index.samples), "songs")
    log.info("Merged %s of %s, in %s", songs_said, counted(number, "shards"), tensors.place)
    return Merged(index, number, foreign)


def check_whole(tensors: Store, of: int | None = None) -> int:
    """How many shards the next task merges as it starts. Raises as `merge_shards`, which it will call."""
    return _whole(tensors, of, None)[2]


def _whole(
    tensors: Store, of: int | None, songs: str | None
) -> tuple[dict[str, str], list[Shard], int, list[Part]]:
    """The digests of all indexes by their shards' names, the shards that are there, and the number of those
    that are one dataset, with what is known of each. Raises as `merge_shards`."""
    digests = _digests(tensors, of)
    there = [shard for name in digests if (shard := Shard.called(name))]
    numbers = [of] if of else sorted({shard.of for shard in there})
    if not numbers:
        raise MissingInputError(
            f"there are no shards in {tensors.place}\n"
            "  `sidestep preprocess` makes them, with preprocess.shards and a job for each"
        )
    whole: dict[int, list[Part]] = {}
    failures: dict[int, SideStepError] = {}
    for number in numbers:
        try:
            whole[number] = _parts(tensors, _to_look_at(number, there, is_said=of is not None), number, songs)
        except (BadDataError, MissingInputError) as error:
            failures[number] = error
    if not whole:
        raise _first(failures, [shard for shard in there if of and shard.of != of])
    if len({(parts[0].dealt.songs, parts[0].dealt.recipe) for parts in whole.values()}) > 1:
        raise BadDataError(
            f"{tensors.place} has whole sets of shards of different datasets: of {_numbers(whole)}\n"
            f"  say which one with preprocess.shards (--shards), or delete the others' folders in {FOLDER}/"
        )
    return digests, there, *next(iter(whole.items()))


def _first(failures: Mapping[int, SideStepError], others: Sequence[Shard]) -> SideStepError:
    """The one failure, with the `others` that are there in place of what was asked for; of several numbers of
    shards all of them."""
    if len(failures) == 1:
        (error,) = failures.values()
        if not others:
            return error
        counts = Counter(shard.of for shard in others)
        there = " and ".join(f"{count} of {of}" for of, count in sorted(counts.items()))
        return type(error)(
            f"{error}\n  there are other shards: {there}; preprocess.shards (--shards) says which are meant"
        )
    kind = BadDataError if any(isinstance(error, BadDataError) for error in failures.values()) else None
    return (kind or MissingInputError)(
        f"no set of shards is whole, of {_numbers(failures)}: preprocess.shards says which one is meant\n"
        + "\n".join(f"  of {number}: {error}" for number, error in failures.items())
    )


def _numbers(of: Mapping[int, object]) -> str:
    return " and ".join(map(str, of))


def _to_look_at(of: int, there: Sequence[Shard], *, is_said: bool) -> list[Shard]:
    """Which shards of a number are asked for by name. A listing may lag behind, so that is all of them where
    the spec has said the number, or most are `there`; of a stray folder's number, no more than those."""
    own = [shard for shard in there if shard.of == of]
    return shards_of(of) if is_said or 2 * len(own) >= of else own


def _parts(tensors: Store, shards: Sequence[Shard], of: int, songs: str | None) -> list[Part]:
    """All of so many, as they belong together, by the indexes of `shards`; raises as `merge_shards`."""
    with ThreadPoolExecutor(tensors.options.connections) as pool:
        found = list(pool.map(lambda shard: _index_or_damage(tensors.child(shard.folder)), shards))
    where = f"the {of} shards in {tensors.place} are not one dataset"
    if damaged := [str(one) for one in found if isinstance(one, BadDataError)]:
        raise BadDataError("\n  ".join([f"{where}: indexes are damaged", *damaged]))
    indexes = [None if isinstance(one, BadDataError) else one for one in found]
    known = {shard for shard, index in zip(shards, indexes, strict=True) if index is not None}
    missing = [shard.name for shard in shards_of(of) if shard not in known]
    parts, doubled = [], []
    for shard, index in zip(shards, indexes, strict=True):
        if index is not None:
            if index.dealt is None or index.dealt.shard != shard.name:
                doubled.append(f"{shard.name} ({index.dealt.shard if index.dealt else 'the whole dataset'})")
            else:
                parts.append(Part(shard, index.dealt, index))
    if doubled:
        raise BadDataError(f"{where}: copies of another's index: {some(doubled)}\n  {AGAIN}")
    if others := _of_others(parts, songs):
        raise BadDataError(f"{where}: {others}\n  {AGAIN}")
    if missing:
        raise MissingInputError(
            f"{where}: {out_of(len(missing), of, 'shards')} missing: {some(missing)}\n  {AGAIN}"
        )
    unfinished = [
        f"{part.shard.name} ({out_of(len(left), len(keys), 'songs')})"
        for part in parts
        for keys in (set(part.index.samples.values()),)
        if (left := keys - part.index.tensors.keys())
    ]
    if unfinished:
        raise MissingInputError(f"{where}: songs are left to preprocess of {some(unfinished)}\n  {AGAIN}")
    _check_once(parts, where)
    return parts


def _index_or_damage(place: Store) -> Index | BadDataError | None:
    try:
        return read_index(place)
    except BadDataError as error:
        return error


def _of_others(parts: Sequence[Part], songs: str | None) -> str:
    """What is said of shards that are of another dataset than the others, or than `songs`; else nothing."""
    if songs and (strange := [part.shard.name for part in parts if part.dealt.songs != songs]):
        return f"made of other songs, or other texts, than the dataset has now: {some(strange)}"
    groups: dict[Dealt, list[str]] = defaultdict(list)
    for part in parts:
        groups[replace(part.dealt, shard="", roots=())].append(part.shard.name)
    if len(groups) < 2:
        return ""
    what = "settings or models" if len({dealt.songs for dealt in groups}) == 1 else "songs or texts"
    return f"they are of different {what}: {'; '.join(some(names) for names in groups.values())}"


def _check_once(parts: Sequence[Part], where: str) -> None:
    """Raise BadDataError where two shards have the same song."""
    of: dict[str, str] = {}
    for part in parts:
        for place in part.index.samples:
            if (other := of.setdefault(place, part.shard.name)) != part.shard.name:
                raise BadDataError(f"{where}: {other} and {part.shard.name} both have {place}\n  {AGAIN}")


def _path(place: str, dealt: Dealt) -> str:
    """A song's path below its folder."""
    roots = [root for root in dealt.roots if place.startswith(f"{root}/")]
    return place.removeprefix(f"{max(roots, key=len)}/") if roots else place


def _joined(tensors: Store, parts: Sequence[Part], before: Index) -> Index:
    """The index of all, with what the one `before` knows of other songs' tensors.

    Raises MissingInputError where tensors that were written are gone.
    """
    first = parts[0].index
    index = Index(
        weights=next((part.index.weights for part in parts if part.index.weights), None),
        alternates=first.alternates,
    )
    digests: dict[str, set[str]] = defaultdict(set)
    for part in parts:
        index.files |= part.index.files
        index.samples |= part.index.samples
        index.shares |= part.index.shares
        index.stored |= part.index.stored
        for key, digest in part.index.tensors.items():
            digests[key].add(digest)
    found = find_files(tensors, map(tensors_file, digests))
    if gone := [key for key in digests if tensors_file(key) not in found]:
        names = some([tensors_file(key) for key in gone])
        raise MissingInputError(
            f"{tensors.place}: {out_of(len(gone), len(digests), 'tensors')} that shards have made do not "
            f"show: {names}\n  {AGAIN}"
        )
    made = {key: _one(tensors, key, said) for key, said in digests.items()}
    return replace(
        index,
        tensors={**before.tensors, **made},
        stored={**before.stored, **index.stored},
        weights=index.weights or before.weights,
    )


def _clear_unfinished(places: Iterable[tuple[Store, Index | BadDataError | None]], index: Index) -> None:
    """Delete what others have left beside tensors that are all made by now: shards of another number, or one
    job of all songs. `places` come with their own indexes.

    Whoever has songs of its own to make still keeps its work: somebody may be at it.
    """
    for place, theirs in places:
        if isinstance(theirs, Index) and index.tensors.keys() >= {*theirs.samples.values()}:
            clear_unfinished(place)
        elif has_unfinished(place):
            log.warning(
                "%s/unfinished is the work of others, and stays: delete it once nobody goes on with it",
                place.place,
            )


def _one(tensors: Store, key: str, said: set[str]) -> str:
    """The digest of tensors. Copies of a song may be dealt to two shards, whose machines made other bits:
    then that of the file which has stayed."""
    if len(said) == 1:
        return next(iter(said))
    found = sha256(tensors.read_bytes(tensors_file(key))).hexdigest()
    if found not in said:
        raise BadDataError(f"{tensors.place}/{tensors_file(key)} is damaged: no shard has made it\n  {AGAIN}")
    return found


def _report(tensors: Store, parts: Sequence[Part], index: Index) -> None:
    """Make one report of the shards' own, where all of them are there."""
    surveys = [survey for part in parts if (survey := read_survey(tensors.child(part.shard.folder)))]
    if len(surveys) < len(parts):
        return
    paths = {place: _path(place, part.dealt) for part in parts for place in part.index.samples}
    digests = {place: index.files[place].sha256 for place in paths if place in index.files}
    write_survey(tensors, joined(surveys, paths, digests))


def _keep_preview(tensors: Store, parts: Sequence[Part]) -> None:
    """The dataset's preview is that of the first shard's which has one."""
    if all(tensors.stat(path) for path in PREVIEWS):
        return
    for part in parts:
        own = tensors.child(part.shard.folder)
        if all(own.stat(path) for path in PREVIEWS):
            for path in PREVIEWS:
                tensors.write_bytes(path, own.read_bytes(path))
            return
