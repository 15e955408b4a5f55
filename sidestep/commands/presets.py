"""`sidestep presets`: list, show, save, delete, import and export named settings."""

import argparse
import textwrap
from collections.abc import Callable, Collection
from pathlib import Path

from sidestep.commands.command import Call
from sidestep.commands.flags import add_flags
from sidestep.commands.parser import Parser
from sidestep.config.fields import FieldPath, only, spec_fields
from sidestep.config.job import JobSpec, resolve
from sidestep.config.presets import (
    Preset,
    all_presets,
    delete_preset,
    find_preset,
    preset_fields,
    save_preset,
    write_file,
)
from sidestep.config.yaml12 import dump_yaml
from sidestep.runtime.console import write, write_json
from sidestep.runtime.errors import SideStepError, UsageError
from sidestep.runtime.logs import setup_logging

DESCRIPTION_WIDTH = 120


def add_arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")

    def add(name: str, says: str, act: Callable[[argparse.Namespace], None]) -> Parser:
        action = actions.add_parser(name, help=says, description=says.capitalize() + ".")
        action.set_defaults(act=act)
        return action

    def takes_name(action: Parser, *, flag: str = "name", says: str = "name of the preset") -> None:
        action.offers[action.add_argument(flag, metavar="NAME", help=says)] = all_presets

    def may_replace(action: Parser) -> None:
        action.add_argument("--force", action="store_true", help="replace a preset of that name")

    listing = add("list", "all presets, with what they are for", _list)
    listing.add_argument("--json", action="store_true", help="print JSON, for scripts")

    takes_name(add("show", "a preset's settings, as YAML", _show))

    save = add("save", "save settings from flags, variables or a job's file as your own preset", _save)
    save.usage = f"{save.prog} NAME [JOB.YAML] [flags]"
    takes_name(save)
    save.add_argument("config", nargs="?", metavar="JOB.YAML", help="the job spec to take settings from")
    takes_name(save, flag="--preset", says="a preset to start from")
    save.add_argument("--description", default="", metavar="TEXT", help="what `presets list` says about it")
    may_replace(save)
    add_flags(save, leave_out=spec_fields().keys() - preset_fields())

    takes_name(add("delete", "delete one of your own presets", _delete))

    take = add("import", "add a preset from a file to your own", _import)
    take.add_argument("file", metavar="FILE", help="the YAML file")
    takes_name(take, flag="--name", says="its name here (default: the file's)")
    may_replace(take)

    give = add("export", "write a preset to a file that you can share", _export)
    takes_name(give)
    give.add_argument("file", nargs="?", metavar="FILE", help="the file (default: NAME.yaml)")
    may_replace(give)


def run(call: Call) -> None:
    options = call.options()
    setup_logging()
    options.act(options)


def _list(options: argparse.Namespace) -> None:
    presets = all_presets().values()
    if options.json:
        rows = [
            {"name": preset.name, "built_in": preset.is_built_in, "description": preset.description}
            for preset in presets
        ]
        write_json(rows)
        return
    width = max(len(preset.name) for preset in presets)
    for preset in presets:
        whose = "" if preset.is_built_in else "(yours) "
        write(f"{preset.name:{width}}  {whose}{_says(preset)}".rstrip() + "\n")


def _says(preset: Preset) -> str:
    try:
        resolve(preset=preset, needs_places=False)
    except SideStepError as error:
        return f"cannot be used: {str(error).splitlines()[-1].strip()}"
    return textwrap.shorten(preset.description, DESCRIPTION_WIDTH, placeholder=" …")


def _show(options: argparse.Namespace) -> None:
    write(find_preset(options.name).text, exactly=True)


def _save(options: argparse.Namespace) -> None:
    given = getattr(options, "given", [])
    spec, origins = resolve(given, config=options.config, preset=options.preset, needs_places=False)
    kept = {path for path in preset_fields() if origins[".".join(path)] != "default"}
    if not kept:
        raise UsageError(
            "nothing is set that a preset could hold; give it flags, as in "
            f"`sidestep presets save {options.name} --rank 32 --alpha 64`, or a job's file"
        )
    file = save_preset(options.name, preset_text(spec, kept, options.description), replace=options.force)
    write(f"Saved {file}\n")


def _delete(options: argparse.Namespace) -> None:
    delete_preset(options.name)
    write(f"Deleted {options.name}\n")


def _import(options: argparse.Namespace) -> None:
    file = Path(options.file)
    preset = Preset(options.name or file.stem, file, is_built_in=False)
    resolve(preset=preset, needs_places=False)
    if not preset.read():
        raise UsageError(f"{file} sets nothing that a preset could hold")
    write(f"Saved {save_preset(preset.name, preset.text, replace=options.force)}\n")


def _export(options: argparse.Namespace) -> None:
    file = Path(options.file or f"{options.name}.yaml")
    write_file(file, find_preset(options.name).text, replace=options.force)
    write(f"Wrote {file}\n")


def preset_text(spec: JobSpec, paths: Collection[FieldPath], description: str = "") -> str:
    """A preset's file: what `spec` has at `paths`, under a comment."""
    comment = f"# {' '.join(description.split())}\n" if description else ""
    return comment + dump_yaml(only(spec.model_dump(mode="json"), paths)).decode()
