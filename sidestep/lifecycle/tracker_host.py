"""The process that hosts one tracker's library: `python tracker_host.py <tracker> <descriptor> <parent>`.

It answers each message of `lifecycle.trackers`, where it is said why it is a process, with one of its own. It
imports nothing of Side-Step's, so that it holds the library alone.

    {"begin": {"run", "name", "settings"}}          where the run can be seen, as text
    {"points": [[tag, value, step, time], …]}       null
    {"end": {"state", "code"}}                      null, and it ends

An answer is {"done": …}, {"refused": why} where trying again would not help, or {"failed": why}. "warned" is
what the library has said meanwhile, such as that it keeps what it cannot send.
"""

import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
import warnings
from itertools import groupby
from multiprocessing.connection import Connection
from typing import Any, Protocol

PROJECT = "side-step"  # where the tracker's own variables name none

Point = tuple[str, float, int, float]
"""Tag, value, step, and the time at which it was made, in seconds since 1970."""


warned: list[str] = []
"""What the library has said since the last answer."""


class RefusedError(Exception):
    """To try again would not help."""


class Client(Protocol):
    """A run in one tracker."""

    def begin(self, run: str, name: str, settings: dict[str, Any]) -> str:
        """Begin the run with the id `run`, or go on with it; where it can be seen."""

    def log(self, points: list[Point]) -> None:
        """Send these, which are sorted by step."""

    def end(self, state: str, code: int) -> None:
        """The attempt has ended: `state` is done, failed or preempted."""


class Wandb:
    """Weights & Biases. Its library sends from a process of its own, and keeps what cannot be sent."""

    def begin(self, run: str, name: str, settings: dict[str, Any]) -> str:
        import wandb

        quiet = wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,  # the command line, the host, its user
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or PROJECT,
                id=run,
                name=name,
                resume="allow",
                settings=quiet,
            )
        except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
            raise RefusedError(str(error)) from error
        self._run.config.update(settings, allow_val_change=True)
        # Its own count of steps only grows, and begins anew where it is offline.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return self._run.url or f"offline, in {self._run.settings.sync_dir}"

    def log(self, points: list[Point]) -> None:
        for step, of_step in groupby(points, key=lambda point: point[2]):
            self._run.log({**{tag: value for tag, value, _, _ in of_step}, "step": step})

    def end(self, state: str, code: int) -> None:
        if state == "preempted":
            self._run.mark_preempting()
        self._run.finish(exit_code=code)


class Mlflow:
    """MLflow, over its client's REST calls. The server makes a run's id, so ours is a tag of it."""

    TAG = "side-step.run"
    _FORBIDDEN = re.compile(r"[^\w\-. /]")  # in a metric's name, everywhere
    _ENDS = {"done": "FINISHED", "failed": "FAILED", "preempted": "KILLED"}  # noqa: RUF012 - a constant
    _MOST = 500  # characters of a setting that every server takes

    def begin(self, run: str, name: str, settings: dict[str, Any]) -> str:
        # Its own are two minutes and seven tries. Here it is tried again anyway, while the run lasts.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        try:
            experiment = self._experiment()
            found = self._client.search_runs([experiment], f"tags.`{self.TAG}` = '{run}'", max_results=1)
            if found:
                self._run = found[0].info.run_id
                self._client.update_run(self._run, status="RUNNING")
                known = found[0].data.params
            else:
                made = self._client.create_run(experiment, tags={self.TAG: run}, run_name=name)
                self._run, known = made.info.run_id, {}
            # A parameter that was told is never changed, so those of a longer run stay as they were.
            new = [Param(key, str(settings[key])[: self._MOST]) for key in settings if key not in known]
            self._client.log_batch(self._run, params=new)
        except MlflowException as error:
            if error.get_http_status_code() in (400, 401, 403):
                raise RefusedError(str(error)) from error
            raise
        return f"{_without_user(self._client.tracking_uri)}, experiment {experiment}, run {self._run}"

    def _experiment(self) -> str:
        """The experiment's id; it is made where there is none of that name."""
        if told := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return told
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        if found := self._client.get_experiment_by_name(name):
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except Exception:  # another job may have made it meanwhile
            if found := self._client.get_experiment_by_name(name):
                return str(found.experiment_id)
            raise

    def log(self, points: list[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(self._FORBIDDEN.sub("_", tag), value, round(1000 * at), step)
            for tag, value, step, at in points
        ]
        self._client.log_batch(self._run, metrics)

    def end(self, state: str, code: int) -> None:
        self._client.set_terminated(self._run, self._ENDS[state])


class Trackio:
    """Trackio. Its runs go on by their name; its library sends from a thread of its own."""

    def begin(self, run: str, name: str, settings: dict[str, Any]) -> str:
        import trackio

        # Where its server is out of reach it raises nothing, but warns, from any of its threads.
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: warned.append(_said(message))
        self._run = trackio.init(
            PROJECT,
            name=f"{name}-{run[:8]}",
            config=settings,
            resume="allow",
            private=True,  # of a Space that it makes
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        place = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL") or "this machine"
        return f"{_without_user(place).partition('?')[0]}, project {PROJECT}, run {self._run.name}"

    def log(self, points: list[Point]) -> None:
        for step, of_step in groupby(points, key=lambda point: point[2]):
            self._run.log({tag: value for tag, value, _, _ in of_step}, step=step)

    def end(self, state: str, code: int) -> None:
        self._run.finish()


CLIENTS: dict[str, type[Client]] = {"wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio}


def _without_user(url: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def serve(client: Client, connection: Connection) -> None:
    """Answer messages until there are no more: the parent has gone, or has said that the run has ended."""
    while True:
        try:
            message = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            answer: dict[str, Any] = {"done": _carry_out(client, message)}
        except RefusedError as error:
            answer = {"refused": _said(error)}
        except Exception as error:  # noqa: BLE001 - it is told, and is the parent's to judge
            answer = {"failed": _said(error)}
        answer["warned"], warned[:] = [*warned], []
        with contextlib.suppress(OSError):
            connection.send_bytes(json.dumps(answer).encode())
        if "end" in message:
            return


def _carry_out(client: Client, message: dict[str, Any]) -> str | None:
    if begin := message.get("begin"):
        return client.begin(**begin)
    if points := message.get("points"):
        client.log([tuple(point) for point in points])
    if end := message.get("end"):
        client.end(**end)
    return None


def _said(error: BaseException | str) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _end_with(parent: int) -> None:
    """Where the parent was killed, whatever hangs here has nobody left to send for."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main() -> None:
    name, descriptor, parent = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    # Slurm and others send them to every process of a job: this one ends when its parent says so.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    os.nice(10)  # the training comes first
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    serve(CLIENTS[name](), Connection(descriptor))
    os._exit(0)  # what a library does as Python ends may hang


if __name__ == "__main__":
    main()
