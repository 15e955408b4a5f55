"""The command `sidestep`, also as `python -m sidestep`: signals first, as all that follows takes time."""

from typing import NoReturn

from sidestep.runtime.interrupts import end_at_once


def entry() -> NoReturn:
    """The command as a process."""
    end_at_once()
    from sidestep.cli import entry

    entry()


if __name__ == "__main__":
    entry()
