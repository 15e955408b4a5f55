"""What a loader is: sound files to begin from, and how one is read."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Loader:
    """`read` is given a file's content and an empty folder; it may raise what the product refuses with."""

    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], Any]


def as_json(value: Any) -> Callable[[], list[bytes]]:
    return lambda: [json.dumps(value).encode()]


def files(*paths: Path) -> Callable[[], list[bytes]]:
    return lambda: [path.read_bytes() for path in paths]
