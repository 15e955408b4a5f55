"""The terminal: standard output, for what a command was asked to print. Everything else is logged."""

import json
import os
import sys
import threading
from typing import Any

from sidestep.runtime.secrets import hide
from sidestep.runtime.shown import shown

answered = threading.Event()
"""Whether a program has got its JSON; `cli` clears it for each command."""


def is_interactive() -> bool:
    """Whether somebody can read what is printed, and answer."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def write(text: str, exactly: bool = False) -> None:
    """Write to standard output and flush it. A reader that has gone (`sidestep schema | head`) is fine.

    Secrets are hidden, and what a terminal would obey is made visible (`runtime.shown`).
    `exactly`: it is a file's content, and goes byte for byte to anything but a terminal.
    """
    if sys.stdout is None:  # closed by whoever started this
        return
    try:
        text = hide(text)
        sys.stdout.write(text if exactly and not sys.stdout.isatty() else shown(text))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_json(value: Any) -> None:
    """Write a value as JSON, for programs: in ASCII, so that nothing in it needs to be made visible."""
    answered.set()
    write(json.dumps(value, indent=2, allow_nan=False) + "\n", exactly=True)
