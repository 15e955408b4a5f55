"""The terminal: standard output, for what a command was asked to print. Everything else is logged."""

import os
import sys


def is_interactive() -> bool:
    """Whether somebody can read what is printed, and answer."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def write(text: str) -> None:
    """Write to standard output and flush it. A reader that has gone (`sidestep schema | head`) is fine."""
    if sys.stdout is None:  # closed by whoever started this
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
