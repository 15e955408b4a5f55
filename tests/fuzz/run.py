"""`make fuzz`: every reader of foreign files on changed ones, in a process of its own.

Each is read, or refused with a message and code 64, 65, 66 or 78, within two seconds and half a gigabyte.
What is not goes to tests/fuzz/corpus/<loader>/, which `make test` reads again.

    python -m tests.fuzz.run --only tensors --seconds 30 --seed 7
"""

import argparse
import hashlib
import io
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
from tests.fuzz.loaders import LOADERS
from tests.fuzz.mutate import mutated

CORPUS = Path(__file__).parent / "corpus"
CODES = (64, 65, 66, 78)
SECONDS_AT_MOST = 2.0
MEMORY_AT_MOST = 500_000  # kB, beyond what the process had before


class SlowError(Exception):
    """A reader took longer than it may."""


def check(name: str, data: bytes, seconds: float = SECONDS_AT_MOST) -> str | None:
    """What is wrong with how a loader takes `data`; None where nothing is. For the main thread."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise SlowError

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            with redirect_stdout(io.StringIO()):
                LOADERS[name].read(data, Path(folder))
        except SideStepError as error:
            if error.exit_code not in CODES:
                return f"code {error.exit_code}: {error}"
        except BaseException as error:  # noqa: BLE001 - all others are what is looked for
            return f"{type(error).__name__}: {error}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
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
        assert check(name, data) is None, "a sound file"
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
    parser.add_argument("--only", choices=LOADERS)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--last", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    if options.only:
        with tempfile.TemporaryDirectory() as folder:
            last = options.last or Path(folder, "last")
            return min(fuzz(options.only, options.seconds, options.seed, last), 1)
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        last = Path(folder, "last")
        for name in LOADERS:
            flags = ["--only", name, "--seconds", str(options.seconds), "--seed", str(options.seed)]
            command = [sys.executable, "-m", "tests.fuzz.run", *flags, "--last", str(last)]
            done = subprocess.run(command, stderr=subprocess.DEVNULL)
            if done.returncode:
                failed.append(name)
            if done.returncode < 0:
                _keep(name, last.read_bytes(), f"ended by signal {-done.returncode}")
    print(f"seed {options.seed}: {', '.join(failed) or 'nothing'} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
