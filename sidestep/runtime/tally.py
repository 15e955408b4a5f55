"""How much this process has done so far, by kind, for whoever watches it. The numbers only grow."""

import threading
from collections import Counter

BYTES = "bytes"  # read from places and written to them, also those that had to be moved again
SONGS = "songs"  # whose tensors were made

_totals: Counter[str] = Counter()
_lock = threading.Lock()


def add(what: str, amount: int = 1) -> None:
    """So many more are done; less than none is nothing. From any thread."""
    if amount > 0:
        with _lock:
            _totals[what] += amount


def total(what: str) -> int:
    """How many are done since the process began."""
    return _totals[what]
