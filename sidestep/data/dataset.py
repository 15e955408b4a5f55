"""The songs of a dataset and their metadata, from a dataset JSON or from a folder of songs and text files.

No song is read here, only listings and texts: hundreds of songs in a bucket are checked in seconds.
"""

import logging
import posixpath
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256

from sidestep.data.entries import Entry, Metadata, TagPosition, read_dataset, validated
from sidestep.data.kinds import AUDIO_SUFFIXES
from sidestep.data.places import SongFinder
from sidestep.data.sidecar import read_sidecar, sidecar_of
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.storage.store import FileInfo, Store

log = logging.getLogger(__name__)

INSTRUMENTAL = "[Instrumental]"
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

    @property
    def path(self) -> str:
        """Relative to its store."""
        return self.file.path

    @property
    def place(self) -> str:
        """The whole path or URI."""
        return f"{self.store.place}/{self.path}"


def read_songs(audio_dir: Store | None, dataset_json: tuple[Store, str] | None) -> list[Song]:
    """The songs of a dataset JSON in its order; without one, all songs in `audio_dir`, sorted.

    `dataset_json` is the folder that it is in, and its name there. Raises BadDataError, or MissingInputError
    where files are missing and nothing else is wrong, with every problem of the dataset at once.
    """
    if dataset_json:
        return _songs_of_json(*dataset_json, audio_dir)
    assert audio_dir, "what a task needs is asked before"
    return _songs_of_folder(audio_dir)


def caption_from_name(path: str) -> str:
    """`album/warm_summer-night.mp3` → `warm summer night`."""
    return posixpath.splitext(posixpath.basename(path))[0].replace("_", " ").replace("-", " ")


def by_store(songs: list[Song]) -> list[tuple[Store, list[FileInfo]]]:
    """The files of songs by where they are: a dataset's may lie beside its JSON and in audio_dir."""
    stores = {song.store.place: song.store for song in songs}
    return [
        (store, [song.file for song in songs if song.store.place == place]) for place, store in stores.items()
    ]


def _songs_of_folder(folder: Store) -> list[Song]:
    """All songs below a folder, with the metadata of their sidecars.

    Hidden files are left out: macOS puts `._song.mp3` beside each song.
    """
    listed = {file.path: file for file in folder.list_files()}
    if "dataset.json" in listed:
        log.warning("%s/dataset.json is not used: name it with --dataset-json", folder.place)
    files = [
        file
        for path, file in listed.items()
        if path.lower().endswith(AUDIO_SUFFIXES) and not posixpath.basename(path).startswith(".")
    ]
    if not files:
        raise MissingInputError(
            f"there are no songs in {folder.place} and its folders\n"
            f"  looked for: *{' *'.join(AUDIO_SUFFIXES)}"
        )

    def read_text(file: FileInfo) -> dict[str, str] | BadDataError:
        sidecar = sidecar_of(file.path)
        try:
            if folder.local_root:
                folder.stat(file.path)  # refuses a link that leads out, which a listing shows as a file
            return read_sidecar(folder.read_small(sidecar), sidecar) if sidecar in listed else {}
        except BadDataError as error:
            return error

    songs: list[Song] = []
    entries: list[Entry] = []
    problems: list[str] = []
    unused: set[str] = set()
    with ThreadPoolExecutor(folder.options.connections) as pool:
        texts = list(pool.map(read_text, files))
    for file, text in zip(files, texts, strict=True):
        if isinstance(text, BadDataError):
            problems.append(str(text))
            continue
        where = sidecar_of(file.path) if text else file.path
        if entry := validated(Entry, {**text, "audio_path": file.path}, where, problems):
            unused |= text.keys() - Entry.model_fields.keys()
            entries.append(entry)
            songs.append(_song(folder, file, entry, Metadata()))
    if problems:
        raise BadDataError(_report(folder.place, problems))
    _log_unused(unused, folder.place)
    return _choose_genres(songs, entries, ratio=0)


def _log_unused(fields: set[str], place: str) -> None:
    if fields:
        log.info("Fields of %s that are not used: %s", place, ", ".join(sorted(fields)))


def _songs_of_json(folder: Store, name: str, audio_dir: Store | None) -> list[Song]:
    place = f"{folder.place}/{name}"
    dataset = read_dataset(folder.read_small(name), place)
    _log_unused(dataset.unused_fields, place)
    finder = SongFinder(folder, audio_dir)

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
            song = _song(*result, entry, dataset.metadata)
            if first.setdefault(song.place, number) != number:
                problems.append(f"{where}: the same file as sample {first[song.place]}")
            songs.append(song)
    if problems:
        raise BadDataError(_report(place, problems + missing))
    if missing:
        raise MissingInputError(_report(place, missing))
    return _choose_genres(songs, list(dataset.entries.values()), dataset.metadata.genre_ratio)


def _report(place: str, problems: list[str]) -> str:
    count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
    return "\n  ".join([f"{place}: {count} in the dataset", *problems])


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
        timesignature=entry.timesignature,
        language=entry.language or UNKNOWN_LANGUAGE,
        is_instrumental=is_instrumental,
        custom_tag=entry.custom_tag or metadata.custom_tag,
        tag_position=metadata.tag_position,
    )


def _choose_genres(songs: list[Song], entries: list[Entry], ratio: int) -> list[Song]:
    """`ratio` percent of the songs are prompted by their genre, and those that ask for it; never without one.

    Which ones is drawn by hashing their paths: the choice needs no state, does not depend on the order,
    and hardly changes when a song is added.
    """
    drawn = sorted(songs, key=lambda song: sha256(f"genre/{song.path}".encode()).digest())
    chosen = {song.place for song in drawn[: round(len(songs) * ratio / 100)]}
    return [
        replace(song, uses_genre=bool(song.genre) and (entry.prompt_override or wish) == "genre")
        for song, entry in zip(songs, entries, strict=True)
        for wish in ("genre" if song.place in chosen else "caption",)
    ]
