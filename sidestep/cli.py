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

from sidestep.commands import COMMANDS, GROUPS, TASKS, parser_of
from sidestep.runtime.console import write
from sidestep.runtime.errors import ExitCode, MachineError, SideStepError, UsageError
from sidestep.runtime.logs import log_file, setup_logging

if TYPE_CHECKING:
    from sidestep.config.job import JobSpec

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code. Nothing leaves here but what the table of codes names."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch_installed(words)
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
        write("")


def entry() -> NoReturn:
    """The command as a process. After notice, threads that still wait for a store do not hold its end up."""
    code = main()
    if code == ExitCode.AGAIN:
        logging.shutdown()
        os._exit(code)
    sys.exit(code)


def _dispatch_installed(words: list[str]) -> int:
    """A package that is missing is no bug: so a clone looks that `make setup` has not seen."""
    try:
        return _dispatch(words)
    except ModuleNotFoundError as error:
        package = (error.name or "sidestep").partition(".")[0]
        if package == "sidestep":
            raise
        raise MachineError(
            f"the package {package} is not installed for {sys.executable}\n"
            "  `make setup` makes .venv with all packages; `uv run` takes that one, as does a shell after "
            "`source .venv/bin/activate`"
        ) from error


def _dispatch(words: list[str]) -> int:
    command, rest = (words[0], words[1:]) if words else ("", [])
    if not command and _on_terminal():
        command = "wizard"
    if command in ("-h", "--help", ""):
        write(_help())
        return ExitCode.DONE if command else ExitCode.USAGE
    if command == "--version":
        from importlib.metadata import version

        write(f"sidestep {version('side-step')}\n")
    elif command in TASKS:
        _run_task(command, rest)
    elif command in COMMANDS:
        _OTHERS[command](rest)
    else:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean `sidestep {close[0]}`?" if close else f"there are {', '.join(COMMANDS)}"
        raise UsageError(f"there is no command {command!r}; {hint}")
    return ExitCode.DONE


def _on_terminal() -> bool:
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    groups = [
        "\n".join([f"{title}:", *(f"  {name:{width}}{says}" for name, says in commands.items())])
        for title, commands in GROUPS.items()
    ]
    return (
        "usage: sidestep COMMAND [flags]\n\n"
        "Trains LoRA and LoKR adapters for the ACE-Step 1.5 music model.\n\n"
        + "\n\n".join(groups)
        + "\n\n`sidestep COMMAND --help` lists its flags, `sidestep --version` the version.\n\n"
        "A job is described by flags, by SIDESTEP_* variables, or by a YAML file:\n"
        "--config FILE, SIDESTEP_CONFIG, else /etc/sidestep/job.yaml. In a container:\n\n"
        "  docker run --gpus all -v $PWD/job.yaml:/etc/sidestep/job.yaml:ro \\\n"
        "      -e AWS_ACCESS_KEY_ID -e AWS_SECRET_ACCESS_KEY IMAGE run\n"
    )


def _run_task(command: str, words: list[str]) -> None:
    if "--dry-run" in words:
        _dry_run(command, words)
        return

    from sidestep.platforms.release import RentedMachine
    from sidestep.runtime.preemption import Preemption

    with Preemption() as preemption, RentedMachine() as machine:
        options, spec, _ = _resolve(command, words, dict(TASKS[command]))
        if options.json and spec.task != "estimate":
            raise UsageError(
                "--json goes with --dry-run and with estimate; `sidestep status --json` tells of a run"
            )
        machine.keep_or_release(spec.runtime.on_exit)

        from sidestep import tasks

        tasks.run(spec, preemption)
        if options.json:
            from sidestep.tasks.estimate import report

            write(report(spec))


def _dry_run(command: str, words: list[str]) -> None:
    options, spec, origins = _resolve(command, words, dict(TASKS[command]))

    from sidestep.config.resolved import as_json, as_yaml

    write(as_json(spec, origins) if options.json else as_yaml(spec, origins))


def _plan(words: list[str]) -> None:
    options, spec, _ = _resolve("plan", words)

    from sidestep.commands.plan import plan

    plan(spec, options, write)


def _render(words: list[str]) -> None:
    options, spec, origins = _resolve("render", words)

    from sidestep.platforms.render import render

    render(options, spec, origins, write)


def _resolve(
    command: str, words: list[str], says: dict[tuple[str, ...], str] | None = None
) -> tuple[argparse.Namespace, "JobSpec", dict[str, str]]:
    """The command's options, the job's spec from all sources, and the origin of each value by its name.

    `says` is what the command itself says of the spec, by path. A single word without a flag is the spec's
    file.
    """
    from sidestep.commands.flags import misspelt_flags
    from sidestep.config.job import resolve
    from sidestep.config.sources import Given

    says = says or {}
    parser = parser_of(command)
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
        preset=options.preset,
        usage=misspelt_flags(rest, parser.flags),
        needs_places=not getattr(options, "offline", False),  # a plan that looks at nothing
    )
    return options, spec, origins


def _status(words: list[str]) -> None:
    parser = parser_of("status")
    options = parser.parse_args(words)
    setup_logging()

    from sidestep.commands.status import show_status
    from sidestep.config.job import resolve
    from sidestep.config.sources import Given

    place = Given(("output_dir",), options.place, parser.prog)
    spec, _ = resolve(flags=[*getattr(options, "given", []), place], needs_places=False)
    show_status(spec.output_place, spec.storage, as_json=options.json, watch=options.watch, write=write)


def _presets(words: list[str]) -> None:
    options = parser_of("presets").parse_args(words)
    setup_logging()

    from sidestep.commands.presets import run_preset_action

    run_preset_action(options, write)


def _wizard(words: list[str]) -> None:
    parser_of("wizard").parse_args(words)
    if not _on_terminal():
        raise UsageError("the wizard asks its questions on a terminal, and this is none")

    from sidestep.wizard.wizard import wizard

    wizard(main, write)


def _export(words: list[str]) -> None:
    parser = parser_of("export")
    options = parser.parse_args(words)
    setup_logging()

    from sidestep.commands.export import export
    from sidestep.config.job import resolve
    from sidestep.config.sources import Given

    place = Given(("output_dir",), options.adapter, parser.prog)  # so it is checked as a place is
    spec, _ = resolve(flags=[*getattr(options, "given", []), place], needs_places=False)
    export(spec, options.adapter, options.format, options.output, offline=options.offline)


def _completion(words: list[str]) -> None:
    options = parser_of("completion").parse_args(words)

    from sidestep.commands.completion import completion

    write(completion(options.shell))


def _verify_resume(words: list[str]) -> None:
    options, spec, _ = _resolve("verify-resume", words, dict(TASKS["train"]))
    if options.steps < 2:
        raise UsageError(f"--steps is {options.steps}; there is no middle in less than 2")

    from sidestep.tasks.verify import verify_resume

    verify_resume(spec, options.steps)


def _schema(words: list[str]) -> None:
    parser_of("schema").parse_args(words)
    from pydantic.json_schema import GenerateJsonSchema

    from sidestep.config.job import JobSpec

    schema = {"$schema": GenerateJsonSchema.schema_dialect, **JobSpec.model_json_schema()}
    write(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")


def _tiny_checkpoint(words: list[str]) -> None:
    options = parser_of("tiny-checkpoint").parse_args(words)
    setup_logging()
    from pathlib import Path

    from sidestep.acestep.tiny import write_tiny_checkpoint

    write_tiny_checkpoint(Path(options.folder), options.variants, options.seed)
    log.info("Wrote %s to %s", ", ".join(options.variants), options.folder)


def _demo(words: list[str]) -> None:
    options = parser_of("demo").parse_args(words)
    setup_logging()
    from pathlib import Path

    from sidestep.tasks.demo import demo

    demo(Path(options.folder))


_OTHERS: dict[str, Callable[[list[str]], Any]] = {
    "plan": _plan,
    "render": _render,
    "status": _status,
    "presets": _presets,
    "wizard": _wizard,
    "export": _export,
    "completion": _completion,
    "verify-resume": _verify_resume,
    "schema": _schema,
    "tiny-checkpoint": _tiny_checkpoint,
    "demo": _demo,
}
