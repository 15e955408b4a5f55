"""Folders that libraries take for granted, and a container may lack: for temporary files, and a home.

To be called before torch is imported, which asks for both as it is.
"""

import atexit
import logging
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

from sidestep.runtime.errors import MachineError
from sidestep.runtime.workspace import open_workspace

log = logging.getLogger(__name__)

NAMES = ("TMPDIR", "TEMP", "TMP")
CACHES = {
    "HF_HOME": "huggingface",
    "TORCH_HOME": "torch",
    "TRITON_CACHE_DIR": "triton",
    "MPLCONFIGDIR": "matplotlib",
}
"""The variables of libraries that else keep things in the home folder, and what they get in the workspace."""

_until_the_end = ExitStack()
atexit.register(_until_the_end.close)


def provide_folders(workspace: str | None) -> None:
    """Let the workspace (see `open_workspace`) stand in for a temporary folder or a home that cannot be used.

    A temporary folder there is this process's, and deleted at its end. `HOME` itself stays as it is, as do
    the variables that the user has set.

    Raises MachineError where there is no temporary folder, and no workspace either.
    """
    if not _has_temporary_folder():
        try:
            folder = _until_the_end.enter_context(open_workspace(workspace).temporary())
        except MachineError as error:
            raise MachineError(
                f"there is no folder for temporary files: {_tried()} cannot be written. Set TMPDIR to one "
                f"that can. {error}"
            ) from error
        log.info("%s cannot be written: temporary files go into the workspace, %s", _tried(), folder)
        os.environ["TMPDIR"] = tempfile.tempdir = folder
    unset = [name for name in CACHES if name not in os.environ]
    if unset and not _has_home():
        try:
            caches = open_workspace(workspace).root / "caches"
        except MachineError as error:  # a job, which needs it, says so itself
            log.debug("There is neither a home folder nor a workspace for caches: %s", error)
            return
        log.debug("There is no home folder to write to: caches go into %s", caches)
        os.environ |= {name: str(caches / CACHES[name]) for name in unset}


def _has_temporary_folder() -> bool:
    """Whether the one that is named, or else the system's, can be written. Python would then take the working
    directory, which is the user's, and other libraries would take the one that is named all the same."""
    named = next((os.environ[name] for name in NAMES if os.environ.get(name)), None)
    try:
        found = tempfile.gettempdir()
    except FileNotFoundError:
        return False
    if named:
        return found == os.path.abspath(named)  # noqa: PTH100 - as Python makes it, links and all
    return found in ("/tmp", "/var/tmp", "/usr/tmp") or not _is_working_directory(found)  # noqa: S108


def _is_working_directory(folder: str) -> bool:
    try:
        return Path.cwd() == Path(folder)
    except FileNotFoundError:  # it was deleted
        return False


def _tried() -> str:
    named = next((name for name in NAMES if os.environ.get(name)), None)
    return f"{named} ({os.environ[named]})" if named else "TMPDIR is not set, and /tmp"


def _has_home() -> bool:
    """Whether there is a home folder to write to. A user whom the machine does not know may have none."""
    try:
        return os.access(Path.home(), os.W_OK | os.X_OK)
    except RuntimeError:
        return False
