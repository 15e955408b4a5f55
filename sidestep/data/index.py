"""index.json beside the tensors: which of them are the dataset, and what need not be read again.

    {
      "files":   {"s3://studio/songs/a.mp3": {"size": 4711, "version": "<ETag or mtime>", "sha256": "…",
                                              "probed": 240.0}, …},
      "samples": {"s3://studio/songs/a.mp3": "<key>", …},
      "tensors": {"<key>": "<sha256>", …},
      "stored": {"<sha256>": {"size": 6163211, "version": "<ETag>"}, …},
      "alternates": ["trigger"],
      "shares": {"s3://studio/songs/a.mp3": {"repeats": 3, "weight": 1.0}, …},
      "weights": {"variant": "acestep-v15-base", "digests": {"vae": "<sha256>", …}, "headers": {…},
                  "samples": {…}}
    }

`files` holds songs and the model's files: one whose size and version still hold needs no reading to know
its content, and a song that was found sound over `probed` seconds is not decoded again to see that.
`samples` is the dataset as last preprocessed, each song with the key of its tensors, which are in
`<key>.pt`. It is written before the tensors are made: a dataset that is not finished shows as such.
`tensors` has the digest of each of these files as it was written: who reads one compares. `stored` has, by
that digest, what a remote place said of the file when it held that content: one that is listed so still needs
no fetching to be known. (On a disk, a bit that flips changes neither size nor time.) `alternates` are the
prompts that were encoded beside the songs' own, where there are some; `shares` are the songs of which the
dataset says that they are more or less of an epoch than others. `weights` says which encoders made the
tensors, see `data.weights`. In the index of a shard, `dealt` says of what it is a part, see `data.shards`.
"""

import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated

from pydantic import BaseModel, Field

from sidestep.config.training import LEAST_WEIGHT, MOST_REPEATS, MOST_WEIGHT, SHARES, Alternate
from sidestep.data.shards import INDEX_FILE, Dealt
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadDataError, BadSpecError
from sidestep.runtime.parsing import SONGS_JSON_AT_MOST, Count, parse_as
from sidestep.storage.store import FileInfo, Store

log = logging.getLogger(__name__)

TENSORS_SUFFIX = ".pt"


@dataclass(frozen=True)
class FileRecord:
    """The content of a file, as it was when it had this size and version."""

    size: Count
    version: str
    sha256: str
    probed: float | None = None  # a song: it was decoded and found sound, with this max_duration


@dataclass(frozen=True)
class Stored:
    """What a remote place says of a file without sending it."""

    size: Count
    version: str

    @classmethod
    def of(cls, file: FileInfo) -> "Stored":
        return cls(file.size, file.version)


@dataclass(frozen=True)
class Share:
    """How much of a run a song is: how often it comes in an epoch, and its weight in a step's loss."""

    repeats: Annotated[int, Field(ge=1, le=MOST_REPEATS)] = 1
    weight: Annotated[float, Field(ge=LEAST_WEIGHT, le=MOST_WEIGHT)] = 1.0


ONE = Share()


@dataclass(frozen=True)
class MadeWith:
    """The encoders that tensors were made with: digests of each one's content, and of names and shapes, by
    what it is: vae, text_encoder, condition_encoder."""

    variant: str  # the folder's name
    digests: dict[str, str]
    headers: dict[str, str]
    samples: dict[str, str] = field(default_factory=dict)  # of some of its bytes; older versions took none


@dataclass
class Index:
    """The content of index.json; `files` and `samples` are keyed by a file's whole path or URI."""

    files: dict[str, FileRecord] = field(default_factory=dict)
    samples: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)  # key → sha256 of its file, as it was written
    stored: dict[str, Stored] = field(default_factory=dict)  # by that sha256; older versions kept none
    weights: MadeWith | None = None  # older versions did not say
    alternates: list[str] = field(default_factory=list)
    shares: dict[str, Share] = field(default_factory=dict)  # by a song's place, as `samples` are
    dealt: Dealt | None = None  # of a shard

    def sha256(self, store: Store, file: FileInfo) -> str | None:
        """The digest of a file's content; None where it is not known, or the file has changed since."""
        record = self._record(store, file)
        return record.sha256 if record else None

    def is_sound(self, store: Store, file: FileInfo, max_duration: float) -> bool:
        """Whether a song was found sound, as it is now and over the first `max_duration` seconds."""
        record = self._record(store, file)
        return record is not None and record.probed == max_duration

    def is_as_stored(self, key: str, file: FileInfo) -> bool:
        """Whether a remote place says of tensors what it said when they were as the index has them."""
        return (digest := self.tensors.get(key)) is not None and self.stored.get(digest) == Stored.of(file)

    def remember(self, store: Store, file: FileInfo, sha256: str, probed: float | None = None) -> None:
        self.files[place_of(store, file)] = FileRecord(file.size, file.version, sha256, probed)

    def _record(self, store: Store, file: FileInfo) -> FileRecord | None:
        record = self.files.get(place_of(store, file))
        return record if record and (record.size, record.version) == (file.size, file.version) else None


class _Content(BaseModel):
    """What index.json holds; those of older versions have no digests."""

    files: dict[str, FileRecord]
    samples: dict[str, str]
    tensors: dict[str, str] = {}
    stored: dict[str, Stored] = {}
    weights: MadeWith | None = None
    alternates: list[str] = []
    shares: dict[str, Share] = {}
    dealt: Dealt | None = None


def place_of(store: Store, file: FileInfo) -> str:
    return f"{store.place}/{file.path}"


def tensors_file(key: str) -> str:
    return f"{key}{TENSORS_SUFFIX}"


def read_index(store: Store) -> Index | None:
    """The index of a place of tensors; None where there is none. Raises BadDataError for a damaged one."""
    if not store.stat(INDEX_FILE):
        store.refuse_folder(INDEX_FILE)
        return None
    try:
        data = store.read_small(INDEX_FILE, SONGS_JSON_AT_MOST)
        read = parse_as(_Content, data, f"{store.place}/{INDEX_FILE}", at_most=SONGS_JSON_AT_MOST)
    except BadDataError as error:
        raise BadDataError(
            f"{error}\n  delete it and preprocess again: tensors that exist are not made again"
        ) from error
    return Index(**{name: getattr(read, name) for name in _Content.model_fields})


def write_index(store: Store, index: Index) -> None:
    """Publish an index, if it says anything new."""
    files = {place: vars(record) for place, record in index.files.items()}
    needed = {digest for digest in index.tensors.values() if digest in index.stored}
    is_remote = store.local_root is None
    stored = {"stored": {d: vars(index.stored[d]) for d in needed}} if is_remote and needed else {}
    weights = {"weights": asdict(index.weights)} if index.weights else {}
    alternates = {"alternates": index.alternates} if index.alternates else {}
    shares = {"shares": {p: asdict(share) for p, share in index.shares.items()}} if index.shares else {}
    dealt = {"dealt": asdict(index.dealt)} if index.dealt else {}
    content = json_bytes(
        {"files": files, "samples": index.samples, "tensors": index.tensors}
        | {**stored, **alternates, **shares, **weights, **dealt}
    )
    if not store.stat(INDEX_FILE) or store.read_bytes(INDEX_FILE) != content:
        store.write_bytes(INDEX_FILE, content)


def record_tensors(store: Store, index: Index, made: Mapping[str, str]) -> None:
    """Add the digests of finished tensors, and what `index` knows of their files, to what the index says by
    now, or else to `index`.

    Another attempt may have come meanwhile, with other songs: what it wrote stays.
    """
    newest = read_index(store) or index
    write_index(
        store,
        replace(newest, tensors={**newest.tensors, **made}, stored={**newest.stored, **index.stored}),
    )


def record_songs(store: Store, index: Index, probed: Iterable[str], left_out: Collection[str]) -> None:
    """Say of songs, by place, that they were found sound, or that they are not of the dataset after all.

    As `record_tensors` does, this adds to what the index says by now.
    """
    newest = read_index(store) or index
    files = {place: index.files[place] for place in probed}
    samples = {place: key for place, key in newest.samples.items() if place not in left_out}
    shares = {place: share for place, share in newest.shares.items() if place not in left_out}
    write_index(store, replace(newest, files=newest.files | files, samples=samples, shares=shares))


def write_weights(store: Store, index: Index) -> None:
    """Add the weights that `index` names to what the index says by now, or else write `index`."""
    write_index(store, replace(read_index(store) or index, weights=index.weights))


def find_files(store: Store, paths: Iterable[str]) -> dict[str, FileInfo]:
    """Those of `paths` that are in a place.

    A listing may lag behind writes by seconds, so what it lacks is asked for by itself.
    """
    return and_asked_for(store, paths, {file.path: file for file in store.list_files()})


def and_asked_for(store: Store, paths: Iterable[str], listed: Mapping[str, FileInfo]) -> dict[str, FileInfo]:
    """The same by a listing that was made before."""
    paths = list(paths)
    lacking = [path for path in paths if path not in listed]
    with ThreadPoolExecutor(store.options.connections) as pool:
        asked = {file.path: file for file in pool.map(store.stat, lacking) if file}
    return {path: file for path in paths if (file := listed.get(path) or asked.get(path))}


def without_alternates(lacking: Sequence[Alternate], said: str) -> BadSpecError:
    """What to do about tensors of which it is `said` that prompts are `lacking`."""
    fields = " and ".join(f"train.{SHARES[alternate]}" for alternate in lacking)
    return BadSpecError(
        f"{fields} needs songs encoded with another prompt ({', '.join(lacking)}), and {said}\n"
        f"  run `sidestep preprocess --alternates {' '.join(lacking)}` with the settings that made them: it "
        f"encodes them anew; or set {fields} to 0"
    )


def content_digest(digests: Mapping[str, str]) -> str:
    """A digest of what is in the tensor files, given the sha256 of each."""
    lines = sorted(f"{path} {digest}" for path, digest in digests.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def dataset_digest(files: Sequence[FileInfo]) -> str:
    """A digest of the names and sizes of the tensor files: files made here are named by their content."""
    lines = sorted(f"{file.path} {file.size}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
