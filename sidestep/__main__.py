"""`python -m sidestep`, the same as the command `sidestep`."""

import sys

from sidestep.cli import main

sys.exit(main())
