"""How the GPUs are: which ones, what the driver says of them, and a driver that fails or hangs."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from sidestep.runtime.gpus import FRESH_SECONDS, Gpu, GpuWatch
from tests.clock import Clock
from tests.nvml import LOST, UNKNOWN, Device, nvml

ONE, TWO, THREE = Device("GPU-1a11"), Device("GPU-1b22", use=7), Device("GPU-2c33", use=9)


@contextmanager
def watching(device: str = "auto", environ: Mapping[str, str] | None = None) -> Iterator[GpuWatch]:
    watch = GpuWatch(device, environ or {}, every=0.01)
    watch.start()
    yield watch
    watch.stop()


def read(device: str = "auto", environ: Mapping[str, str] | None = None) -> tuple[Gpu, ...]:
    """What is read first."""
    with watching(device, environ) as watch:
        soon(lambda: bool(watch.latest()))
        return watch.latest()


def soon(is_so: object) -> bool:
    assert callable(is_so)
    until = time.monotonic() + 5
    while not is_so() and time.monotonic() < until:
        time.sleep(0.005)
    return bool(is_so())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_a_driver_says() -> None:
    with nvml(ONE):
        assert read() == (
            Gpu(
                index=0,
                name="NVIDIA L4",
                utilization=50,
                memory_used=3 * 10**9,
                memory_total=24 * 10**9,
                temperature=61,
                power=65.5,
            ),
        )


@pytest.mark.parametrize(
    ("words", "uses"),
    [
        (None, [50, 7, 9]),
        ("2", [9]),
        ("2,0", [9, 50]),
        (" 1 , 0 ", [7, 50]),
        ("GPU-1b22", [7]),
        ("GPU-2,GPU-1a", [9, 50]),  # the beginning is enough
        ("0,GPU-1,2", [50]),  # names two: what follows does not count
        ("0,7,1", [50]),
        ("1,-1,0", [7]),
    ],
)
def test_the_gpus_are_those_that_cuda_shows(words: str | None, uses: list[int]) -> None:
    with nvml(ONE, TWO, THREE):
        found = read(environ={} if words is None else {"CUDA_VISIBLE_DEVICES": words})
        assert [gpu.utilization for gpu in found] == uses
        assert [gpu.index for gpu in found] == list(range(len(uses)))


def test_one_that_the_spec_names() -> None:
    with nvml(ONE, TWO, THREE):
        found = read("cuda:1", {"CUDA_VISIBLE_DEVICES": "2,1"})
        assert [(gpu.index, gpu.utilization) for gpu in found] == [(1, 7)]


@pytest.mark.parametrize(("device", "words"), [("cpu", "0"), ("auto", ""), ("auto", "-1"), ("cuda:4", "0")])
def test_none_is_none(device: str, words: str) -> None:
    with nvml(ONE) as driver, watching(device, {"CUDA_VISIBLE_DEVICES": words}) as watch:
        time.sleep(0.05)
        assert watch.latest() == ()
        assert bool(driver.calls) == (device != "cpu")


def test_a_part_of_a_gpu_says_less(caplog: pytest.LogCaptureFixture) -> None:
    """NVIDIA says neither use nor power of a MIG device, and some drivers not even its memory."""
    part = Device("MIG-77", name="NVIDIA A100 MIG 1g.5gb", use=None, used=None, heat=None, power=None)
    with nvml(ONE, mig=part):
        found = read(environ={"CUDA_VISIBLE_DEVICES": "MIG-77"})
    assert found == (Gpu(index=0, name="NVIDIA A100 MIG 1g.5gb"),)
    assert not warnings(caplog)


def test_without_a_driver_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("sidestep.runtime.gpus.CDLL", missing)
    with watching() as watch:
        time.sleep(0.05)
        assert watch.latest() == ()
    assert not warnings(caplog)


def test_a_driver_that_fails_half_way_is_told_once_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    with nvml(ONE) as driver, watching() as watch:
        assert soon(lambda: watch.latest())
        driver.fails["*"] = LOST
        assert soon(lambda: not watch.latest())
        asked = len(driver.calls)
        assert soon(lambda: len(driver.calls) > asked + 3)
        assert len(warnings(caplog)) == 1 and "lost" in warnings(caplog)[0]
        driver.fails.clear()
        assert soon(lambda: watch.latest())
    assert len(warnings(caplog)) == 1


def test_a_driver_that_cannot_begin_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with nvml(ONE) as driver:
        driver.fails["nvmlInitWithFlags"] = UNKNOWN
        with watching():
            assert soon(lambda: driver.calls.count("nvmlInitWithFlags") > 3)
    assert len(warnings(caplog)) == 1


def test_one_gpu_that_is_lost_leaves_the_other() -> None:
    with nvml(ONE, TWO) as driver:
        driver.fails_of["GPU-1a11"] = LOST
        assert [(gpu.index, gpu.utilization) for gpu in read()] == [(1, 7)]


def test_a_driver_that_hangs_holds_nobody_and_its_last_words_grow_old() -> None:
    clock = Clock()
    watch = GpuWatch("auto", {}, every=0.01, clock=clock)
    with nvml(ONE) as driver:
        watch.start()
        assert soon(lambda: watch.latest())
        over = driver.hangs = threading.Event()
        asked = len(driver.calls)
        assert soon(lambda: len(driver.calls) > asked)
        clock.now = FRESH_SECONDS - 1
        assert watch.latest()
        clock.now = FRESH_SECONDS + 1
        assert watch.latest() == ()
        started = time.monotonic()
        watch.stop()
        assert time.monotonic() - started < 1
        over.set()
