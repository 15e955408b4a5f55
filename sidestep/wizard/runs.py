"""The runs that there have been: those that the wizard remembers, and those in the folder for results."""

from pathlib import Path

from sidestep.config.schema import StorageSpec
from sidestep.lifecycle.status import FILE, Status
from sidestep.runtime.errors import SideStepError
from sidestep.storage.open import open_store
from sidestep.wizard.settings import Settings


def past_runs(settings: Settings, storage: StorageSpec) -> dict[str, str]:
    """Each run's output, and in a few words how it stands. One that cannot be read says why."""
    places = dict.fromkeys(map(_short, [*settings.runs, *_found(settings.output_dir, storage)]))
    return {place: _standing(place, storage) for place in places}


def _short(place: str) -> str:
    """A folder below the working one, as seen from there."""
    here = Path.cwd()
    return str(Path(place).relative_to(here)) if Path(place).is_relative_to(here) else place


def _found(place: str, storage: StorageSpec) -> list[str]:
    store = open_store(place, storage)
    files = (file.path for file in store.list_files())
    return [f"{store.place}/{path.removesuffix('/' + FILE)}" for path in files if path.endswith("/" + FILE)]


def _standing(place: str, storage: StorageSpec) -> str:
    try:
        status = Status.read(open_store(place, storage).read_small(FILE), place)
    except SideStepError as error:
        return str(error).partition("\n")[0].partition(". ")[0]
    done = f", step {status.step} of {status.steps}" if status.step is not None else ""
    return f"{status.task}: {'no sign of life' if status.is_stale() else status.state}{done}"
