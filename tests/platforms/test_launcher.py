"""`sidestep launch`: which code it ends with, what its processes know, and that none of them is left."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from sidestep.platforms.launcher import together
from tests.facts import tells

REPO = Path(__file__).parents[2]
SOON = 5.0  # seconds; the rest is done in one

# A stand-in for `sidestep`: each rank does what the line of its number says.
STAND_IN = """
import os, signal, sys, time
rank = int(os.environ["RANK"])
said = [str(rank), os.environ["WORLD_SIZE"], os.environ["LOCAL_RANK"], *sys.argv[1:]]
signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
os.write(1, (" ".join(said) + "\\n").encode())
exec(open("does").read().split("\\n")[rank])
"""

LAUNCHES = """
import sys
from sidestep.platforms.launcher import launch
from sidestep.runtime.logs import setup_logging
from sidestep.runtime.ranks import Node
setup_logging()
command = [sys.executable, "stand_in.py", "train", "job.yaml"]
sys.exit(launch(command, Node(0, 1, "127.0.0.1", 0), {count}))
"""


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([(1, 0), (0, 0)], 0),
        ([(0, 0), (1, 76)], 0),  # a finished run is no failure
        ([(1, 0)], 0),  # of another node
        ([(1, 75), (0, 75)], 75),
        ([(1, 76), (2, 74), (0, 75)], 76),
        ([(1, 76), (2, 65), (0, 74)], 65),
        ([(2, 65), (1, 78)], 65),
        ([(2, 69), (1, 72), (0, 74)], 69),
        ([(0, 74), (1, 75)], 75),
        ([(0, 74), (1, 74)], 74),
        ([(0, 74), (1, 1)], 1),
    ],
)
def test_the_code_that_counts(ends: list[tuple[int, int]], code: int) -> None:
    assert together(ends) == code


def started(folder: Path, *does: str) -> subprocess.Popen[str]:
    """`sidestep launch` of as many processes, in `folder`."""
    (folder / "stand_in.py").write_text(STAND_IN)
    (folder / "does").write_text("\n".join(does))
    (folder / "launches.py").write_text(LAUNCHES.format(count=len(does)))
    return subprocess.Popen(
        [sys.executable, "launches.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def said_by(process: subprocess.Popen[str]) -> str:
    """All that it says until its end, which comes soon."""
    try:
        return process.communicate(timeout=SOON)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()  # its processes end with it
        pytest.fail("it has not ended")


def test_what_the_processes_know(tmp_path: Path) -> None:
    process = started(tmp_path, "", "", "")
    said = said_by(process)
    assert sorted(line for line in said.splitlines() if "train" in line) == [
        f"{rank} 3 {rank} train job.yaml" for rank in range(3)
    ]
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 76),
        ("os.abort()", 76),
        ("sys.exit(65)", 65),
        ("sys.exit(75)", 75),  # notice to it alone, before it has met the others
    ],
)
def test_where_one_fails_the_others_are_ended(tmp_path: Path, end: str, code: int) -> None:
    process = started(tmp_path, "time.sleep(600)", end)
    said = said_by(process)
    assert process.returncode == code, said
    assert code == 75 or tells(said, "Rank 1", str(code))


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", ["rank 1", "137", "killed"]),
        ("sys.exit(71)", ["rank 1", "71", "memory"]),
        ("sys.exit(75)", ["nothing"]),
    ],
)
def test_the_others_can_know_which_one_has_failed(tmp_path: Path, end: str, said: list[str]) -> None:
    """All that they see is a signal of the launcher's."""
    reads = (
        "from sidestep.runtime.ranks import lost_rank; print(lost_rank(os.environ) or 'nothing', flush=True)"
    )
    waits = f"signal.signal(15, lambda *_: (exec({reads!r}), os._exit(75))); time.sleep(600)"
    process = started(tmp_path, waits, f"time.sleep(0.5); {end}")
    lines = said_by(process).splitlines()
    assert any(tells(line, *said) for line in lines if not line.startswith(("error:", "warning:")))


@pytest.mark.parametrize(("threads", "is_too_many"), [("", False), ("1", False), ("4096", True)])
def test_more_threads_than_cores_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: str, is_too_many: bool
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    shows = "print(int(os.environ['OMP_NUM_THREADS']))"
    process = started(tmp_path, shows, shows)
    said = said_by(process)
    assert (said.count("OMP_NUM_THREADS is 4096") == 1) == is_too_many
    assert process.returncode == 0, said


def test_who_finds_the_same_fault_is_not_told_to_stop(tmp_path: Path) -> None:
    """A wrong spec is found by each process: "Interrupted; run it again" on top of it would be no advice."""
    process = started(
        tmp_path, "signal.signal(15, lambda *_: print('told')); time.sleep(0.3); sys.exit(78)", "sys.exit(78)"
    )
    said = said_by(process)
    assert process.returncode == 78 and "told" not in said, said


def test_a_signal_is_for_all(tmp_path: Path) -> None:
    process = started(tmp_path, *["time.sleep(600)"] * 2)
    assert process.stdout
    assert {process.stdout.readline()[0], process.stdout.readline()[0]} == {"0", "1"}
    process.send_signal(signal.SIGTERM)
    said_by(process)
    assert process.returncode == 75


def test_none_is_left_where_the_launcher_is_killed(tmp_path: Path) -> None:
    process = started(tmp_path, *["open(f'{rank}', 'w').write(str(os.getpid())); time.sleep(600)"] * 2)
    until = time.monotonic() + SOON
    while not all((tmp_path / str(n)).is_file() and (tmp_path / str(n)).read_text() for n in range(2)):
        assert time.monotonic() < until
        time.sleep(0.05)
    pids = [int((tmp_path / str(number)).read_text()) for number in range(2)]
    process.kill()
    try:
        process.communicate(timeout=SOON)  # each of them holds the other end of the pipe
    except subprocess.TimeoutExpired:
        pytest.fail("they have not ended")
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()
