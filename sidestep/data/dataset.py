"""The songs of a dataset and their metadata, from a dataset JSON or from a folder of songs and text files.

No song is read here, only listings and texts: hundreds of songs in a bucket are checked in seconds.
"""

import logging
import posixpath
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256

from sidestep.config.training import Alternate
from sidestep.data.entries import Entry, Metadata, TagPosition, read_dataset, validated
from sidestep.data.index import ONE, Share
from sidestep.data.listing import list_songs
from sidestep.data.places import SongFinder
from sidestep.data.sidecar import BareText
from sidestep.data.texts import read_texts
from sidestep.data.vocabulary import language_code, time_signature
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.words import counted, out_of, shown, some
from sidestep.storage.store import FileInfo, Store

log = logging.getLogger(__name__)

INSTRUMENTAL = "[Instrumental]"
_ESCAPE = "surrogateescape"  # of names that are no UTF-8

UNKNOWN_LANGUAGE = "unknown"  # as at inference


@dataclass(frozen=True)
class Song:
    """A song: its file, and the metadata that its prompts are made of."""

    store: Store
    file: FileInfo
    caption: str
    lyrics: str = INSTRUMENTAL
    genre: str = ""
    bpm: int | None = None
    keyscale: str = ""
    timesignature: str = ""
    language: str = UNKNOWN_LANGUAGE
    is_instrumental: bool = True
    custom_tag: str = ""
    tag_position: TagPosition = "prepend"
    uses_genre: bool = False
    share: Share = ONE  # of a run
    may_use_genre: bool = False  # in some samples: it has one, and no prompt_override
    entry: str = ""  # its path as a dataset JSON has it

    @property
    def path(self) -> str:
        """Relative to its store."""
        return self.file.path

    @property
    def place(self) -> str:
        """The whole path or URI."""
        return f"{self.store.place}/{self.path}"


def read_songs(
    audio_dir: Store | None,
    dataset_json: tuple[Store, str] | None,
    *,
    bare_text: BareText | None = None,
    own: Collection[str] = (),
    alternates: Collection[Alternate] = (),
) -> list[Song]:
    """The songs of a dataset JSON in its order; without one, all songs in `audio_dir`, sorted.

    `dataset_json` is the folder that it is in, and its name there; `bare_text` is what a text beside a song
    is that names no fields; `own` are the places of the job's results, which are no songs; `alternates` are
    the prompts that are wanted beside each song's own.

    Raises BadDataError, or MissingInputError where files are missing and nothing else is wrong, with every
    problem of the dataset at once.
    """
    if dataset_json:
        songs = _songs_of_json(*dataset_json, audio_dir, own, "genre" in alternates)
    else:
        assert audio_dir, "what a task needs is asked before"
        songs = _songs_of_folder(audio_dir, bare_text, own)
    _check_alternates(songs, alternates)
    return songs


def caption_from_name(path: str) -> str:
    """`album/warm_summer-night.mp3` → `warm summer night`."""
    return posixpath.splitext(posixpath.basename(path))[0].replace("_", " ").replace("-", " ")


def by_store(songs: list[Song]) -> list[tuple[Store, list[FileInfo]]]:
    """The files of songs by where they are: a dataset's may lie beside its JSON and in audio_dir."""
    stores = {song.store.place: song.store for song in songs}
    return [
        (store, [song.file for song in songs if song.store.place == place]) for place, store in stores.items()
    ]


def _songs_of_folder(folder: Store, bare_text: BareText | None, own: Collection[str]) -> list[Song]:
    """All songs below a folder, with the metadata of the texts beside them."""
    listing = list_songs(folder, own)
    if "dataset.json" in listing.texts:
        log.warning("%s/dataset.json is not used: name it with --dataset-json", folder.place)
    texts = read_texts(folder, listing, bare_text)
    problems = texts.problems
    songs: list[Song] = []
    entries: list[Entry] = []
    for file in listing.songs:
        try:
            if folder.local_root:
                folder.stat(file.path)  # refuses a link that leads out, which a listing shows as a file
        except BadDataError as error:
            problems.append(str(error))
            continue
        fields = {**texts.fields.get(file.path, {}), "audio_path": "as listed"}
        if entry := validated(Entry, fields, shown(texts.sources.get(file.path, file.path)), problems):
            entries.append(entry)
            songs.append(_song(folder, file, entry, Metadata()))
    if problems:
        raise BadDataError(_report(folder.place, problems))
    _log_unused(texts.unused, folder.place)
    _log_words(songs)
    return _choose_genres(songs, entries, ratio=0)


def _log_unused(fields: set[str], place: str) -> None:
    if fields:
        log.info("Fields of %s that are not used: %s", place, some(sorted(fields)))


def _check_alternates(songs: Sequence[Song], wanted: Collection[Alternate]) -> None:
    """Raise BadDataError where songs have nothing that a wanted prompt could be made of."""
    if "trigger" in wanted and (without := [song.path for song in songs if not song.custom_tag]):
        raise BadDataError(
            f"{out_of(len(without), len(songs), 'songs')} have no trigger word (custom_tag), which is to be "
            f"their caption in some samples: {some(without)}\n"
            "  give all songs one in the dataset JSON's metadata, or each its own; or leave out "
            "train.caption_dropout, and trigger in preprocess.alternates"
        )
    if "genre" in wanted and songs:
        without = [song.path for song in songs if not song.may_use_genre]
        if len(without) == len(songs):
            raise BadDataError(
                "no song has a genre that could be its caption in some samples\n"
                "  give songs a genre, without a prompt_override; or leave out train.genre_share, and genre "
                "in preprocess.alternates"
            )
        if without:
            log.warning(
                "%s have no genre, or a prompt_override, and keep the one prompt: %s",
                *(out_of(len(without), len(songs), "songs"), some(without)),
            )


def _songs_of_json(
    folder: Store, name: str, audio_dir: Store | None, own: Collection[str], genre_by_sample: bool
) -> list[Song]:
    place = f"{folder.place}/{name}"
    dataset = read_dataset(folder.read_small(name), place)
    _log_unused(dataset.unused_fields, place)
    finder = SongFinder(folder, audio_dir, own)

    def find(entry: Entry) -> tuple[Store, FileInfo] | BadDataError | MissingInputError:
        try:
            return finder.find(entry.audio_path)
        except (BadDataError, MissingInputError) as error:
            return error

    songs: list[Song] = []
    problems, missing = list(dataset.problems), []
    first: dict[str, int] = {}
    with ThreadPoolExecutor(folder.options.connections) as pool:
        found = list(pool.map(find, dataset.entries.values()))
    for (number, entry), result in zip(dataset.entries.items(), found, strict=True):
        where = f"sample {number}, audio_path {entry.audio_path!r}"
        if isinstance(result, MissingInputError):
            missing.append(f"{where}: {result}")
        elif isinstance(result, BadDataError):
            problems.append(f"{where}: {result}")
        else:
            song = replace(_song(*result, entry, dataset.metadata), entry=entry.audio_path)
            if first.setdefault(song.place, number) != number:
                problems.append(f"{where}: the same file as sample {first[song.place]}")
            songs.append(song)
    if problems:
        raise BadDataError(_report(place, problems + missing))
    if missing:
        raise MissingInputError(_report(place, missing))
    _log_words(songs)
    ratio = dataset.metadata.genre_ratio
    if ratio and genre_by_sample:
        log.warning(
            "genre_ratio of %s is not used: genres are encoded beside the captions, and train.genre_share "
            "says how many samples have them",
            place,
        )
        ratio = 0
    return _choose_genres(songs, list(dataset.entries.values()), ratio)


def _log_words(songs: Sequence[Song]) -> None:
    """Name the songs whose words inference does not know: the model has not learned them."""
    for what, wanted, odd in (
        ("time signatures", "2, 3, 4 and 6", {s.place: s.timesignature for s in songs if _odd_signature(s)}),
        ("languages", "codes such as en, ja, pt", {s.place: s.language for s in songs if _odd_language(s)}),
    ):
        if odd:
            said = some([f"{posixpath.basename(place)} ({words})" for place, words in odd.items()])
            log.warning(
                "%s that inference does not know are kept as written (it knows %s): %s", what, wanted, said
            )


def _odd_signature(song: Song) -> bool:
    return bool(song.timesignature) and time_signature(song.timesignature) is None


def _odd_language(song: Song) -> bool:
    return language_code(song.language) is None


def _report(place: str, problems: list[str]) -> str:
    return "\n  ".join([f"{place}: {counted(len(problems), 'problems')} in the dataset", *problems])


def _song(store: Store, file: FileInfo, entry: Entry, metadata: Metadata) -> Song:
    """An entry's song. What it leaves open is taken from the metadata, or is as for a song in a folder."""
    said = metadata.all_instrumental if entry.is_instrumental is None else entry.is_instrumental
    is_instrumental = said or not entry.lyrics
    return Song(
        store,
        file,
        caption=entry.caption or caption_from_name(file.path),
        lyrics=INSTRUMENTAL if is_instrumental else entry.lyrics,
        genre=entry.genre,
        bpm=entry.bpm,
        keyscale=entry.keyscale,
        timesignature=time_signature(entry.timesignature) or entry.timesignature,
        language=language_code(entry.language) or entry.language or UNKNOWN_LANGUAGE,
        is_instrumental=is_instrumental,
        custom_tag=entry.custom_tag or metadata.custom_tag,
        tag_position=metadata.tag_position,
        share=Share(entry.repeats, entry.weight),
    )


def _choose_genres(songs: list[Song], entries: list[Entry], ratio: int) -> list[Song]:
    """`ratio` percent of the songs are prompted by their genre, and those that ask for it; never without one.

    Which ones is drawn by hashing their paths: the choice needs no state, does not depend on the order,
    and hardly changes when a song is added.
    """
    drawn = sorted(songs, key=lambda song: sha256(f"genre/{song.path}".encode(errors=_ESCAPE)).digest())
    chosen = {song.place for song in drawn[: round(len(songs) * ratio / 100)]}
    return [
        replace(
            song,
            uses_genre=bool(song.genre) and (entry.prompt_override or wish) == "genre",
            may_use_genre=bool(song.genre) and entry.prompt_override is None,
        )
        for song, entry in zip(songs, entries, strict=True)
        for wish in ("genre" if song.place in chosen else "caption",)
    ]
