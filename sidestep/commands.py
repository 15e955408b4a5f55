"""The commands by name, and the parser of each. What a parser needs is imported when it is built."""

import argparse
from collections.abc import Callable, Collection
from typing import Any, NoReturn

from sidestep.runtime.console import write
from sidestep.runtime.errors import UsageError

COMMANDS = {
    "run": "do what the spec's task says: preprocess, estimate, train, or all three (pipeline)",
    "preprocess": "songs to tensors",
    "estimate": "rank modules by how much a dataset moves them",
    "train": "tensors to an adapter",
    "fixed": "train in corrected mode (--preprocess: make the tensors instead)",
    "vanilla": "train in vanilla mode (--preprocess: make the tensors instead)",
    "plan": "check a job (--check-only stops there); its memory, time and cost, before a GPU is rented",
    "render": "write the file that runs a job at a place, and say the command that submits it",
    "status": "what a job is doing, read from its output",
    "presets": "named settings of how to train: list, show, save, delete, import, export",
    "wizard": "questions in place of flags (so does `sidestep` alone, on a terminal)",
    "export": "write an adapter for one reader: the ACE-Step app, diffusers or ComfyUI",
    "completion": "print the script that lets bash or zsh complete commands, flags and values",
    "verify-resume": "prove on this machine that an interrupted run equals an uninterrupted one",
    "schema": "print the JSON schema of the job spec",
    "tiny-checkpoint": "write a random checkpoint set in the original layout, for trials and tests",
    "demo": "the whole pipeline on a tiny model and made music, in minutes",
}

# What a command says about the spec, beyond its flags: path → value. `run` leaves all to the spec.
TASKS: dict[str, dict[tuple[str, ...], str]] = {
    "run": {},
    "preprocess": {("task",): "preprocess"},
    "estimate": {("task",): "estimate"},
    "train": {("task",): "train"},
    "fixed": {("task",): "train", ("train", "mode"): "corrected"},
    "vanilla": {("task",): "train", ("train", "mode"): "vanilla"},
}


class Parser(argparse.ArgumentParser):
    """argparse with our exit code for a wrong command line, and no guessing at shortened flags."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n  `{self.prog} --help` lists the flags")

    def print_help(self, file: Any = None) -> None:
        write(self.format_help())

    @property
    def flags(self) -> list[str]:
        """All that it takes, in every spelling."""
        return list(self._option_string_actions)


def parser_of(command: str) -> Parser:
    """The parser of one of the COMMANDS."""
    parser = Parser(prog=f"sidestep {command}", description=COMMANDS[command].capitalize() + ".")
    fill(parser, command)
    return parser


def fill(parser: Parser, command: str) -> None:
    """Give the parser, whose prog is `sidestep <command>`, all that the command takes."""
    _FILL[command](parser)


def _run(parser: Parser) -> None:
    command = parser.prog.split()[1]
    _add_job_flags(parser, "[flags]", TASKS[command])
    if ("train", "mode") in TASKS[command]:
        parser.add_argument("--preprocess", action="store_true", help="make the tensors instead of training")
    parser.add_argument(
        "--dry-run", action="store_true", help="only print the resolved spec, each value with its origin"
    )
    parser.add_argument("--json", action="store_true", help="with --dry-run: print JSON, for scripts")


def _plan(parser: Parser) -> None:
    from sidestep.planning.flags import add_plan_flags

    _add_job_flags(parser, "[JOB.YAML] [flags]")
    add_plan_flags(parser)


def _render(parser: Parser) -> None:
    from sidestep.places.render import add_render_flags

    _add_job_flags(parser, "PLACE [JOB.YAML] [flags]")
    add_render_flags(parser)


def _verify_resume(parser: Parser) -> None:
    _add_job_flags(parser, "[JOB.YAML] [flags]", TASKS["train"])
    parser.add_argument("--steps", type=int, default=6, metavar="N", help="steps to make (default: 6)")


def _add_job_flags(parser: Parser, usage: str, says: Collection[tuple[str, ...]] = ()) -> None:
    """What every command that reads a job takes: its file, a preset, and a flag for each field but `says`."""
    from sidestep.spec.flags import add_flags

    parser.usage = f"{parser.prog} {usage}"
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the job spec, a YAML file; else SIDESTEP_CONFIG names it, else /etc/sidestep/job.yaml",
    )
    parser.add_argument(
        "--preset", metavar="NAME", help="settings for what nothing else says (`sidestep presets list`)"
    )
    parser.add_argument("--verbose", action="store_true", help="show on the screen what the log file gets")
    add_flags(parser, leave_out=says)


def _status(parser: Parser) -> None:
    from sidestep.spec.fields import spec_fields
    from sidestep.spec.flags import add_flags

    parser.add_argument("place", metavar="PLACE", help="the job's output_dir")
    parser.add_argument("--json", action="store_true", help="as it is stored, for programs")
    parser.add_argument("--watch", action="store_true", help="again every few seconds, until the job ends")
    add_flags(parser, leave_out=[path for path in spec_fields() if path[0] != "storage"])


def _presets(parser: Parser) -> None:
    from sidestep.spec.presets.command import add_preset_actions

    add_preset_actions(parser)


def _export(parser: Parser) -> None:
    from sidestep.spec.fields import spec_fields
    from sidestep.spec.flags import add_flags
    from sidestep.tasks.export import add_export_flags

    add_export_flags(parser)
    model = ("checkpoint_dir", "model_variant", "base_model", "storage")
    add_flags(parser, leave_out=[path for path in spec_fields() if path[0] not in model])


def _completion(parser: Parser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh"], help="the shell to complete in")


def _nothing(parser: Parser) -> None:
    """The command takes nothing."""


def _tiny_checkpoint(parser: Parser) -> None:
    parser.add_argument("folder", metavar="DIR", help="folder to write the checkpoint set into")
    parser.add_argument(
        "--variants",
        nargs="+",
        metavar="NAME",
        default=["base", "turbo", "xl-base"],
        help="model variants to write (default: base turbo xl-base)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the weights (default: 0)")


def _demo(parser: Parser) -> None:
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", default="demo", help="folder for it (default: demo)"
    )


_FILL: dict[str, Callable[[Parser], None]] = {
    **dict.fromkeys(TASKS, _run),
    "plan": _plan,
    "render": _render,
    "status": _status,
    "presets": _presets,
    "wizard": _nothing,
    "export": _export,
    "completion": _completion,
    "verify-resume": _verify_resume,
    "schema": _nothing,
    "tiny-checkpoint": _tiny_checkpoint,
    "demo": _demo,
}
