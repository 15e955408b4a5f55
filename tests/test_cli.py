"""The command line: its help, and one message and the right code for whatever goes wrong."""

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import sidestep
from sidestep.cli import main
from sidestep.commands import COMMANDS, DEFAULT
from sidestep.runtime.errors import AgainError, ExitCode, MissingInputError
from tests.facts import tells
from tests.fake_tasks import Tasks


def test_root_help_lists_the_commands() -> None:
    run = subprocess.run([sys.executable, "-m", "sidestep", "--help"], capture_output=True, text=True)
    assert run.returncode == 0
    assert all(f"  {command} " in run.stdout for command in COMMANDS)
    assert max(map(len, run.stdout.splitlines())) <= 80


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == ExitCode.USAGE
    assert capsys.readouterr().out.startswith("usage: sidestep COMMAND")


def test_root_help_loads_no_command_and_nothing_that_a_spec_needs() -> None:
    code = (
        "import sys; from sidestep.cli import main; main(['--help'])\n"
        "heavy = {'pydantic', 'ruamel', 'rich', 'boto3', 'numpy', 'torch', 'sidestep.config'}\n"
        "print(heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_every_row_names_a_command() -> None:
    assert DEFAULT in COMMANDS
    for name, command in COMMANDS.items():
        assert command.parser().prog == f"sidestep {name}"
        assert callable(sys.modules[command.module].run)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: sidestep {command}")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for flag in ("--help", "--help-all")[: 2 if "--help-all" in COMMANDS[command].parser().flags else 1]:
        assert main([command, flag]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80


def test_no_help_loads_torch() -> None:
    code = (
        "import sys; from sidestep.cli import main\n"
        f"for command in {list(COMMANDS)}: main([command, '--help'])\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split()[0] == "sidestep"


def what_is_said(capsys: pytest.CaptureFixture[str]) -> str:
    """On standard error, but the first line of the commands that begin with their name."""
    return re.sub(r"^sidestep \S+, version \S+\n", "", capsys.readouterr().err)


def test_something_is_said_before_what_takes_long_is_imported() -> None:
    code = (
        "import io, sys; from sidestep.cli import main\n"
        "class Said(io.StringIO):\n"
        "    def write(self, text):\n"
        "        print(text.split()[:2], {'numpy', 'torch', 'boto3', 'pydantic'} & set(sys.modules))\n"
        "sys.stderr = Said()\n"
        "main(['export', 'nowhere', '--format', 'app'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "['sidestep', 'export,'] set()"


def test_what_is_wrong_is_said_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from sidestep.cli import main\n"
        "print(main(['export', 'nowhere', '--format', 'app']), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["66", "False"]


def test_the_log_begins_with_the_command_versions_and_the_spec_s_digest(tasks: Tasks) -> None:
    main(["train", "--output-dir", "o", "--dataset-dir", "t"])
    lines = Path("sidestep.log").read_text().splitlines()
    assert tells(lines[0], "sidestep train", version("side-step"))
    assert tells(lines[1], "DEBUG", platform.python_version(), f"torch {version('torch')}")
    assert any(tells(line, "DEBUG", "dataset_dir", "--dataset-dir") for line in lines)
    assert any(re.search("digest is [0-9a-f]{16}$", line) for line in lines)


@pytest.mark.parametrize(
    ("line", "code", "facts"),
    [
        ("fixde", 64, ["'fixde'", "`sidestep fixed`"]),
        ("tain --lr 1", 64, ["'tain'", "`sidestep train`"]),
        ("xyz", 64, ["'xyz'", *COMMANDS]),
        ("train --output-dir o --epcohs 3", 64, ["--epcohs", "--epochs?"]),
        ("train --output-dir o --lr", 64, ["--lr", "`sidestep train --help`"]),
        ("fixed --output-dir o --mode vanilla", 64, ["--mode", "train.mode"]),
        ("run job.yaml more.yaml", 64, ["'job.yaml'", "'more.yaml'", "--config job.yaml"]),
        ("run job.yaml", 66, ["job.yaml"]),
        ("schema --json", 64, ["--json", "`sidestep schema --help`"]),
        ("tiny-checkpoint", 64, ["DIR"]),
        ("train", 78, ["output_dir", "task train"]),
        ("train --output-dir o --epochs 0", 78, ["train.epochs = '0'", "--epochs", "at least 1"]),
        ("run --config nowhere.yaml", 66, ["nowhere.yaml"]),
        ("wizard", 64, ["terminal"]),
    ],
)
def test_wrong_commands(
    line: str, code: int, facts: list[str], tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == code
    error = what_is_said(capsys)
    assert error.startswith("error: ")
    assert [fact for fact in facts if fact not in error] == []
    assert "Traceback" not in error
    assert not tasks.specs


@pytest.mark.parametrize(
    ("failure", "code", "facts"),
    [
        (MissingInputError("no songs in s3://studio"), 66, ["error: no songs in s3://studio"]),
        (AgainError("another writer took over"), 75, ["another writer took over"]),
        (KeyboardInterrupt(), 75, ["same command"]),
        (ModuleNotFoundError(name="peft"), 72, ["error:", "peft", sys.executable, "make setup"]),
        (
            ModuleNotFoundError("no x", name="sidestep.x"),
            70,
            ["error:", "bug", "ModuleNotFoundError: no x", "{log}"],
        ),
        (KeyError("x"), 70, ["error:", "bug", "KeyError: 'x'", "{log}"]),
    ],
)
def test_failures_are_one_message_and_a_code(
    failure: BaseException, code: int, facts: list[str], tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks.failure = failure
    assert main(["train", "--output-dir", "o"]) == code
    log = Path.cwd() / "sidestep.log"
    error = what_is_said(capsys)
    assert [fact for fact in facts if fact.format(log=log) not in error] == []
    assert error.startswith("error: ") == (code != ExitCode.AGAIN)
    assert "Traceback" not in error
    if not isinstance(failure, KeyboardInterrupt):
        assert "Traceback (most recent call last)" in log.read_text()


def test_what_saves_nothing_promises_no_continuation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(call: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sidestep.commands.plan.run", interrupt)
    assert main(["plan", "--output-dir", "o"]) == ExitCode.AGAIN
    said = capsys.readouterr().err
    assert "Interrupted" in said and "same command" not in said


def test_a_bug_without_a_log_file_shows_its_traceback(
    tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("sidestep.log").mkdir()
    tasks.failure = ZeroDivisionError("oops")
    assert main(["train", "--output-dir", "o"]) == ExitCode.BUG
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert "ZeroDivisionError: oops" in error.splitlines()[-1]


def test_after_notice_no_thread_holds_the_end_up() -> None:
    code = (
        "import threading, time; from sidestep import cli\n"
        "threading.Thread(target=time.sleep, args=[90]).start()\n"
        "cli.main = lambda: 75\n"
        "cli.entry()"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == ExitCode.AGAIN


def test_a_reader_that_leaves_is_no_failure() -> None:
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run([sys.executable, "-m", "sidestep", "schema"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (run.returncode, run.stderr) == (0, b"")


def test_standard_output_may_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["schema"]) == 0


def test_train_py_is_the_same_command() -> None:
    script = Path(__file__).parents[1] / "train.py"
    run = subprocess.run([sys.executable, script, "fixde"], capture_output=True, text=True)
    assert run.returncode == ExitCode.USAGE
    assert "`sidestep fixed`" in run.stderr


def test_the_public_interface(tasks: Tasks) -> None:
    spec = sidestep.JobSpec.load(audio_dir="a", output_dir="o")
    sidestep.run(spec)
    assert tasks.specs == [spec]
    assert {"JobSpec", "run", "acestep", "adapters"} <= set(dir(sidestep))
    with pytest.raises(AttributeError, match="runn"):
        _ = sidestep.runn
