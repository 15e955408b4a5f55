"""`python -m sidestep`, the same as the command `sidestep`."""

from sidestep.cli import entry

entry()
