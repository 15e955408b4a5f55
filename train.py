"""The guide's spelling of the command: `uv run python train.py fixed …` is `sidestep fixed …`."""

from sidestep.__main__ import entry

entry()
