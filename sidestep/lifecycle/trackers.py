"""Experiment trackers (Weights & Biases, MLflow, Trackio): a run's curves, as TensorBoard has them.

Each tracker's library runs in a process of its own (`lifecycle.tracker_host`): importing one takes up to 5 s
and 170 MB, they handle signals and the end of Python in ways of their own, and a process that hangs can be
killed. What is sent goes through an `Outbox`, so that nothing here waits for any of it.

A point is sent once its step is committed. Whoever goes on with a run goes on from a commit, so no step is
told twice, and none that is given up with its attempt.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing import Pipe
from typing import Any

from pydantic import BaseModel, Field

from sidestep.config.job import JobSpec
from sidestep.config.trackers import TRACKERS, TrackerName
from sidestep.lifecycle import tracker_host
from sidestep.lifecycle.identity import SAMPLES_PER_STEP, flat_settings, said_as
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadDataError, BadSpecError
from sidestep.runtime.outbox import Outbox, RefusedError
from sidestep.runtime.parsing import parse_as
from sidestep.runtime.secrets import hide
from sidestep.runtime.words import counted
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

FILE = "trackers.json"  # in the output

ANSWER_SECONDS = 180.0  # a library that has not answered by then hangs, and is begun anew
AT_A_TIME = 500  # points in a message; MLflow takes 1000 in a request
MOST_WARNINGS = 3  # of a library's own, of which each is told once
MOST_WAITING = 50_000  # points that wait for a commit

# fmt: off - a table, by rows that belong together
PUBLIC = (
    "model_variant",
    *(
        f"train.{name}"
        for name in (
            "mode",
            "seed",
            "epochs",
            "max_steps",
            "samples_per_step",
            "chunk_duration",
            "chunks",
            "optimizer_type",
            "weight_decay",
            "max_grad_norm",
            "lr",
            "lr_groups",
            "scheduler",
            "warmup_steps",
            "adapter.type",
            "adapter.rank",
            "adapter.alpha",
            "adapter.target_modules",
            "adapter.attention",
            "adapter.rank_pattern",
            "adapter.alpha_pattern",
            "adapter.dropout",
            "adapter.bias",
            "adapter.factor",
            "adapter.decompose_both",
            "adapter.use_tucker",
            "adapter.use_scalar",
            "adapter.weight_decompose",
            "cfg_dropout",
            "caption_dropout",
            "genre_share",
            "ema.decay",
            "ema.use",
            "loss_weighting",
            "min_snr_gamma",
            "quantize",
            "timestep_mu",
            "timestep_sigma",
            "validation.share",
            "validation.every_epochs",
            "validation.draws",
            "validation.window",
            "stop.patience",
            "stop.min_delta",
            "target_loss",
        )
    ),
)
# fmt: on
"""Of a run's fingerprint, what trackers are told. The rest is places, digests, and names of songs."""

Message = Mapping[str, Any]
"""See `lifecycle.tracker_host`."""


class _Run(BaseModel):
    run: str = Field(pattern=r"^[0-9a-f]{32}$")


def check_trackers(spec: JobSpec) -> None:
    """Raises BadSpecError where the package of a tracker of a training is not installed."""
    if spec.task not in ("train", "pipeline"):
        return
    missing = [name for name in spec.runtime.trackers if find_spec(name) is None]
    if missing:
        raise BadSpecError(
            f"runtime.trackers: {', '.join(missing)} is not installed\n"
            f"  install it with pip install 'side-step[{','.join(missing)}]', or leave it out"
        )


def run_id(store: Store) -> str:
    """What the output's run is known by in every tracker: made by its first attempt, read by all others."""
    made = json_bytes({"run": uuid.uuid4().hex})
    store.create(FILE, made)
    where = f"{store.place}/{FILE}"
    try:
        return parse_as(_Run, store.read_small(FILE), where).run
    except BadDataError as error:
        log.warning("%s; the run begins anew in its trackers", error)
        store.write_bytes(FILE, made)
        return parse_as(_Run, made, where).run


def public_settings(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's fingerprint, what is told as hyperparameters, by whole names such as train.adapter.rank."""
    known = flat_settings(fingerprint)
    known["train.samples_per_step"] = known.pop(said_as(SAMPLES_PER_STEP))  # a name that each tracker takes
    return {
        name: value if isinstance(value, bool | int | float | str | None) else json.dumps(value)
        for name, value in known.items()
        if name in PUBLIC
    }


class Trackers:
    """Those that the spec names. Its methods are for any thread, and return at once but for `close`."""

    def __init__(self, names: Iterable[TrackerName] = ()) -> None:
        self._names = tuple(dict.fromkeys(names))
        self._hosts: list[tuple[Outbox[Message], _Host]] = []
        self._waiting: deque[tracker_host.Point] = deque()
        self._committed, self._released, self._dropped = -1, 0, 0
        self._has_ended = False
        self._lock = threading.Lock()

    def begin(self, store: Store, name: str, fingerprint: Mapping[str, Any], committed: int) -> None:
        """The attempt trains from here on, after `committed` steps, and writes to the output `store`."""
        if not self._names:
            return
        self._committed = committed
        begin = {"run": run_id(store), "name": name, "settings": public_settings(fingerprint)}
        for tracker in self._names:
            host = _Host(tracker, begin)
            self._hosts.append((Outbox(host.title, host.send), host))
        self._put({})  # which begins the run, as every first message does

    def add(self, tag: str, value: float, step: int) -> None:
        """A point of a curve."""
        if not self._hosts:
            return
        with self._lock:
            if len(self._waiting) == MOST_WAITING:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append((tag, float(value), step, time.time()))

    def committed(self, step: int) -> None:
        """All steps up to this one are safe: what waits of them is sent."""
        with self._lock:
            self._committed = max(self._committed, step)
            due = [point for point in self._waiting if point[2] <= self._committed]
            self._waiting = deque(point for point in self._waiting if point[2] > self._committed)
        due.sort(key=lambda point: point[2])
        self._released += len(due)
        for start in range(0, len(due), AT_A_TIME):
            self._put({"points": due[start : start + AT_A_TIME]})

    def ended(self, state: str, code: int) -> None:
        """The attempt ends: what is committed is sent, and how it ended."""
        if self._has_ended or not self._hosts:
            return
        self._has_ended = True
        self.committed(self._committed)
        self._put({"end": {"state": state, "code": int(code)}})

    def end(self) -> None:
        """Take nothing more, and wait for nobody."""
        for outbox, _ in self._hosts:
            outbox.end()

    def close(self, seconds_left: Callable[[], float]) -> None:
        """Wait for what is left as long as `seconds_left` says, and end what has not ended by then."""
        for outbox, host in self._hosts:
            outbox.close(seconds_left())
            host.kill()
            if lost := self._dropped + self._released - host.sent:
                log.warning(
                    "%s lacks %s of this attempt; TensorBoard's files have them all",
                    *(host.title, counted(lost, "points")),
                )
        self._hosts = []

    def _put(self, message: Message) -> None:
        for outbox, _ in self._hosts:
            outbox.put(message)


class _Host:
    """The process of one tracker. `send` is for one thread, `kill` for any.

    Attributes:
        sent: how many points it has taken.
    """

    def __init__(self, name: TrackerName, begin: Mapping[str, Any]) -> None:
        self._name, self._begin, self.title, self.sent = name, begin, TRACKERS[name].title, 0
        self._process: subprocess.Popen[bytes] | None = None
        self._refused, self._warned = "", set[str]()
        self._is_told, self._is_over = False, False
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Have it carried out. Raises RefusedError where that would never work, else OSError."""
        if self._refused:
            raise RefusedError(self._refused)
        if self._process is None:
            self._start()
            where = self._ask({"begin": self._begin})
            if not self._is_told:
                log.info("%s: %s", self.title, hide(where))
            self._is_told = True
        if message:
            self._ask(message)
            self.sent += len(message.get("points", ()))

    def kill(self) -> None:
        """End it, with all that it has started, and begin none any more."""
        with self._lock:
            self._is_over = True
        self._stop()

    def _start(self) -> None:
        with self._lock:
            if self._is_over:
                raise OSError("the job has ended")
            self._connection, theirs = Pipe()
            with theirs:
                descriptor = theirs.fileno()
                path = os.pathsep.join(entry for entry in sys.path if entry)
                environ = {key: value for key, value in os.environ.items() if not key.startswith("SIDESTEP_")}
                # -P: a folder `wandb`, which its library makes where it works, is no package.
                own = (self._name, str(descriptor), str(os.getpid()))
                self._process = subprocess.Popen(
                    [sys.executable, "-P", tracker_host.__file__, *own],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**environ, "PYTHONPATH": path},
                    pass_fds=[descriptor],
                    start_new_session=True,  # Ctrl-C is not for it
                )

    def _ask(self, message: Message) -> str:
        """What it answers. A process that fails is ended, and the next message begins another."""
        try:
            self._connection.send_bytes(json.dumps(message).encode())
            if not self._connection.poll(ANSWER_SECONDS):
                raise TimeoutError(f"its library has not answered for {ANSWER_SECONDS:.0f} s")
            answer = json.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionError, TimeoutError) as error:
            self._stop()
            raise OSError(str(error) or "the process of its library has ended") from error
        for words in {hide(words) for words in answer["warned"]} - self._warned:
            if len(self._warned) < MOST_WARNINGS:
                log.warning("%s, whose library goes on, as the job does: %s", self.title, words)
            self._warned.add(words)
        if why := hide(answer.get("refused") or ""):
            self._stop()
            self._refused = why
            raise RefusedError(why)
        if "failed" in answer:
            if "begin" in message:
                self._stop()
            raise OSError(hide(answer["failed"]))
        return answer["done"] or ""

    def _stop(self) -> None:
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
