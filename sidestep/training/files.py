"""A dataset's files as they are read: where they are, or, from a place that is not on this machine, out of
a `storage.cache.Cache`.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from sidestep.runtime.diskerrors import local_errors
from sidestep.runtime.errors import MachineError, MissingInputError
from sidestep.runtime.ranks import share_in
from sidestep.runtime.workspace import Workspace
from sidestep.storage.cache import Cache
from sidestep.storage.store import FileInfo, Store
from sidestep.storage.transfer import copy_of, pull

READERS = 4  # threads that check files, each with one song in memory

Seen = tuple[int, int]  # size and time of a file on this machine


@dataclass(frozen=True)
class Content:
    """What a file on this machine holds, and its size and time when it was read."""

    data: bytes
    seen: Seen

    @classmethod
    def of(cls, path: Path) -> "Content":
        with local_errors(path), path.open("rb") as file:
            status = os.fstat(file.fileno())
            return cls(file.read(), (status.st_size, status.st_mtime_ns))

    def sha256(self) -> str:
        return sha256(self.data).hexdigest()


class Files:
    """The files of a dataset, by their numbers, as they are read on this machine.

    Attributes:
        paths: where each is, or its copy while it is here.
        cache: brings the copies; None: the files are on this machine.
    """

    def __init__(self, store: Store, workspace: Workspace, files: Sequence[FileInfo]) -> None:
        self._files = files
        self.cache: Cache | None = None
        if store.local_root is not None:
            folder = pull(store, files, workspace, "Pulling tensors")
            self.paths = [copy_of(store, folder, file.path) for file in files]
        else:
            self.cache = Cache(store, workspace, files, share_in(os.environ))
            self.paths = [self.cache.copies.path(file) for file in files]

    def read(self, number: int, is_sound: Callable[[Content], bool]) -> Content:
        """What is in a file. A copy that is not sound is fetched once more, and does not stay if it is no
        other then."""
        if self.cache is None:
            return Content.of(self.paths[number])
        content = None
        for anew in (False, True):
            with self.cache.holding(number, anew=anew) as path:
                try:
                    content = Content.of(path)
                except MissingInputError:  # another process has made room
                    continue
            if is_sound(content):
                return content
        self.cache.drop(number)
        if content is None:
            raise MachineError(f"{self.paths[number]} was deleted, twice, while it was read")
        return content

    def is_as_pulled(self, number: int) -> bool:
        """Whether the copy of a file of which no digest is known is what an earlier pull has noted."""
        return self.cache is None or self.cache.copies.has(self._files[number])

    def forget(self, number: int) -> None:
        """Let a copy be fetched anew."""
        if self.cache is not None:
            self.cache.drop(number)

    @property
    def at_a_time(self) -> int:
        """How many to read at a time: those that are fetched wait for a store, and not for a processor."""
        return min(READERS, os.cpu_count() or 1) if self.cache is None else self.cache.at_a_time
