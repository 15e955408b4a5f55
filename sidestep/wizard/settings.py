"""What the wizard remembers from one time to the next, as YAML in the user's folder for settings."""

from pathlib import Path

from platformdirs import user_config_path
from pydantic import BaseModel, ConfigDict, ValidationError

from sidestep.config.presets import write_file
from sidestep.config.yaml12 import dump_yaml, read_yaml
from sidestep.runtime.errors import BadSpecError
from sidestep.storage.open import local_path

KEPT_RUNS = 20


class Settings(BaseModel):
    """Where things are by default, and whether vanilla mode is offered.

    `runs` are the outputs of the jobs that the wizard has started, the newest first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    checkpoint_dir: str = "checkpoints"
    dataset_dir: str = "my_tensors"
    output_dir: str = "output"
    place: str = "kubernetes"
    vanilla: bool = True
    runs: tuple[str, ...] = ()


def settings_file() -> Path:
    """~/.config/sidestep/settings.yaml on Linux."""
    return user_config_path("sidestep") / "settings.yaml"


def load_settings() -> Settings:
    """What was saved, else the defaults. Raises BadSpecError for a file that was spoilt."""
    file = settings_file()
    if not file.exists():
        return Settings()
    try:
        return Settings.model_validate(read_yaml(file)[0])
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise BadSpecError(f"{file}: {keys}: not a setting of the wizard; mend or delete the file") from None


def save_settings(settings: Settings) -> None:
    """Raises AccessError where the folder cannot be written."""
    write_file(settings_file(), dump_yaml(settings.model_dump()).decode(), replace=True)


def from_anywhere(place: str) -> str:
    """A path as it is called from any folder; a URI as it is. Raises BadSpecError for what is neither."""
    path = local_path(place)
    return place if path is None or "://" in place else str(path)


def remember_run(place: str) -> None:
    """Put a job's output first among the known runs. Raises what saving raises."""
    settings, place = load_settings(), from_anywhere(place)
    others = [run for run in settings.runs if run != place]
    save_settings(settings.model_copy(update={"runs": (place, *others)[:KEPT_RUNS]}))
