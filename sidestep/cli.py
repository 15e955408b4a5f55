"""The command `sidestep`. Its help knows the commands by name; what a command needs is imported on use."""

import argparse
import difflib
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from sidestep.runtime.errors import ExitCode, SideStepError, UsageError
from sidestep.runtime.logs import log_file, setup_logging

if TYPE_CHECKING:
    from sidestep.spec.schema import JobSpec

log = logging.getLogger(__name__)

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
    "verify-resume": "prove on this machine that an interrupted run equals an uninterrupted one",
    "schema": "print the JSON schema of the job spec",
    "tiny-checkpoint": "write a random checkpoint set in the original layout, for trials and tests",
    "demo": "the whole pipeline on a tiny model and made music, in minutes",
}

# What a command says about the spec, beyond its flags: path → value. `run` leaves all to the spec.
_TASKS: dict[str, dict[tuple[str, ...], str]] = {
    "run": {},
    "preprocess": {("task",): "preprocess"},
    "estimate": {("task",): "estimate"},
    "train": {("task",): "train"},
    "fixed": {("task",): "train", ("train", "mode"): "corrected"},
    "vanilla": {("task",): "train", ("train", "mode"): "vanilla"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code. Nothing leaves here but what the table of codes names."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except SystemExit as stop:  # argparse's --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        setup_logging()
        log.info("Interrupted; the same command goes on from what is saved")
        return ExitCode.AGAIN
    except SideStepError as error:
        setup_logging()
        level = logging.INFO if error.exit_code is ExitCode.AGAIN else logging.ERROR
        log.log(level, "%s", error, exc_info=True)
        return error.exit_code
    except Exception as error:
        setup_logging()
        where = log_file()
        if where is None:
            traceback.print_exc()
        name = type(error).__name__
        log.error("a bug in Side-Step: %s: %s (traceback: %s)", name, error, where or "above", exc_info=True)
        return ExitCode.BUG
    finally:
        _write("")


def entry() -> NoReturn:
    """The command as a process. After notice, threads that still wait for a store do not hold its end up."""
    code = main()
    if code == ExitCode.AGAIN:
        logging.shutdown()
        os._exit(code)
    sys.exit(code)


def _dispatch(words: list[str]) -> int:
    command, rest = (words[0], words[1:]) if words else ("", [])
    if command in ("-h", "--help", ""):
        _write(_help())
        return ExitCode.DONE if command else ExitCode.USAGE
    if command == "--version":
        from importlib.metadata import version

        _write(f"sidestep {version('side-step')}\n")
    elif command in _TASKS:
        _run_task(command, rest)
    elif command in COMMANDS:
        _OTHERS[command](rest)
    else:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean `sidestep {close[0]}`?" if close else f"there are {', '.join(COMMANDS)}"
        raise UsageError(f"there is no command {command!r}; {hint}")
    return ExitCode.DONE


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    commands = "\n".join(f"  {name:{width}}{line}" for name, line in COMMANDS.items())
    return (
        "usage: sidestep COMMAND [flags]\n\n"
        "Trains LoRA and LoKR adapters for the ACE-Step 1.5 music model.\n\n"
        f"commands:\n{commands}\n\n"
        "`sidestep COMMAND --help` lists a command's flags; `sidestep --version` prints the version.\n\n"
        "A job is described by flags, by SIDESTEP_* variables, or by a YAML file: --config FILE,\n"
        "SIDESTEP_CONFIG, else /etc/sidestep/job.yaml. So, from a container:\n\n"
        "  docker run --gpus all -v $PWD/job.yaml:/etc/sidestep/job.yaml:ro -e AWS_ACCESS_KEY_ID \\\n"
        "      -e AWS_SECRET_ACCESS_KEY IMAGE run\n"
    )


class _Parser(argparse.ArgumentParser):
    """argparse with our exit code for a wrong command line, and no guessing at shortened flags."""

    def __init__(self, command: str, usage: str | None = None) -> None:
        title = COMMANDS[command].capitalize() + "."
        super().__init__(prog=f"sidestep {command}", usage=usage, description=title, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n  `{self.prog} --help` lists the flags")

    def print_help(self, file: Any = None) -> None:
        _write(self.format_help())


def _run_task(command: str, words: list[str]) -> None:
    says = dict(_TASKS[command])
    parser = _job_parser(command, f"sidestep {command} [flags]")
    own_flags = []
    if ("train", "mode") in says:
        parser.add_argument("--preprocess", action="store_true", help="make the tensors instead of training")
        own_flags.append("--preprocess")

    from sidestep.places.release import RentedMachine
    from sidestep.runtime.notice import Notice

    with Notice() as notice, RentedMachine() as machine:
        _, spec, _ = _resolve(parser, words, says, own_flags)
        machine.keep_or_release(spec.runtime.on_exit)

        from sidestep import tasks

        tasks.run(spec, notice)


def _plan(words: list[str]) -> None:
    from sidestep.planning.flags import add_plan_flags

    if "--offline" in words:  # places are not looked at then, and need not be named
        words = ["--audio-dir", "songs", "--output-dir", "output", *words]
    parser = _job_parser("plan", "sidestep plan [JOB.YAML] [flags]")
    options, spec, _ = _resolve(parser, words, {}, add_plan_flags(parser))

    from sidestep.planning.command import plan

    plan(spec, options, _write)


def _render(words: list[str]) -> None:
    from sidestep.places.render import add_render_flags, render

    parser = _job_parser("render", "sidestep render PLACE [JOB.YAML] [flags]")
    options, spec, origins = _resolve(parser, words, {}, add_render_flags(parser))
    render(options, spec, origins, _write)


def _job_parser(command: str, usage: str) -> _Parser:
    parser = _Parser(command, usage)
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the job spec, a YAML file; else SIDESTEP_CONFIG names it, else /etc/sidestep/job.yaml",
    )
    parser.add_argument("--verbose", action="store_true", help="show on the screen what the log file gets")
    return parser


def _resolve(
    parser: _Parser, words: list[str], says: dict[tuple[str, ...], str], own_flags: list[str]
) -> tuple[argparse.Namespace, "JobSpec", dict[str, str]]:
    """The command's options, the job's spec from all sources, and the origin of each value by its name.

    `says` is what the command itself says of the spec, by path; these fields get no flag. A single word
    without a flag is the spec's file.
    """
    from sidestep.spec.flags import add_flags, misspelt_flags
    from sidestep.spec.sources import Given, resolve

    flags = add_flags(parser, leave_out=says)
    options, rest = parser.parse_known_args(words)
    setup_logging(options.verbose)
    if getattr(options, "preprocess", False):
        says["task",] = "preprocess"
    if options.config is None and len(rest) == 1 and not rest[0].startswith("-"):
        options.config = rest.pop()
    spec, origins = resolve(
        flags=[
            *getattr(options, "given", []),
            *(Given(path, value, parser.prog) for path, value in says.items()),
        ],
        config=options.config,
        usage=misspelt_flags(rest, ["--config", "--verbose", "--help", *own_flags, *flags]),
    )
    return options, spec, origins


def _status(words: list[str]) -> None:
    from sidestep.spec.fields import spec_fields
    from sidestep.spec.flags import add_flags
    from sidestep.spec.sources import Given, resolve

    parser = _Parser("status")
    parser.add_argument("place", metavar="PLACE", help="the job's output_dir")
    parser.add_argument("--json", action="store_true", help="as it is stored, for programs")
    parser.add_argument("--watch", action="store_true", help="again every few seconds, until the job ends")
    add_flags(parser, leave_out=[path for path in spec_fields() if path[0] != "storage"])
    options = parser.parse_args(words)
    setup_logging()
    place = [
        Given(("task",), "estimate", parser.prog),
        Given(("output_dir",), options.place, parser.prog),
    ]
    spec, _ = resolve(flags=[*getattr(options, "given", []), *place])

    from sidestep.tasks.status import show_status

    show_status(spec.output_place, spec.storage, as_json=options.json, watch=options.watch, write=_write)


def _verify_resume(words: list[str]) -> None:
    parser = _job_parser("verify-resume", "sidestep verify-resume [JOB.YAML] [flags]")
    parser.add_argument("--steps", type=int, default=6, metavar="N", help="steps to make (default: 6)")
    options, spec, _ = _resolve(parser, words, {("task",): "train"}, ["--steps"])
    if options.steps < 2:
        raise UsageError(f"--steps is {options.steps}; there is no middle in less than 2")

    from sidestep.tasks.verify import verify_resume

    verify_resume(spec, options.steps)


def _schema(words: list[str]) -> None:
    _Parser("schema").parse_args(words)
    from pydantic.json_schema import GenerateJsonSchema

    from sidestep.spec.schema import JobSpec

    schema = {"$schema": GenerateJsonSchema.schema_dialect, **JobSpec.model_json_schema()}
    _write(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")


def _tiny_checkpoint(words: list[str]) -> None:
    parser = _Parser("tiny-checkpoint")
    parser.add_argument("folder", metavar="DIR", help="folder to write the checkpoint set into")
    parser.add_argument(
        "--variants",
        nargs="+",
        metavar="NAME",
        default=["base", "turbo", "xl-base"],
        help="model variants to write (default: base turbo xl-base)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the weights (default: 0)")
    options = parser.parse_args(words)
    setup_logging()
    from pathlib import Path

    from sidestep.acestep.tiny import write_tiny_checkpoint

    write_tiny_checkpoint(Path(options.folder), options.variants, options.seed)
    log.info("Wrote %s to %s", ", ".join(options.variants), options.folder)


def _demo(words: list[str]) -> None:
    parser = _Parser("demo")
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", default="demo", help="folder for it (default: demo)"
    )
    options = parser.parse_args(words)
    setup_logging()
    from pathlib import Path

    from sidestep.demo import demo

    demo(Path(options.folder))


_OTHERS: dict[str, Callable[[list[str]], Any]] = {
    "plan": _plan,
    "render": _render,
    "status": _status,
    "verify-resume": _verify_resume,
    "schema": _schema,
    "tiny-checkpoint": _tiny_checkpoint,
    "demo": _demo,
}


def _write(text: str) -> None:
    """Write to standard output and flush it. A reader that has gone (`sidestep schema | head`) is fine."""
    if sys.stdout is None:  # closed by whoever started this
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
