"""Presets: named settings of how to train, which lie under all that a job itself says.

A preset is a part of a job spec, in a YAML file of its own; the comment on its first line is what a list of
presets says of it. It holds how to train and with which model, never what a job reads or writes: a preset
from somebody else must not send one's songs elsewhere. Some are built in, and those of a user are in the
platform's folder for settings, each `<name>.yaml`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_config_path

from sidestep.config.fields import FieldPath, spec_fields
from sidestep.config.yaml12 import read_yaml
from sidestep.runtime.atomic import replacing
from sidestep.runtime.creating import create_file
from sidestep.runtime.errors import AccessError, UsageError
from sidestep.runtime.words import did_you_mean

BUILT_IN = (
    "recommended",
    "fast-start",
    "timbre",
    "quick-test",
    "high-quality",
    "8gb",
    "12gb",
    "16gb",
    "24gb",
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_OF_A_JOB = {  # beside `storage`
    *("name", "task", "sweep", "checkpoint_dir", "audio_dir", "dataset_json", "dataset_dir", "output_dir"),
    *("train.resume_from", "train.new_attempt", "train.extend", "train.init_from", "train.init_resize"),
    *("runtime.workspace", "runtime.on_exit", "runtime.price_per_hour"),
}


@dataclass(frozen=True)
class Preset:
    """A preset's file; nothing of it is read before it is asked for."""

    name: str
    file: Path
    is_built_in: bool

    def read(self) -> dict[str, Any]:
        """Its values, nested as the spec is, unchecked: that is done where they become part of a spec."""
        return read_yaml(self.file)[0]

    @property
    def text(self) -> str:
        """The file as it is. Raises AccessError where it cannot be read."""
        try:
            return self.file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise AccessError(f"the preset {self.file} cannot be read: {error}") from None

    @property
    def description(self) -> str:
        """What the comment on its first line says."""
        first = self.text.partition("\n")[0]
        return first.removeprefix("#").strip() if first.startswith("#") else ""


def preset_fields() -> set[FieldPath]:
    """The fields that a preset may set."""
    return {
        path for path, field in spec_fields().items() if path[0] != "storage" and field.name not in _OF_A_JOB
    }


def user_folder() -> Path:
    """Where the user's own presets are: ~/.config/sidestep/presets on Linux."""
    return user_config_path("sidestep") / "presets"


def all_presets() -> dict[str, Preset]:
    """Every preset by its name: those built in, then the user's. One of the user's hides none built in."""
    own = {file.stem: Preset(file.stem, file, False) for file in sorted(user_folder().glob("*.yaml"))}
    built_in = {name: Preset(name, Path(__file__).with_name(f"{name}.yaml"), True) for name in BUILT_IN}
    return {**built_in, **own, **built_in}


def find_preset(name: str) -> Preset:
    """The preset called `name`. Raises UsageError with the nearest name where there is none."""
    presets = all_presets()
    if name in presets:
        return presets[name]
    raise UsageError(f"there is no preset {name!r}; {did_you_mean(name, presets)}")


def save_preset(name: str, text: str, *, replace: bool = False) -> Path:
    """Keep `text`, a preset that was checked, as the user's preset `name`; returns its file.

    Raises UsageError for a name that is built in, that is no file's name, or that is taken already and is
    not to be replaced; AccessError where the folder cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid preset name: use letters, digits, dots, dashes and underscores"
        )
    if name == "none":
        raise UsageError("the name none means no preset; choose another one")
    if (taken := all_presets().get(name)) and taken.is_built_in:
        raise UsageError(f"the preset {name} is built in; choose another name")
    file = user_folder() / f"{name}.yaml"
    write_file(file, text, replace=replace)
    return file


def delete_preset(name: str) -> None:
    """Delete the user's preset `name`.

    Raises UsageError where there is none, or it is built in; AccessError where it cannot be deleted.
    """
    preset = find_preset(name)
    if preset.is_built_in:
        raise UsageError(f"the preset {name} is built in, and stays")
    try:
        preset.file.unlink()
    except OSError as error:
        raise AccessError(f"{preset.file} cannot be deleted: {error.strerror}") from None


def write_file(file: Path, text: str, *, replace: bool) -> None:
    """Write a whole file or none.

    Raises UsageError where it is there and is not to be replaced, AccessError where it cannot be written.
    """
    try:
        if replace:
            with replacing(file) as unfinished:
                unfinished.write_text(text, encoding="utf-8")
        elif not create_file(file, text.encode()):
            raise UsageError(f"{file} is there already; --force replaces it")
    except OSError as error:
        raise AccessError(f"{file} cannot be written: {error.strerror}") from None
