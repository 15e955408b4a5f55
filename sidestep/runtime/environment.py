"""The environment's variables as they were meant: without the blanks and line ends that files leave there."""

import logging
import re
from collections.abc import MutableMapping
from pathlib import Path

from sidestep.runtime.errors import BadSpecError

log = logging.getLogger(__name__)

CONFIG_VARIABLE = "SIDESTEP_CONFIG"
DEFAULT_CONFIG = Path("/etc/sidestep/job.yaml")
"""Where a spec's file is named, and where it is else."""

_TRACKERS = ("WANDB_", "MLFLOW_", "TRACKIO_")

PREFIXES = ("SIDESTEP_", "AWS_", "GOOGLE_", "AZURE_", "HF_", *_TRACKERS)
"""How the names of the variables begin that a job reads: its own, those of the stores' credentials, and those
of trackers."""

_OF_A_PLATFORM = re.compile(r"\$?\{\{[^{}]*\}\}")
"""What a platform would have put a secret's value in the place of."""

ONE_LINE = ("AWS_", "AZURE_", "HF_", *_TRACKERS)
"""Of these, the ones whose values never have a second line: Google's may be a whole JSON file."""


def tidy_environment(environ: MutableMapping[str, str]) -> None:
    """Strip blanks and line ends around the value of each variable that a job reads, in place.

    A Kubernetes secret made from a file ends in a line end, a CRLF file leaves a carriage return; a server
    would only say that the credentials are wrong. Values are never shown: they may be secrets. A variable
    with nothing else in it is taken out, which is how the libraries that read them know one that is not set;
    so is a credential that is still the name of a platform's secret, as that secret is not there.

    Raises BadSpecError for a line end inside the value of a credential: it would be sent as a header.
    """
    stripped = []
    for name in sorted(name for name in environ if name.upper().startswith(PREFIXES)):
        value = environ[name].strip()
        if value != environ[name]:
            stripped.append(name)
            environ[name] = value
        if not value:
            del environ[name]
        elif _OF_A_PLATFORM.fullmatch(value) and not name.upper().startswith("SIDESTEP_"):
            del environ[name]
            log.warning(
                "%s is not set: it is still %s, so the platform has no secret of that name", name, value
            )
        elif name.startswith(ONE_LINE) and re.search(r"[\x00-\x1f\x7f]", value):
            raise BadSpecError(f"{name} has a line end or another control character inside its value")
    if stripped:
        log.info("Blanks or line ends around the value were left out: %s", ", ".join(stripped))
