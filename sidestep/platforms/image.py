"""Which image a rendered file names, and for which CUDA it is."""

import os
import re
from collections.abc import Mapping
from importlib.metadata import version

from sidestep.config.sources import IMAGE_VARIABLE
from sidestep.runtime.errors import UsageError

REPOSITORY = "ghcr.io/side-step/side-step"


def image_reference(option: str | None, cuda: int, environ: Mapping[str, str] = os.environ) -> str:
    """What --image says, else SIDESTEP_IMAGE, else the release that this very code is part of, for `cuda`."""
    return option or environ.get(IMAGE_VARIABLE) or f"{REPOSITORY}:{version('side-step')}-cuda{cuda}"


def cuda_of(image: str, option: int | None, usual: int) -> int:
    """The major version of CUDA that an image is for, which decides what is asked of a machine's driver.

    Args:
        image: its reference. A tag such as 1.2.3-cuda12 says it.
        option: what --cuda says, for an image whose tag does not.
        usual: the platform's, where nothing says it.

    Raises UsageError where --cuda and the tag say different things.
    """
    tag = re.search(r"-cuda(\d+)$", image.partition("@")[0])
    if tag and option and int(tag[1]) != option:
        raise UsageError(f"--cuda is {option}, and the image is {image}: leave one of them out")
    return int(tag[1]) if tag else option or usual
