"""The guide's spelling of the command: `uv run python train.py fixed …` is `sidestep fixed …`."""

import sys

from sidestep.cli import main

sys.exit(main())
