"""What runs, and with which packages, in the log's first lines; none of them is imported for it."""

import logging
import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

log = logging.getLogger(__name__)

PACKAGES = (
    "torch",
    "lightning_fabric",
    "diffusers",
    "transformers",
    "peft",
    "lycoris_lora",
    "safetensors",
    "av",
    "boto3",
)


def log_versions(what: str) -> None:
    """`what` was started, of which version, and below that the machine's packages."""
    log.info("%s, version %s", what, version("side-step"))
    found = []
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    log.debug("Python %s, %s", platform.python_version(), ", ".join(found))


def version_of(package: str) -> str:
    """The version of a package that is in use. One that was built by hand may have no metadata: then it is
    what its module says, if it says one."""
    try:
        return version(package)
    except PackageNotFoundError:
        module = sys.modules.get(package.replace("-", "_"))
        return str(getattr(module, "__version__", "unknown"))
