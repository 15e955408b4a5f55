"""A store's files as they are needed, of which the workspace holds a part: for a dataset larger than a disk.

Each file is fetched before its turn, several at a time, and stays until the place is needed for another one.
Then the one goes that is needed last, as far as the order is known: see `Uses`.
"""

import logging
import shutil
import threading
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path

from sidestep.runtime.background import Workers
from sidestep.runtime.workspace import Workspace
from sidestep.storage.store import FileInfo, Store
from sidestep.storage.transfer import Copies, check_keys

log = logging.getLogger(__name__)

RESERVE = 4 * 2**30
"""Bytes of the disk that are left to others where no bound is set: checkpoints on their way, logs; or a tenth
of the disk, where that is less."""

HORIZON = 2**17  # how many uses are looked ahead, at most
STRIDE = 4  # uses that are looked ahead at each use, until the horizon is reached: none waits for all of it
BATCH = 16  # a part of the cache, for which it is asked at once what is needed last


class Uses:
    """In which order files are used, as far as that has been looked at.

    Attributes:
        at: how many uses were made.
    """

    def __init__(self, order: Iterable[int] = (), horizon: int = HORIZON) -> None:
        self.at = 0
        self._order, self._horizon = iter(order), horizon
        self._coming: deque[int] = deque()
        self._next: dict[int, int] = {}  # file → its first use to come
        self._last: dict[int, int] = {}  # file → its last one, as far as it was looked
        self._after: dict[int, int] = {}  # use → the next one of the same file

    def look(self, count: int) -> list[int]:
        """The next uses, so many where there are so many."""
        while len(self._coming) < count and (file := next(self._order, None)) is not None:
            use = self.at + len(self._coming)
            if file in self._last:
                self._after[self._last[file]] = use
            self._last[file] = use
            self._next.setdefault(file, use)
            self._coming.append(file)
        return [self._coming[number] for number in range(min(count, len(self._coming)))]

    def next_of(self, file: int) -> float:
        """The number of a file's first use to come; infinity where none is known."""
        return self._next.get(file, inf)

    def made(self, file: int) -> None:
        """A file was used. One out of the order changes nothing."""
        if self.look(1) != [file]:
            return
        self._coming.popleft()
        after = self._after.pop(self.at, None)
        if after is None:
            del self._next[file], self._last[file]
        else:
            self._next[file] = after
        self.at += 1
        self.look(min(len(self._coming) + STRIDE, self._horizon))


class Cache:
    """Files of a store, by their numbers. Several threads may use it, and several processes one workspace.

    What is fetched is what `Copies.fetch` has found to be the listed version. Whether its content is what it
    should be, is asked by who uses it.
    """

    def __init__(
        self, store: Store, workspace: Workspace, files: Sequence[FileInfo], share: tuple[int, int] = (0, 1)
    ) -> None:
        """
        Args:
            share: which process this is of those that use the workspace together, and how many they are: the
                bound is shared by them, and so is what is there already.
        """
        check_keys(store, files)
        self.copies = Copies(store, workspace)
        self._files = files
        bound = store.options.cache_gb
        self._limit = bound * 1e9 / share[1] if bound else inf
        largest = max((file.size for file in files), default=0)
        if bound and largest > self._limit:
            log.warning(
                "storage.cache_gb is %g, but one file has %.3g GB: the cache will take %.3g GB",
                *(bound, largest / 1e9, share[1] * largest / 1e9),
            )
        self._reserve = 0 if bound else min(RESERVE, shutil.disk_usage(self.copies.folder).total // 10)
        self.at_a_time = store.options.connections
        self._workers = Workers("fetching", self.at_a_time)
        weakref.finalize(self, self._workers.close)
        self._lock = threading.RLock()
        self._moves: dict[int, Future[None]] = {}
        self._in_use: Counter[int] = Counter()
        self._uses = Uses()
        self._last_needed: list[int] = []
        self._held = {  # by this process; what another one holds may be gone at any time
            number for number in range(share[0], len(files), share[1]) if self.is_here(number)
        }
        self._size = sum(files[number].size for number in self._held)
        self.fetched = 0  # files, in all

    def is_here(self, number: int) -> bool:
        """Whether there is a copy of this size."""
        path = self.copies.path(self._files[number])
        with suppress(OSError):
            return (
                path.is_file() and not path.is_symlink() and path.stat().st_size == self._files[number].size
            )
        return False

    @contextmanager
    def holding(self, number: int, *, anew: bool = False) -> Iterator[Path]:
        """Inside the block, a file is here; `anew`: fetched once more, as its copy was bad.

        Raises MachineError where the disk is too small for it, and what `Copies.fetch` does.
        """
        with self._lock:
            self._in_use[number] += 1
        try:
            self._bring(number, anew)
            yield self.copies.path(self._files[number])
        finally:
            with self._lock:
                self._in_use[number] -= 1
                self._in_use += Counter()  # drops those at 0
                self._uses.made(number)
                self._advance()

    @contextmanager
    def ahead(self, order: Iterable[int]) -> Iterator[None]:
        """Inside the block, files are fetched before they are used, which is in this order."""
        with self._lock:
            self._uses = Uses(order, min(max(len(self._files), self._ahead), HORIZON))
            self._advance()
        try:
            yield
        finally:
            with self._lock:
                self._uses = Uses()

    def drop(self, number: int) -> None:
        """Delete the copy of a file."""
        with self._lock:
            if number in self._held:
                self._held.remove(number)
                self._size -= self._files[number].size
        with suppress(OSError):
            self.copies.path(self._files[number]).unlink()

    @property
    def _ahead(self) -> int:
        return 2 * self.at_a_time

    def _bring(self, number: int, anew: bool) -> None:
        with self._lock:
            move = self._moves.get(number)
            if move is None:
                if not anew and self.is_here(number):
                    return
                size = self._files[number].size
                if not self._make_room(size, self._uses.at - 1):
                    self.copies.check_space(size)
                move = self._begin(number)
        move.result()

    def _advance(self) -> None:
        """Begin what is to be fetched next, while there is room for it beside what is needed before."""
        for use, number in enumerate(self._uses.look(self._ahead), self._uses.at):
            if len(self._moves) >= self.at_a_time:
                return
            if number in self._moves or self.is_here(number):
                continue
            if not self._make_room(self._files[number].size, use):
                return
            self._begin(number)

    def _begin(self, number: int) -> Future[None]:
        file = self._files[number]
        if number not in self._held:
            self._held.add(number)
            self._size += file.size

        def fetch() -> None:
            try:
                self.copies.fetch(file)
            except BaseException:
                self.drop(number)
                raise
            finally:
                with self._lock:
                    del self._moves[number]
                    self.fetched += 1

        move = self._moves[number] = self._workers.submit(fetch)
        return move

    def _make_room(self, size: int, use: int) -> bool:
        """Delete what is needed after this use, until there is room; whether there is."""

        def may_go(number: int) -> bool:
            is_idle = number in self._held and number not in self._moves and not self._in_use[number]
            return is_idle and self._uses.next_of(number) > use

        while not self._has_room(size):
            self._last_needed = [number for number in self._last_needed if may_go(number)]
            if not self._last_needed:
                free = sorted(filter(may_go, self._held), key=self._uses.next_of)
                self._last_needed = free[-max(len(free) // BATCH, 1) :]
            if not self._last_needed:
                return False
            self.drop(self._last_needed.pop())
        return True

    def _has_room(self, size: int) -> bool:
        coming = sum(self._files[number].size for number in self._moves)
        free = shutil.disk_usage(self.copies.folder).free - coming
        return self._size + size <= self._limit and size + self._reserve <= free
