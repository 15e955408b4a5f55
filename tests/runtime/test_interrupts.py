"""Signals to the command's process: 75, without a traceback, from its first line to its last."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SIGNALS = [signal.SIGTERM, signal.SIGINT]
ALL = [*SIGNALS, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]


def ended(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def command(words: str, before: str) -> str:
    """The command in a process in which `before` prepares what happens to it; `send()` sends the signal."""
    return (
        "import os, signal, sys\n"
        "def send(*_): os.kill(os.getpid(), int(os.environ['NUMBER']))\n"
        f"{before}\n"
        f"sys.argv = ['sidestep', *{words.split()}]\n"
        "from sidestep.__main__ import entry\n"
        "entry()\n"
    )


IMPORTED = """
class Finder:
    def find_spec(self, name, *_):
        if name == os.environ['MODULE']:
            send()
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("module", ["sidestep.cli", "argparse", "pydantic", "sidestep.config.schema"])
def test_while_it_imports(number: int, module: str) -> None:
    done = ended(command("schema", IMPORTED), NUMBER=str(int(number)), MODULE=module)
    assert done.returncode == 75
    assert not done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("error", ["ImportError", "ModuleNotFoundError"])
def test_a_library_that_makes_another_error_of_it(number: int, error: str) -> None:
    masked = (
        "from sidestep.commands import schema\n"
        "def run(call):\n"
        "    try: send()\n"
        f"    except BaseException: raise {error}('numpy', name='numpy')\n"
        "schema.run = run"
    )
    done = ended(command("schema", masked), NUMBER=str(int(number)))
    assert done.returncode == 75
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", SIGNALS)
def test_in_a_destructor_it_is_not_dropped(number: int) -> None:
    dropped = (
        "from sidestep.commands import schema\n"
        "class Dying:\n"
        "    def __del__(self): send()\n"
        "def run(call):\n"
        "    Dying()\n"
        "    print('went on')\n"
        "schema.run = run"
    )
    done = ended(command("schema", dropped), NUMBER=str(int(number)))
    assert (done.returncode, done.stdout, done.stderr) == (75, "", "")


@pytest.mark.parametrize("number", ALL)
def test_what_is_temporary_is_cleared(number: int, tmp_path: Path) -> None:
    """Also where the signal comes several times, as to a process group and then to the process."""
    busy = (
        "from pathlib import Path\n"
        "from sidestep.commands import schema\n"
        "from sidestep.runtime.workspace import Workspace\n"
        "def run(call):\n"
        f"    with Workspace(Path({str(tmp_path)!r})).temporary():\n"
        "        try: send()\n"
        "        finally: send(); send()\n"
        "schema.run = run"
    )
    assert ended(command("schema", busy), NUMBER=str(int(number))).returncode == 75
    assert (tmp_path / "temporary").is_dir()
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("number", SIGNALS)
def test_once_more_while_it_is_told(number: int) -> None:
    impatient = (
        "from sidestep import cli\n"
        "from sidestep.runtime import interrupts\n"
        "interrupts.ONE_NOTICE = 0\n"
        "from sidestep.commands import schema\n"
        "schema.run = send\n"
        "cli._tell_interrupted = send"
    )
    done = ended(command("schema", impatient), NUMBER=str(int(number)))
    assert done.returncode == 75
    assert "Traceback" not in done.stderr


def test_at_its_end_it_keeps_its_code() -> None:
    late = "import atexit\natexit.register(send)"
    done = ended(command("--version", late), NUMBER=str(int(signal.SIGINT)))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("number", ALL)
def test_a_later_one_ends_what_hangs(number: int) -> None:
    stubborn = (
        "from sidestep.commands import schema\n"
        "from sidestep.runtime import interrupts\n"
        "interrupts.ONE_NOTICE = 0\n"
        "def run(call):\n"
        "    try: send()\n"
        "    except BaseException: pass\n"
        f"    try: os.kill(os.getpid(), {int(signal.SIGTERM)})\n"
        "    except BaseException: print('raised')\n"
        "schema.run = run"
    )
    done = ended(command("schema", stubborn), NUMBER=str(int(number)))
    assert (done.returncode, done.stdout) == (75, "")


def test_below_nohup_a_hang_up_is_none() -> None:
    code = command(
        "schema", "from sidestep.commands import schema\nschema.run = lambda call: (send(), print('on'))"
    )
    done = ended(
        "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + code, NUMBER=str(int(signal.SIGHUP))
    )
    assert (done.returncode, done.stdout) == (0, "on\n")
