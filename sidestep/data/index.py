"""index.json beside the tensors: which of them are the dataset, and what need not be read again.

    {
      "files":   {"s3://studio/songs/a.mp3": {"size": 4711, "version": "<ETag or mtime>", "sha256": "…",
                                              "probed": 240.0}, …},
      "samples": {"s3://studio/songs/a.mp3": "<key>", …}
    }

`files` holds songs and the model's files: one whose size and version still hold needs no reading to know
its content, and a song that was found sound over `probed` seconds is not decoded again to see that.
`samples` is the dataset as last preprocessed, each song with the key of its tensors, which are in
`<key>.pt`. It is written before the tensors are made: a dataset that is not finished shows as such.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.storage.store import FileInfo, Store

INDEX_FILE = "index.json"
TENSORS_SUFFIX = ".pt"


@dataclass(frozen=True)
class FileRecord:
    """The content of a file, as it was when it had this size and version."""

    size: int
    version: str
    sha256: str
    probed: float | None = None  # a song: it was decoded and found sound, with this max_duration


@dataclass
class Index:
    """The content of index.json; both are keyed by a file's whole path or URI."""

    files: dict[str, FileRecord] = field(default_factory=dict)
    samples: dict[str, str] = field(default_factory=dict)

    def sha256(self, store: Store, file: FileInfo) -> str | None:
        """The digest of a file's content; None where it is not known, or the file has changed since."""
        record = self._record(store, file)
        return record.sha256 if record else None

    def is_sound(self, store: Store, file: FileInfo, max_duration: float) -> bool:
        """Whether a song was found sound, as it is now and over the first `max_duration` seconds."""
        record = self._record(store, file)
        return record is not None and record.probed == max_duration

    def remember(self, store: Store, file: FileInfo, sha256: str, probed: float | None = None) -> None:
        self.files[place_of(store, file)] = FileRecord(file.size, file.version, sha256, probed)

    def _record(self, store: Store, file: FileInfo) -> FileRecord | None:
        record = self.files.get(place_of(store, file))
        return record if record and (record.size, record.version) == (file.size, file.version) else None


def place_of(store: Store, file: FileInfo) -> str:
    return f"{store.place}/{file.path}"


def tensors_file(key: str) -> str:
    return f"{key}{TENSORS_SUFFIX}"


def read_index(store: Store) -> Index | None:
    """The index of a place of tensors; None where there is none. Raises BadDataError for a damaged one."""
    if not store.stat(INDEX_FILE):
        return None
    try:
        data = json.loads(store.read_bytes(INDEX_FILE))
        samples = data["samples"]
        if not all(isinstance(key, str) for key in samples.values()):
            raise TypeError("a key is not text")
        return Index({place: FileRecord(**record) for place, record in data["files"].items()}, samples)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadDataError(
            f"{store.place}/{INDEX_FILE} is damaged: {error}\n"
            "  delete it and preprocess again: tensors that are there already are not made again"
        ) from error


def write_index(store: Store, index: Index) -> None:
    """Publish an index, if it says anything new."""
    files = {place: asdict(record) for place, record in index.files.items()}
    content = json_bytes({"files": files, "samples": index.samples})
    if not store.stat(INDEX_FILE) or store.read_bytes(INDEX_FILE) != content:
        store.write_bytes(INDEX_FILE, content)


def list_samples(store: Store) -> list[FileInfo]:
    """The tensor files of the dataset in a place, sorted: those that its index names, or else all `*.pt`.

    So tensors of songs or captions that have been taken out of the dataset are not trained on. Raises
    MissingInputError where the index names tensors that are not there: preprocessing has not finished.
    """
    files = {
        file.path: file
        for file in store.list_files()
        if file.path.endswith(TENSORS_SUFFIX) and "/" not in file.path and not file.path.startswith(".")
    }
    index = read_index(store)
    if index is None:
        return list(files.values())
    named = sorted({tensors_file(key) for key in index.samples.values()})
    if missing := [path for path in named if path not in files]:
        raise MissingInputError(
            f"{store.place} is not complete: of {len(named)} songs, {len(missing)} are not preprocessed\n"
            "  run `sidestep preprocess` with the same settings again: it makes what is missing"
        )
    return [files[path] for path in named]


def dataset_files(store: Store) -> list[FileInfo]:
    """The tensor files of a dataset. Raises MissingInputError where there are none."""
    files = list_samples(store)
    if not files:
        raise MissingInputError(
            f"no preprocessed songs (.pt) in {store.place}\n"
            "  make them with `sidestep preprocess`, or set dataset_dir to where they are"
        )
    return files


def dataset_digest(files: Sequence[FileInfo]) -> str:
    """A digest of the names and sizes of the tensor files: files made here are named by their content."""
    lines = sorted(f"{file.path} {file.size}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
