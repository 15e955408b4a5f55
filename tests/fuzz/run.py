"""`make fuzz`: every reader of foreign files on changed ones, in a process of its own.

Each is read, or refused with a message and code 64, 65, 66 or 78, within two seconds and half a gigabyte, and
nothing outside of its folder is changed or run. What is not goes to tests/fuzz/corpus/<loader>/, which
`make test` reads again.

    python -m tests.fuzz.run --only tensors --seconds 30 --seed 7
"""

import argparse
import hashlib
import io
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from types import FrameType

from sidestep.runtime.errors import SideStepError
from tests.fuzz.guard import watched
from tests.fuzz.loaders import LOADERS
from tests.fuzz.mutate import mutated

CORPUS = Path(__file__).parent / "corpus"
CODES = (64, 65, 66, 78)
SECONDS_AT_MOST = 2.0
SECONDS_TO_KILL = 30  # by the clock, for what waits
RESTARTS = 9  # of a loader whose process was ended
MEMORY_AT_MOST = 500_000  # kB, beyond what the process had before
TIMERS = (  # a machine that is busy makes no reader slow
    (signal.SIGPROF, signal.ITIMER_PROF, None),
    (signal.SIGALRM, signal.ITIMER_REAL, SECONDS_TO_KILL),
)


class SlowError(Exception):
    """A reader took longer than it may."""


def check(name: str, data: bytes, seconds: float = SECONDS_AT_MOST) -> str | None:
    """What is wrong with how a loader takes `data`; None where nothing is. For the main thread."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise SlowError

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        for number, timer, most in TIMERS:
            signal.signal(number, stop)
            signal.setitimer(timer, most or seconds)
        try:
            with redirect_stdout(io.StringIO()), watched(Path(folder)) as done_elsewhere:
                LOADERS[name].read(data, Path(folder))
        except SideStepError as error:
            if error.exit_code not in CODES:
                return f"code {error.exit_code}: {error}"
        except BaseException as error:  # noqa: BLE001 - all others are what is looked for
            return f"{type(error).__name__}: {error}"
        finally:
            for _, timer, _ in TIMERS:
                signal.setitimer(timer, 0)
    if done_elsewhere:
        return f"outside of its folder: {done_elsewhere[0]}"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return f"{grown / 1000:.0f} MB" if grown > MEMORY_AT_MOST else None


def fuzz(name: str, seconds: float, seed: int, last: Path) -> int:
    """Try one loader, and keep what it fails on; how many kinds of failures there were.

    The file that is being read is in `last`, too, which outlives a crash of the interpreter.
    """
    dice, end, tries, found = random.Random(f"{seed}/{name}"), time.monotonic() + seconds, 0, set()
    kept = [file.read_bytes() for file in sorted((CORPUS / name).glob("*"))]
    seeds = LOADERS[name].seeds()
    for data in seeds:
        if wrong := check(name, data, SECONDS_TO_KILL):  # the first one loads what is imported late
            print(f"{name}: of a sound file {wrong}", flush=True)
            return 1
    while time.monotonic() < end:
        data = dice.choice(seeds + kept)
        for _ in range(dice.choice([1, 1, 1, 2, 5])):
            data = mutated(data, dice)
        last.write_bytes(data)
        tries += 1
        if (wrong := check(name, data)) and wrong[:30] not in found:
            found.add(wrong[:30])
            _keep(name, data, wrong)
    print(f"{name:12} {tries:8,} files  {len(found)} found", flush=True)
    return len(found)


def _keep(name: str, data: bytes, wrong: str) -> None:
    file = CORPUS / name / hashlib.sha256(data).hexdigest()[:12]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    print(f"{name}: {wrong.splitlines()[0][:200]!r}\n  kept as {file}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=LOADERS, nargs="+", default=list(LOADERS))
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--last", type=Path, help=argparse.SUPPRESS)  # in the process of one loader
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    if options.last:
        os.fsync = lambda fd: None  # nothing here is to outlast a power cut, and it takes most of the time
        return min(fuzz(options.only[0], options.seconds, options.seed, options.last), 1)
    failed = [name for name in options.only if not is_sound(name, options.seconds, options.seed)]
    print(f"seed {options.seed}: {', '.join(failed) or 'nothing'} failed")
    return bool(failed)


def is_sound(name: str, seconds: float, seed: int) -> bool:
    """Try one loader in a process of its own; begun again, where that was ended by what it read."""
    end, sound = time.monotonic() + seconds, True
    with tempfile.TemporaryDirectory() as folder:
        for again in range(RESTARTS):
            last = Path(folder, f"last-{again}")
            left = str(max(end - time.monotonic(), 1))
            flags = ["--only", name, "--seconds", left, "--seed", str(seed + again), "--last", str(last)]
            command = [sys.executable, "-m", "tests.fuzz.run", *flags]
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            why = end_where_it_is_too_much(process, last)
            sound = sound and process.returncode == 0
            if process.returncode >= 0:
                return sound
            if last.exists():
                _keep(name, last.read_bytes(), why or f"ended by signal {-process.returncode}")
    return False


def end_where_it_is_too_much(process: "subprocess.Popen[bytes]", last: Path) -> str:
    """Wait for a process that tries a loader, and say why it was killed, where it was.

    It takes too much memory or time for one file. A limit of the system's would not show: readers refuse a
    file that there is no memory for.
    """
    before = 0
    while process.poll() is None:
        time.sleep(0.02)
        if not last.exists():
            continue
        before = before or resident(process.pid)
        grown, silent = resident(process.pid) - before, time.time() - last.stat().st_mtime
        if grown > 2 * MEMORY_AT_MOST or silent > 2 * SECONDS_TO_KILL:
            process.kill()
            process.wait()
            return f"{grown / 1000:.0f} MB and {silent:.0f} s for one file"
    return ""


def resident(process: int) -> int:
    """How much memory a process has, in kB; 0 where it has ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 1000


if __name__ == "__main__":
    sys.exit(main())
