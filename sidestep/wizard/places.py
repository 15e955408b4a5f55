"""Places as answers: paths are completed, and what is there is said, while typing and after it."""

from collections.abc import Sequence
from pathlib import Path

from prompt_toolkit.completion import Completer, PathCompleter, ThreadedCompleter

from sidestep.config.schema import StorageSpec
from sidestep.data.kinds import AUDIO_SUFFIXES
from sidestep.data.listing import visible
from sidestep.lifecycle.status import FILE, Status
from sidestep.runtime.errors import SideStepError
from sidestep.runtime.words import counted
from sidestep.storage.open import local_path, open_store
from sidestep.storage.store import Store
from sidestep.wizard.runs import standing

FILES = {"dataset_json": (".json",)}
"""The places that are files, and how their names end; all others are folders."""

MADE = ("output_dir",)
"""The places that need not be there."""


def completer(suffixes: Sequence[str] = ()) -> Completer:
    """Completes paths on this machine: to folders, and to files that end so. Nothing hidden is offered."""

    def is_offered(name: str) -> bool:
        path = Path(name)
        return not path.name.startswith(".") and (path.is_dir() or path.name.endswith(tuple(suffixes)))

    paths = PathCompleter(only_directories=not suffixes, file_filter=is_offered, expanduser=True)
    return ThreadedCompleter(paths)  # a folder elsewhere may answer slowly


def while_typing(place: str, *, is_file: bool = False, is_made: bool = False) -> str:
    """Whether a path is there, as far as this machine can tell at once."""
    try:
        path = local_path(place) if place else None
        if path is None:
            return (
                "looked up when you press Enter" if place else "a file" if is_file else "a folder or a bucket"
            )
        if not path.exists():
            return "new: it will be created" if is_made else "not found"
        if path.is_dir() == is_file:
            return "this is a folder, not a file" if is_file else "this is a file, not a folder"
    except (SideStepError, OSError, ValueError) as error:
        return str(error).partition("\n")[0]
    return "found"


def what_is_there(name: str, place: str, storage: StorageSpec) -> str:
    """What was found at the place that the field `name` says; empty where there is nothing to say of it.

    Never raises: what cannot be seen is told in its place.
    """
    if name == "checkpoint_dir":
        return ""  # the next question shows the models there
    try:
        store = open_store(place, storage)
        if name == "output_dir":
            run = store.stat(FILE) and Status.read(store.read_small(FILE), f"{place}/{FILE}")
            return (
                f"There is a run here ({standing(run)}). With the same settings it continues." if run else ""
            )
        path = local_path(place)
        if path is not None and (not path.exists() or path.is_dir() == (name in FILES)):
            return f"{place}: {while_typing(place, is_file=name in FILES)}."
        if name == "audio_dir":
            songs = songs_in(store)
            return f"{counted(songs, 'songs')} found." if songs else f"There are no songs in {place}."
    except SideStepError as error:
        return str(error)
    return ""


def songs_in(folder: Store) -> int:
    """How many songs of kinds that are read a folder holds. Raises what listing it raises."""
    return sum(file.path.lower().endswith(AUDIO_SUFFIXES) for file in visible(folder, folder.list_files()))
