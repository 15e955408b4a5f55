"""A job's figures for Prometheus: at an endpoint that is scraped, and in a file for node_exporter.

docs/watching.md has the table of them. No label has more values than the job has phases, states or GPUs.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar, get_args

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sidestep.lifecycle.status import Phase, State, Status
from sidestep.runtime import liveness, tally
from sidestep.runtime.atomic import replacing
from sidestep.runtime.endpoint import Endpoint

log = logging.getLogger(__name__)

FILE_EVERY = 15.0  # seconds
SECONDS_TO_WRITE = 2.0  # the last file, as the job ends: the disk may hang
PAGE_EVERY = 1.0  # seconds; until then a page is served again, as often as somebody asks

Family = TypeVar("Family", GaugeMetricFamily, CounterMetricFamily)
Values = Mapping[str, float | None] | float | None


class Figures(Collector):
    """The metrics of a job, made anew of its status each time that they are asked for."""

    def __init__(self, read: Callable[[], Status], price_per_hour: float | None) -> None:
        """
        Args:
            read: says what the job is doing; called in any thread.
            price_per_hour: without one no cost is told.
        """
        self._read, self._price_per_hour = read, price_per_hour

    def collect(self) -> Iterable[Metric]:
        status = self._read()
        seconds = status.spent.seconds
        hours = sum(seconds.values()) / 3600
        validation = status.validation
        about = {"name": status.name, "task": status.task, "attempt": str(status.attempt)}
        yield InfoMetricFamily("sidestep_job", "The job, and its attempt that runs.", about)
        found = [
            _gauge("state", "1 for the state that the attempt is in.", _one_of(State, status.state), "state"),
            _gauge("phase", "1 for what is being done.", _one_of(Phase, status.phase), "phase"),
            _gauge("step", "Optimizer steps made.", status.step),
            _gauge("steps", "Optimizer steps of the whole run.", status.steps),
            _gauge("epoch", "The epoch that is being trained, from 1.", status.epoch),
            _gauge("epochs", "Epochs of the whole run.", status.epochs),
            _gauge("loss", "Loss of the last step.", status.loss),
            _gauge(
                "held_out_loss",
                "Loss on the held-out songs, in the last validation.",
                validation.held_out if validation else None,
            ),
            _gauge("learning_rate", "Learning rate of the last step.", status.learning_rate),
            _gauge("steps_per_second", "Optimizer steps per second.", status.steps_per_second),
            _counter("spent_seconds", "Time of all attempts, by what was done.", seconds, "phase"),
            _counter(
                "cost",
                "What that has cost, by runtime.price_per_hour.",
                None if self._price_per_hour is None else hours * self._price_per_hour,
            ),
            _counter(
                "preemptions", "Attempts cut off by notice or without a word.", status.spent.preemptions
            ),
            _counter("songs", "Songs whose tensors this process has made.", tally.total(tally.SONGS)),
            _counter("moved_bytes", "Bytes that this process has moved.", tally.total(tally.BYTES)),
            _counter("signs_of_life", "How often anything has advanced in this process.", liveness.signs()),
            _gauge(
                "last_sign_of_life_timestamp_seconds",
                "When something advanced last, in Unix time.",
                liveness.last_sign(),
            ),
            _gauge("exit_code", "Exit code, once the attempt has ended.", status.exit_code),
            *_of_gpus(status),
        ]
        yield from (metric for metric in found if metric.samples)


class Prometheus:
    """Tells a job's figures at a port, in a file, or both, from `start` to `stop`."""

    def __init__(
        self,
        read: Callable[[], Status],
        price_per_hour: float | None = None,
        port: int | None = None,
        file: str | None = None,
        every: float = FILE_EVERY,
    ) -> None:
        """
        Args:
            port: of the endpoint; None: there is none.
            file: what is written every so many seconds, and once more at the end; None: nothing.
        """
        self._port, self._file, self._every = port, Path(file).expanduser() if file else None, every
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(Figures(read, price_per_hour))
        self._endpoint: Endpoint | None = None
        self._page, self._page_made = b"", -PAGE_EVERY
        self._making, self._over, self._is_file_told = threading.Lock(), threading.Event(), False
        self._writer = threading.Thread(target=self._write_regularly, name="metrics' file", daemon=True)

    def start(self) -> None:
        """What cannot be had, such as a port in use, is told, and the job goes on without it."""
        if self._port is not None:
            try:
                self._endpoint = Endpoint(self._port, self.page, CONTENT_TYPE_PLAIN_0_0_4)
            except OSError as error:
                log.warning(
                    "No metrics are served, as runtime.metrics_port %d cannot be had (%s); the job goes on",
                    *(self._port, os.strerror(error.errno) if error.errno else error),
                )
            else:
                log.info("Metrics for Prometheus: port %d, /metrics", self._endpoint.port)
        if self._file:
            self._writer.start()

    def end(self) -> None:
        """Close the endpoint, and have the last file written; nobody waits for it here."""
        if self._endpoint:
            self._endpoint.close()
        self._over.set()

    def stop(self, seconds: float = SECONDS_TO_WRITE) -> None:
        """End it, and give the last file so many seconds at the most."""
        self.end()
        if self._writer.is_alive():
            self._writer.join(max(min(seconds, SECONDS_TO_WRITE), 0))

    def page(self) -> bytes:
        """The figures in Prometheus' text format, at most a second old."""
        with self._making:
            if time.monotonic() - self._page_made >= PAGE_EVERY:
                self._page, self._page_made = generate_latest(self._registry), time.monotonic()
            return self._page

    def _write_regularly(self) -> None:
        self._write()
        while not self._over.wait(self._every):
            self._write()
        self._write()

    def _write(self) -> None:
        assert self._file
        try:
            content = generate_latest(self._registry)
            with replacing(self._file) as temporary:
                temporary.write_bytes(content)
        except Exception as error:  # noqa: BLE001 - whatever it is, the job goes on
            if not self._is_file_told:
                log.warning(
                    "runtime.metrics_file %s cannot be written, and is tried again every %g seconds; the job "
                    "goes on: %s",
                    *(self._file, self._every, error),
                )
            self._is_file_told = True


def _of_gpus(status: Status) -> list[Metric]:
    def each(of: str, scale: float = 1.0) -> dict[str, float | None]:
        values = {str(gpu.index): getattr(gpu, of) for gpu in status.gpus}
        return {index: None if value is None else value * scale for index, value in values.items()}

    return [
        _gauge(
            "gpu_utilization_ratio",
            "Share of the time it computed.",
            each("utilization", 0.01),
            "gpu",
        ),
        _gauge("gpu_memory_used_bytes", "Its memory in use, of all processes.", each("memory_used"), "gpu"),
        _gauge("gpu_memory_size_bytes", "All its memory.", each("memory_total"), "gpu"),
        _gauge("gpu_temperature_celsius", "Its temperature.", each("temperature"), "gpu"),
        _gauge("gpu_power_watts", "What it takes.", each("power"), "gpu"),
    ]


def _gauge(name: str, about: str, values: Values, label: str = "") -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"sidestep_{name}", about, labels=[label] if label else [])
    return _filled(family, values)


def _counter(name: str, about: str, values: Values, label: str = "") -> CounterMetricFamily:
    """Its samples are called …_total."""
    family = CounterMetricFamily(f"sidestep_{name}", about, labels=[label] if label else [])
    return _filled(family, values)


def _filled(family: Family, values: Values) -> Family:
    """With a sample for each value that is known."""
    if not isinstance(values, Mapping):
        values = {"": values}
    for name, value in values.items():
        if value is not None:
            family.add_metric([name] if name else [], value)
    return family


def _one_of(kind: object, value: str) -> dict[str, float | None]:
    return {name: float(name == value) for name in get_args(kind)}
