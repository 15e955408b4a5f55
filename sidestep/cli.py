"""The command `sidestep`: from what was typed to an exit code. What a command needs is imported on use."""

import gc
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import NoReturn

from sidestep.commands import COMMANDS, DEFAULT
from sidestep.commands.command import Call
from sidestep.runtime import interrupts
from sidestep.runtime.console import answered, is_interactive, write, write_json
from sidestep.runtime.errors import ExitCode, MachineError, SideStepError, UsageError
from sidestep.runtime.logs import is_json, log_file, setup_logging
from sidestep.runtime.ranks import follower, is_beside_another, is_rank
from sidestep.runtime.secrets import hide
from sidestep.runtime.shown import indented
from sidestep.runtime.words import did_you_mean

log = logging.getLogger(__name__)

HELP_FLAGS = ("-h", "--help", "--help-all")
HELP = """\
usage: sidestep COMMAND [flags]

Trains LoRA and LoKR adapters for the ACE-Step 1.5 music model.

{commands}

`sidestep` alone starts the wizard, `sidestep COMMAND --help` lists flags.

A job is described by flags, SIDESTEP_* variables or a YAML file: --config FILE,
SIDESTEP_CONFIG, or /etc/sidestep/job.yaml. In a container:

  docker run --gpus all -v $PWD/job.yaml:/etc/sidestep/job.yaml:ro \\
      -e AWS_ACCESS_KEY_ID -e AWS_SECRET_ACCESS_KEY IMAGE run
"""


def main(argv: Sequence[str] | None = None, is_process: bool = True) -> int:
    """Run one command and return the exit code. Nothing leaves here but what the table of codes names, and
    SIGTERM: the wizard, which runs commands that are not the process, ends with them."""
    words = list(sys.argv[1:] if argv is None else argv)
    interrupts.forget()
    answered.clear()
    try:
        return _dispatch_installed(words, is_process)
    except interrupts.Terminated:
        _tell_interrupted(words)
        raise
    except SystemExit as stop:  # argparse's --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return _tell_interrupted(words)
    except SideStepError as error:
        setup_logging()
        level = logging.INFO if error.exit_code is ExitCode.AGAIN else logging.ERROR
        if not error.is_own and is_beside_another(os.environ):
            level = logging.DEBUG  # that one has found the same, and says it
        log.log(level, "%s", error, exc_info=True)
        _tell_programs(words, str(error), error.exit_code)
        return error.exit_code
    except Exception as error:
        if interrupts.came():
            return _tell_interrupted(words)
        setup_logging()
        where = log_file()
        if where is None and not is_json():
            sys.stderr.write(hide(indented(traceback.format_exc())))
        name = type(error).__name__
        log.error("a bug in Side-Step: %s: %s (traceback: %s)", name, error, where or "above", exc_info=True)
        _tell_programs(words, f"a bug in Side-Step: {name}: {error}", ExitCode.BUG)
        return ExitCode.BUG
    finally:
        write("")


def _tell_programs(words: Sequence[str], said: str, code: ExitCode) -> None:
    """An error as JSON, for who has asked for that and has got none. Of several processes, rank 0 tells."""
    if "--json" in words and not answered.is_set() and not follower(os.environ):
        write_json({"error": {"exit_code": int(code), "said": said}})


def _tell_interrupted(words: Sequence[str]) -> int:
    setup_logging()
    command = COMMANDS.get(words[0] if words else DEFAULT)
    hint = "; run the same command again to continue from what is saved"
    log.info("Interrupted%s", hint if command and command.goes_on else "")
    return ExitCode.AGAIN


def entry() -> NoReturn:
    """The command as a process. After notice, threads that still wait for a store do not hold its end up."""
    interrupts.raise_them()
    try:
        code = main()
    except (interrupts.Terminated, KeyboardInterrupt):  # the latter: once more, while the first was told
        code = ExitCode.AGAIN
    interrupts.end_at_once(code)
    if code == ExitCode.AGAIN or is_rank(
        os.environ
    ):  # torch's own end may abort while other ranks still work
        sys.stdout.flush()
        logging.shutdown()
        os._exit(code)
    gc.freeze()  # the last collections would look through all of torch, for seconds
    sys.exit(code)


def _dispatch_installed(words: list[str], is_process: bool) -> int:
    """A package that is missing is no bug: so a clone looks that `make setup` has not seen."""
    try:
        return _dispatch(words, is_process)
    except ModuleNotFoundError as error:
        package = (error.name or "sidestep").partition(".")[0]
        if package == "sidestep" or interrupts.came():
            raise
        raise MachineError(
            f"the package {package} is not installed for {sys.executable}\n"
            "  `make setup` makes .venv with all packages; `uv run` takes that one, as does a shell after "
            "`source .venv/bin/activate`"
        ) from error


def _dispatch(words: list[str], is_process: bool) -> int:
    name, rest = (words[0], words[1:]) if words else ("", [])
    if not name and is_interactive():
        name = DEFAULT
    if name in ("-h", "--help", ""):
        write(_help())
        return ExitCode.DONE if name else ExitCode.USAGE
    if name == "--version":
        from importlib.metadata import version

        write(f"sidestep {version('side-step')}\n")
        return ExitCode.DONE
    command = COMMANDS.get(name)
    if command is None:
        hint = did_you_mean(name, COMMANDS, spelt="`sidestep {}`")
        raise UsageError(f"there is no command {name!r}; {hint}")
    if command.is_announced and not any(word in HELP_FLAGS for word in rest):
        _announce(name, rest if command.module == COMMANDS["run"].module else None)
    command.run(Call(command.parser(), rest, COMMANDS, partial(main, is_process=False), is_process))
    return ExitCode.DONE


def _announce(name: str, job: Sequence[str] | None) -> None:
    """Say what runs, before anything is imported that takes time, and in the log with what. `job` are the
    words of a command that does one, whose spec says how its lines look."""
    from sidestep.runtime.jsonlines import is_wanted
    from sidestep.runtime.versions import log_versions

    setup_logging(as_json=job is not None and is_wanted(job))
    log_versions(f"sidestep {name}")


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    groups = [
        "\n".join([f"{group}:", *(f"  {command.name:{width}}{command.help}" for command in commands)])
        for group, commands in groupby(COMMANDS.values(), key=lambda command: command.group)
    ]
    return HELP.format(commands="\n\n".join(groups))
