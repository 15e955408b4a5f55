"""The songs of a run as the loop sees them: a sequence of samples, read from disk when they are needed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from sidestep.data.tensors import Sample, list_samples, read_sample
from sidestep.runtime.errors import MissingInputError
from sidestep.runtime.workspace import Workspace
from sidestep.storage.store import FileInfo, Store
from sidestep.storage.transfer import pull


class Samples(Sequence[Sample]):
    """Preprocessed songs in the order of their names. Reading one costs some megabytes for a moment."""

    def __init__(self, place: str, files: Sequence[Path]) -> None:
        self.place = place
        self._files = files

    @classmethod
    def pull(cls, store: Store, workspace: Workspace) -> "Samples":
        """Bring a dataset's tensors to this machine. Raises MissingInputError where there are none."""
        files = dataset_files(store)
        folder = pull(store, files, workspace, title="Pulling tensors")
        return cls(store.place, [folder / file.path for file in files])

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Samples": ...
    def __getitem__(self, index: int | slice) -> "Sample | Samples":
        if isinstance(index, slice):
            return Samples(self.place, self._files[index])
        return read_sample(self._files[index])


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
    """Names and sizes of the tensor files in one number: ours are named by their content."""
    lines = sorted(f"{file.path} {file.size}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
