"""What does it cost to compare tensors with their digests when a run begins?    make bench

The tensors of four-minute songs of the 2B model are read as a run reads them, with and without.
"""

import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sidestep.config.schema import StorageSpec
from sidestep.data.tensors import read_sample
from sidestep.runtime.workspace import Workspace
from sidestep.storage.local import LocalStore
from sidestep.training.dataset import Samples
from tests.songs import song, write_songs

SONGS, FRAMES, TOKENS, WIDTH = 8, 6000, 512, 2048
ROUNDS = 9


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        songs = [song(number, FRAMES, TOKENS, WIDTH) for number in range(SONGS)]
        files = sorted(write_songs(Path(folder, "tensors"), songs).iterdir())
        store, workspace = LocalStore(Path(folder, "tensors"), StorageSpec()), Workspace(Path(folder, "work"))
        size = sum(file.stat().st_size for file in files)
        rows = {
            "read": _best(lambda: [read_sample(file) for file in files]),
            "digests alone": _best(lambda: [sha256(file.read_bytes()).digest() for file in files]),
            "read and compared, as a run begins": _best(lambda: Samples.pull(store, workspace)),
        }
        samples = Samples.pull(store, workspace)
        rows["read again, as a step does"] = _best(lambda: [samples[number] for number in range(SONGS)])
    table = Table("", "s", "MB/s", "to reading", title=f"{SONGS} songs of {size / SONGS / 1e6:.1f} MB")
    for what, seconds in rows.items():
        share = f"{seconds / rows['read']:.0%}"
        table.add_row(what, f"{seconds:.3f}", f"{size / seconds / 1e6:.0f}", share)
    Console().print(table)
    for epochs in (10, 100):
        digests = rows["digests alone"] / rows["read"] / (1 + epochs)
        print(f"In {epochs} epochs digests are {digests:.1%} of all reading, in a thread of their own")


def _best(call: Callable[[], object]) -> float:
    def once() -> float:
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    return min(once() for _ in range(ROUNDS))


if __name__ == "__main__":
    main()
