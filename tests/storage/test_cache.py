"""A part of a store's files is on this machine: what is needed next, and never more than was said."""

import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import MachineError, MissingInputError
from sidestep.runtime.workspace import Workspace
from sidestep.storage.cache import HORIZON, Cache, Uses
from sidestep.storage.local import LocalStore
from sidestep.storage.store import ProgressCallback, no_progress
from tests.facts import tells

FILES, SIZE = 12, 100


class Far(LocalStore):
    """A folder that is not on this machine."""

    def __init__(self, root: Path, **options: Any) -> None:
        super().__init__(root, StorageSpec(**options))
        self.local_root = None
        self.fetched: list[str] = []
        self.under_way = self.most_at_a_time = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.three_came = threading.Event()

    def download(self, path: str, target: Path, progress: ProgressCallback = no_progress) -> None:
        self.under_way += 1
        self.most_at_a_time = max(self.under_way, self.most_at_a_time)
        if self.under_way == 3:
            self.three_came.set()
        try:
            assert self.may_go_on.wait(10)
            self.fetched.append(path)
            super().download(path, target, progress)
        finally:
            self.under_way -= 1


def far(tmp_path: Path, **options: Any) -> Far:
    folder = tmp_path / "far"
    folder.mkdir(exist_ok=True)
    for number in range(FILES):
        (folder / f"{number:02}").write_bytes(bytes([number]) * SIZE)
    return Far(folder, **options)


def cache_of(store: Far, tmp_path: Path, share: tuple[int, int] = (0, 1)) -> Cache:
    return Cache(store, Workspace(tmp_path / "work"), store.list_files(), share)


def read(cache: Cache, number: int) -> None:
    with cache.holding(number) as path:
        assert path.read_bytes() == bytes([number]) * SIZE


def orders(epochs: int) -> Iterator[int]:
    for epoch in range(epochs):
        yield from random.Random(epoch).sample(range(FILES), FILES)


def fewest(order: list[int], room: int) -> int:
    """How often files are fetched where the one goes that is needed last: nobody can do with less."""
    held: set[int] = set()
    count = 0
    for at, number in enumerate(order):
        if number not in held:
            count += 1
            if len(held) == room:
                coming = order[at:]
                held.remove(max(held, key=lambda one: coming.index(one) if one in coming else inf))
            held.add(number)
    return count


def test_what_is_needed_last_goes_and_the_bound_holds(tmp_path: Path) -> None:
    """One at a time, so that what is fetched when is known."""
    room, order = 5, list(orders(6))
    store = far(tmp_path, cache_gb=(room * SIZE + 1) / 1e9, connections=1)
    cache = cache_of(store, tmp_path)
    with cache.ahead(order):
        for number in order:
            read(cache, number)
            assert len(list(cache.copies.folder.iterdir())) <= room + 1  # and one that is being written
    assert fewest(order, room) <= len(store.fetched) <= fewest(order, room) + 3 < len(order) - 12


@pytest.mark.parametrize(
    ("share", "gb", "told"),
    [
        ((0, 1), SIZE / 1e9, []),
        ((0, 1), (SIZE - 1) / 1e9, ["cache_gb is 9.9e-08", "1e-07 GB"]),
        ((1, 2), SIZE / 1e9, ["cache_gb is 1e-07", "2e-07 GB"]),
    ],
)
def test_a_bound_below_one_file_is_said_not_to_hold(
    share: tuple[int, int], gb: float, told: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = cache_of(far(tmp_path, cache_gb=gb), tmp_path, share)
    for number in range(FILES):
        read(cache, number)
    assert len(caplog.messages) == bool(told) and tells(caplog.text, *told)


def test_what_fits_is_fetched_once_ahead_and_several_at_a_time(tmp_path: Path) -> None:
    store = far(tmp_path, connections=3)
    store.may_go_on.clear()
    cache, order = cache_of(store, tmp_path), list(orders(3))
    with cache.ahead(order):
        assert store.three_came.wait(10)
        store.may_go_on.set()
        for number in order:
            read(cache, number)
    assert sorted(store.fetched) == [f"{number:02}" for number in range(FILES)] and store.most_at_a_time == 3
    again = cache_of(store, tmp_path)  # the next attempt
    for number in range(FILES):
        read(again, number)
    assert len(store.fetched) == FILES


def test_room_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of 1000 bytes: nine files leave the tenth that belongs to others."""
    store = far(tmp_path, connections=1)

    def usage(folder: Path) -> Any:
        return SimpleNamespace(total=1000, free=1000 - SIZE * len(list(Path(folder).iterdir())))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    cache = cache_of(store, tmp_path)
    for number in orders(2):
        read(cache, number)
        assert len(list(cache.copies.folder.iterdir())) <= 9
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=1000, free=SIZE - 1))
    absent = next(number for number in range(FILES) if not cache.is_here(number))
    with pytest.raises(MachineError, match="are to be pulled"):
        read(cache, absent)


def test_a_bound_of_less_than_a_file_holds_one(tmp_path: Path) -> None:
    store = far(tmp_path, cache_gb=1e-9, connections=2)
    cache = cache_of(store, tmp_path)
    with cache.ahead(orders(2)):
        for number in orders(2):
            read(cache, number)
            assert len(list(cache.copies.folder.iterdir())) <= 1


@pytest.mark.parametrize("is_ahead", [True, False])
def test_what_cannot_be_fetched_is_said_when_it_is_due(tmp_path: Path, is_ahead: bool) -> None:
    store = far(tmp_path)
    cache = cache_of(store, tmp_path)
    (store.root / "03").unlink()
    with cache.ahead(range(FILES)) if is_ahead else nullcontext():
        for number in range(3):
            read(cache, number)
        with pytest.raises(MissingInputError, match="03"):
            read(cache, 3)
        read(cache, 4)


def test_processes_share_the_bound_and_what_is_there(tmp_path: Path) -> None:
    store = far(tmp_path, cache_gb=6 * SIZE / 1e9)
    for number in range(4):
        read(cache_of(store, tmp_path), number)
    first, second = (cache_of(store, tmp_path, (local, 2)) for local in range(2))
    for number in range(FILES):
        read(first if number % 3 else second, number)
        assert len(list(first.copies.folder.iterdir())) <= 6


def test_uses_are_looked_ahead_a_little_at_a_time(tmp_path: Path) -> None:
    asked: list[int] = []
    uses = Uses(asked.append(number) or number % 7 for number in range(100))  # type: ignore[func-returns-value]
    assert uses.look(3) == [0, 1, 2] and len(asked) == 3
    uses.made(5)  # out of the order
    assert uses.at == 0 and uses.next_of(0) == 0 and uses.next_of(6) == inf
    for number in range(40):
        uses.made(number % 7)
    assert uses.at == 40 and [uses.next_of(number % 7) for number in range(40, 47)] == list(range(40, 47))
    assert HORIZON > len(asked) == 100
