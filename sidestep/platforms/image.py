"""Which image a rendered file names."""

import os
from collections.abc import Mapping
from importlib.metadata import version

from sidestep.config.sources import IMAGE_VARIABLE

REPOSITORY = "ghcr.io/side-step/side-step"


def image_reference(option: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """What --image says, else SIDESTEP_IMAGE, else the release that this very code is part of."""
    return option or environ.get(IMAGE_VARIABLE) or f"{REPOSITORY}:{version('side-step')}-cuda13"
