"""Where attempts are started, disturbed and compared: jobs on a tiny checkpoint, an S3 server in a process of
its own, and for every attempt a workspace that is empty."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sidestep.acestep.tiny import write_tiny_checkpoint
from sidestep.config.job import JobSpec
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from tests.s3 import ACCESS_KEY, SECRET_KEY, S3Server, server_process
from tests.songs import song, write_songs
from tests.torture.child import Order
from tests.torture.outcome import Outcome, read_outcome

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_EC2_METADATA_DISABLED": "true",
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "HF_HUB_OFFLINE": "1",
}
ROOT = Path(__file__).parents[2]
LORA = {"type": "lora", "rank": 2, "alpha": 4, "attention": "self"}
LOKR = {"type": "lokr", "rank": 2, "alpha": 4, "factor": 8, "attention": "self"}
CELLS: dict[str, dict[str, Any]] = {
    "lora-adamw": {"adapter": LORA},
    "lokr-prodigy": {"adapter": LOKR, "optimizer_type": "prodigy", "lr": 1},
    "lora-prodigy": {"adapter": LORA, "optimizer_type": "prodigy", "lr": 1},
    "lokr-adamw": {"adapter": LOKR},
    "lora-adamw8bit": {"adapter": LORA | {"rank": 65}, "optimizer_type": "adamw8bit"},  # 8 bits from 4096 on
    "lora-adafactor": {"adapter": LORA, "optimizer_type": "adafactor"},
    "lora-judged": {  # its held-out loss turns after step 4, so that patience ends it after step 8
        "adapter": LORA,
        "accumulation": 1,
        "max_steps": 12,
        "lr": 3e-2,
        "scheduler": "constant",
        "validation": {"songs": ["0"], "every_epochs": 1, "draws": 2, "window": 1},
        "stop": {"patience": 2},
        "best": True,
    },
}
STEPS = 6
SECONDS_AT_MOST = 300  # of one attempt


@dataclass
class Field:
    """All that attempts share.

    Attributes:
        codes: the exit codes of all attempts so far.
    """

    folder: Path
    server: S3Server
    warm: "Warm"
    attempts: list["Attempt"] = field(default_factory=list)
    runs: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    _references: dict[str, "Reference"] = field(default_factory=dict)

    def spec(self, output: str, settings: dict[str, Any], **top: Any) -> dict[str, Any]:
        """A job that saves after each of its steps; `settings` are those of train."""
        checkpoint = {"every_epochs": 100, "every_steps": 1, "every_minutes": None, "keep": 2}
        train = {"max_steps": STEPS, "epochs": 100, "accumulation": 2, "lr": 1e-2, "checkpoint": checkpoint}
        train["gradient_checkpointing"] = False  # for speed
        return {
            "task": "train",
            "checkpoint_dir": str(self.folder / "checkpoints"),
            "dataset_dir": str(self.folder / "tensors"),
            "output_dir": output,
            "train": train | settings,
            "runtime": {"lease_seconds": 1, "max_attempts": 1000},
            "storage": {"endpoint_url": self.server.endpoint},
            **top,
        }

    def pipeline(self, output: str, settings: dict[str, Any], **top: Any) -> dict[str, Any]:
        """A job that makes its tensors from songs first."""
        songs = {"audio_dir": str(self.folder / "songs"), "dataset_dir": None, "estimate": {"batches": 1}}
        return self.spec(output, settings, **({"task": "pipeline"} | songs | top))

    def new_output(self, kind: str = "s3") -> str:
        """A place that is not there yet, in the bucket or ("local") on this machine's disk."""
        self.runs += 1
        name = f"run-{self.runs}"
        return self.server.place(name) if kind == "s3" else str(self.folder / "outputs" / name)

    def reference(self, spec_of: Callable[[str], dict[str, Any]]) -> "Reference":
        """What the job comes to where nobody disturbs it, found out once; `spec_of` an output is its spec."""
        name = json.dumps(spec_of(""))
        if name not in self._references:
            spec, began = spec_of(self.new_output("local")), time.monotonic()
            attempt = self.start(spec)
            assert attempt.end() == 0, attempt.said
            seconds = time.monotonic() - began
            self._references[name] = Reference(read_outcome(store_of(spec)), seconds, spec)
        return self._references[name]

    def prepared(
        self, name: str, point: str | None, number: int, spec_of: Callable[[str], dict[str, Any]]
    ) -> str:
        """An output as an attempt left it that was killed at a point, or finished; each time the same one."""
        output, copy = (self.folder / kind / name for kind in ("prepared", "copies"))
        if not copy.exists():
            attempt = self.start(spec_of(str(output)), point, number)
            assert attempt.end() == (-signal.SIGKILL if point else 0), attempt.said
            copy.parent.mkdir(exist_ok=True)
            output.rename(copy)
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(copy, output)
        return str(output)

    def start(
        self,
        spec: dict[str, Any],
        point: str | None = None,
        number: int = 0,
        what: signal.Signals = signal.SIGKILL,
        *,
        fresh: bool = False,
        command: str = "run",
        workspace: Path | None = None,
        **more: Any,
    ) -> "Attempt":
        """Begin an attempt with an empty workspace, in a fork of the warm process or a fresh interpreter.

        At the call `number` of `point` it gets the signal `what`. `more` are fields of the order.
        """
        place = self.folder / f"attempt-{len(self.attempts) + 1}"
        place.mkdir()
        spec = {**spec, "runtime": {**spec["runtime"], "workspace": str(workspace or place / "workspace")}}
        (place / "job.json").write_text(json.dumps(spec))
        (place / "steps").touch()
        words = [command, "--config", str(place / "job.json")]
        order = Order(words, str(place / "said"), str(place / "steps"), point, number, what, **more)
        if fresh:
            argv = [sys.executable, "-m", "tests.torture.child", order.as_json()]
            process = subprocess.Popen(argv, cwd=ROOT, env=os.environ | ENVIRONMENT)
            attempt = Attempt(place, process.pid, process.wait, self.codes)
        else:
            pid = self.warm.fork(order)
            attempt = Attempt(place, pid, lambda: self.warm.wait(pid), self.codes)
        self.attempts.append(attempt)
        return attempt

    def stop(self) -> None:
        """End the attempts that have not ended: a test has failed meanwhile."""
        for attempt in self.attempts:
            if not attempt.has_ended:
                with suppress(ProcessLookupError):
                    os.kill(attempt.pid, signal.SIGKILL)
                with suppress(AssertionError):
                    attempt.end()


@dataclass(frozen=True)
class Reference:
    """A job that nobody disturbed."""

    outcome: Outcome
    seconds: float
    spec: dict[str, Any]  # its output is still there


@dataclass
class Warm:
    """The process that attempts are forked from."""

    process: subprocess.Popen[str]
    _ended: dict[int, int] = field(default_factory=dict)  # exit codes that nobody has asked for yet

    def fork(self, order: Order) -> int:
        """Begin an attempt; its process id."""
        assert self.process.stdin
        self.process.stdin.write(order.as_json() + "\n")
        self.process.stdin.flush()
        while (began := self._hear()) is None:
            pass
        return began

    def wait(self, pid: int) -> int:
        """The exit code of an attempt, once it has ended."""
        while pid not in self._ended:
            self._hear()
        return self._ended.pop(pid)

    def _hear(self) -> int | None:
        """The process id of an attempt that has begun; None where one has ended."""
        assert self.process.stdout
        match self.process.stdout.readline().split():
            case ["began", pid]:
                return int(pid)
            case ["ended", pid, code]:
                self._ended[int(pid)] = int(code)
            case words:
                raise AssertionError(f"the warm process said {words}")
        return None


@dataclass
class Attempt:
    """One attempt on its way."""

    place: Path
    pid: int
    _wait: Callable[[], int]  # for its exit code, or minus the signal that it died of
    _codes: Counter[int]
    has_ended: bool = False

    def end(self, kill_after: float | None = None) -> int:
        """Wait for the end: the exit code, or minus the signal that it died of. It is never a bug."""
        limit = SECONDS_AT_MOST if kill_after is None else kill_after
        killer = threading.Timer(limit, os.kill, [self.pid, signal.SIGKILL])
        killer.start()
        began = time.monotonic()
        code, self.has_ended = self._wait(), True
        killer.cancel()
        killer.join()
        self._codes[code] += 1
        assert time.monotonic() - began < SECONDS_AT_MOST, f"it did not end: {self.said}"
        assert code != 70, f"70: {self.said}"
        assert "Traceback" not in self.said, self.said
        return code

    def wait_until(self, made: Callable[[], bool], seconds: float = SECONDS_AT_MOST) -> None:
        """Wait until something is so, while it works."""
        end = time.monotonic() + seconds
        while not made():
            assert time.monotonic() < end, self.said
            time.sleep(0.02)

    @property
    def is_stopped(self) -> bool:
        return self._state == "T"

    @property
    def is_gone(self) -> bool:
        """Whether it has ended, though nobody may have waited for it yet."""
        return self._state in ("", "Z")

    @property
    def _state(self) -> str:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return ""

    @property
    def said(self) -> str:
        """What it said, without the tables of an estimate."""
        path = self.place / "said"
        lines = path.read_text().splitlines() if path.exists() else []
        return "\n".join(line for line in lines if "▇" not in line and "--target-modules" not in line)

    @property
    def steps(self) -> list[int]:
        """The steps that it made."""
        return [int(line) for line in (self.place / "steps").read_text().split()]


@contextmanager
def torture_field(folder: Path) -> Iterator[Field]:
    """A field in `folder`, an empty one."""
    write_tiny_checkpoint(folder / "checkpoints", ["base"])
    write_songs(folder / "tensors", [song(n, frames=12 + 2 * n) for n in range(3)])
    for number, seconds in enumerate((0.5, 0.7, 0.6)):
        write_tone(folder / "songs" / f"{number}.wav", 200 * (number + 1), seconds)
    command = [sys.executable, "-m", "tests.torture.child"]
    environment = os.environ | ENVIRONMENT | {"XDG_CACHE_HOME": str(folder / "cache")}
    os.environ.update(ENVIRONMENT)
    pipe = subprocess.PIPE
    with (
        server_process() as server,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True) as process,
    ):
        assert process.stdout and process.stdout.readline() == "ready\n"
        field_ = Field(folder, server, Warm(process))
        try:
            yield field_
        finally:
            field_.stop()
            assert process.stdin
            process.stdin.close()


def same(found: Outcome, expected: Outcome) -> None:
    """Fail where two outcomes differ, with the first thing that does."""
    assert found.adapter == expected.adapter, "another adapter"
    assert found.losses == expected.losses, "other losses"
    assert found.judged == expected.judged, "another verdict"
    for tag in found.curves.keys() | expected.curves.keys():
        points, wanted = found.curves.get(tag), expected.curves.get(tag)
        assert points == wanted, f"another curve {tag}: {points}, not {wanted}"


def write_tone(path: Path, hertz: float, seconds: float) -> None:
    """A sine at 48 kHz, in 16 bits."""
    path.parent.mkdir(exist_ok=True)
    samples = np.sin(2 * np.pi * hertz * np.arange(int(48_000 * seconds)) / 48_000)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes((20_000 * samples).astype("<i2").tobytes())


def store_of(spec: dict[str, Any]) -> Store:
    return open_store(spec["output_dir"], JobSpec.model_validate(spec).storage)
