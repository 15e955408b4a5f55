"""Where attempts are started, killed and compared: jobs on a tiny checkpoint, an S3 server in a process of
its own, and for every attempt a workspace that is empty."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import wave
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
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
from tests.torture.outcome import Outcome, check_log, damage_newest, read_outcome
from tests.torture.points import Point

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
}
STEPS = 6
SECONDS_AT_MOST = 300  # of one attempt


@dataclass
class Field:
    """All that attempts share."""

    folder: Path
    server: S3Server
    warm: subprocess.Popen[str]
    attempts: list["Attempt"] = field(default_factory=list)
    runs: int = 0

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
            "runtime": {"lease_seconds": 1},
            "storage": {"endpoint_url": self.server.endpoint},
            **top,
        }

    def pipeline(self, output: str, settings: dict[str, Any]) -> dict[str, Any]:
        """A job that makes its tensors from songs first."""
        songs = {"audio_dir": str(self.folder / "songs"), "dataset_dir": None, "estimate": {"batches": 1}}
        return self.spec(output, settings, task="pipeline", **songs)

    def new_output(self) -> str:
        self.runs += 1
        return self.server.place(f"run-{self.runs}")

    def start(
        self,
        spec: dict[str, Any],
        point: str | None = None,
        number: int = 0,
        what: signal.Signals = signal.SIGKILL,
        *,
        fresh: bool = False,
    ) -> "Attempt":
        """Begin an attempt with an empty workspace, in a fork of the warm process or a fresh interpreter.

        At the call `number` of `point` it gets the signal `what`.
        """
        place = self.folder / f"attempt-{len(self.attempts) + 1}"
        place.mkdir()
        spec = {**spec, "runtime": {**spec["runtime"], "workspace": str(place / "workspace")}}
        (place / "job.json").write_text(json.dumps(spec))
        order = {
            "spec": str(place / "job.json"),
            "said": str(place / "said"),
            "steps": str(place / "steps"),
            "point": point,
            "number": number,
            "signal": what,
        }
        (place / "steps").touch()
        if fresh:
            command = [sys.executable, "-m", "tests.torture.child", json.dumps(order)]
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ | ENVIRONMENT)
            self.attempts.append(Attempt(place, process.pid, process.wait))
        else:
            assert self.warm.stdin and self.warm.stdout
            answers = self.warm.stdout
            self.stop(attempt for attempt in self.attempts if attempt.forked)  # of a test that failed
            self.warm.stdin.write(json.dumps(order) + "\n")
            self.warm.stdin.flush()
            pid = int(answers.readline())
            self.attempts.append(Attempt(place, pid, lambda: int(answers.readline()), forked=True))
        return self.attempts[-1]

    def stop(self, attempts: Iterable["Attempt"]) -> None:
        """End those of `attempts` that have not ended: a test has failed meanwhile."""
        for attempt in attempts:
            if not attempt.has_ended:
                with suppress(ProcessLookupError):
                    os.kill(attempt.pid, signal.SIGKILL)
                attempt.end()


@dataclass
class Attempt:
    """One attempt on its way."""

    place: Path
    pid: int
    _wait: Callable[[], int]  # for its exit code, or minus the signal that it died of
    has_ended: bool = False
    forked: bool = False  # from the warm process, which has one at a time

    def end(self, kill_after: float | None = None) -> int:
        """Wait for the end: the exit code, or minus the signal that it died of."""
        limit = SECONDS_AT_MOST if kill_after is None else kill_after
        killer = threading.Timer(limit, os.kill, [self.pid, signal.SIGKILL])
        killer.start()
        began = time.monotonic()
        code, self.has_ended = self._wait(), True
        killer.cancel()
        killer.join()
        assert time.monotonic() - began < SECONDS_AT_MOST, f"it did not end: {self.said}"
        return code

    def wait_until(self, made: Callable[[], bool], seconds: float = SECONDS_AT_MOST) -> None:
        """Wait until something is so, while it works."""
        end = time.monotonic() + seconds
        while not made():
            assert time.monotonic() < end, self.said
            time.sleep(0.02)

    @property
    def is_stopped(self) -> bool:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    @property
    def said(self) -> str:
        return (self.place / "said").read_text()

    @property
    def steps(self) -> list[int]:
        """The steps that it made."""
        return [int(line) for line in (self.place / "steps").read_text().split()]


@dataclass
class Tally:
    """What a torture came to."""

    kills: Counter[str] = field(default_factory=Counter)
    fresh: int = 0  # attempts with an interpreter of their own
    attempts: int = 0
    runs: int = 0
    damaged: int = 0  # commits that were damaged on purpose, between two attempts
    seconds: float = 0

    def __str__(self) -> str:
        where = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        return (
            f"{self.kills.total()} kills in {self.runs} runs, {self.attempts} attempts ({self.fresh} with a "
            f"fresh interpreter), {self.damaged} commits damaged, {self.seconds:.0f} s: all equal\n  {where}"
        )


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
        subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True) as warm,
    ):
        assert warm.stdout and warm.stdout.readline() == "ready\n"
        field_ = Field(folder, server, warm)
        try:
            yield field_
        finally:
            field_.stop(field_.attempts)
            assert warm.stdin
            warm.stdin.close()


def torture(
    field_: Field,
    spec_of: Callable[[str], dict[str, Any]],
    points: dict[str, Point],
    kills: int,
    seed: int,
    *,
    fresh_every: int = 6,
    damage_every: int = 9,
) -> Tally:
    """Kill attempts at a job `kills` times, in as many runs as that takes; each must end as if never killed.

    Args:
        spec_of: the job with its results at this output.
        points: where, besides at any time.
        fresh_every: each so-manieth attempt has an interpreter of its own.
        damage_every: after each so-manieth kill the newest commit's files are damaged, too.
    """
    rng, tally, began = random.Random(seed), Tally(), time.monotonic()
    whole = spec_of(field_.new_output())
    first = field_.start(whole)
    ran = time.monotonic()
    assert first.end() == 0, first.said
    duration = time.monotonic() - ran
    expected = read_outcome(store_of(whole))
    check_log(store_of(whole))
    plan = _plan(points, rng, duration)

    while tally.kills.total() < kills:
        tally.runs += 1
        spec, before, budget, is_damaged = spec_of(field_.new_output()), [0], rng.randint(3, 8), False
        records: list[dict[str, Any]] = []
        while True:
            tally.attempts += 1
            fresh = tally.attempts % fresh_every == 0
            tally.fresh += fresh
            # The fifth attempt in a row that ends before its first checkpoint would be the last.
            is_last_chance = len(records) >= 4 and all(not record["files"] for record in records[-4:])
            spared = budget == 0 or tally.kills.total() == kills or is_last_chance
            name, number, seconds = (None, 0, None) if spared else next(plan)
            attempt = field_.start(spec, name, number, fresh=fresh)
            code = attempt.end(kill_after=seconds)
            assert ("is damaged and is not used" in attempt.said) <= is_damaged, attempt.said
            before = _not_more_lost_than_two_steps(before, attempt, is_damaged)
            if code == 0:
                break
            assert code == -signal.SIGKILL, f"exit code {code}: {attempt.said}"
            tally.kills[name or "at a random time"] += 1
            budget -= 1
            records = check_log(store_of(spec), spare_newest=is_damaged)
            if tally.kills.total() % damage_every == 0 and len(records) > 2:
                is_damaged = damage_newest(store_of(spec)) or is_damaged
                tally.damaged += 1
        _same(read_outcome(store_of(spec)), expected)
    tally.seconds = time.monotonic() - began
    return tally


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


def _plan(
    points: dict[str, Point], rng: random.Random, duration: float
) -> Iterator[tuple[str | None, int, float | None]]:
    """What kills the next attempt: a point and the number of its call, or a time; each point in its turn."""
    turns = [*points, *[None] * max(1, len(points) // 4)]
    while True:
        rng.shuffle(turns)
        for name in turns:
            if name is None:
                yield None, 0, rng.uniform(0, duration)
            else:
                yield name, rng.randint(1, points[name].most), None


def _not_more_lost_than_two_steps(before: list[int], attempt: Attempt, is_damaged: bool) -> list[int]:
    """Every step is saved: one may be lost, and those made while it was on its way, which is one more."""
    if attempt.steps and not is_damaged:
        assert before[-1] - 2 <= attempt.steps[0] - 1 <= before[-1], (before, attempt.steps)
    return attempt.steps or before


def _same(found: Outcome, expected: Outcome) -> None:
    assert found.curves == expected.curves
    assert found.losses == expected.losses
    assert found.adapter == expected.adapter
