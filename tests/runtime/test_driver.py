"""The NVIDIA driver, against a stand-in library that answers as a driver does."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sidestep.config.schema import RuntimeSpec
from sidestep.runtime import driver
from sidestep.runtime.errors import ExitCode, MachineError
from sidestep.training.machine import choose_machine

Install = Callable[..., None]

PROC = """NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 01:35:01 UTC 2025
GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes this machine one whose driver says `version` (CUDA's number, such as 12080)."""

    def install(version: int, answer: int = 0) -> None:
        code = f"int cuDriverGetVersion(int *version) {{ *version = {version}; return {answer}; }}"
        library = tmp_path / f"libcuda-{version}-{answer}.so"
        compile_it = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
        subprocess.run(compile_it, input=code, text=True, check=True)
        proc = tmp_path / "version"
        proc.write_text(PROC)
        monkeypatch.setattr(driver, "LIBRARY", str(library))
        monkeypatch.setattr(driver, "VERSION_FILE", proc)

    return install


def test_no_driver_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libcuda-that-is-not-there.so.1")
    assert driver.driver_cuda() is None
    driver.check_driver("13.0")


@pytest.mark.parametrize(("version", "cuda"), [(12080, (12, 8)), (13000, (13, 0)), (13010, (13, 1))])
def test_the_driver_says_which_cuda_it_runs(install: Install, version: int, cuda: tuple[int, int]) -> None:
    install(version)
    assert driver.driver_cuda() == cuda


def test_a_driver_that_does_not_answer_is_none(install: Install) -> None:
    install(13000, answer=999)
    assert driver.driver_cuda() is None


def test_a_driver_that_is_new_enough(install: Install) -> None:
    for version in (13000, 13010, 14000):
        install(version)
        driver.check_driver("13.0")
    install(13000)
    driver.check_driver("13.2")  # minor versions are compatible


def test_one_that_is_too_old_is_refused_before_torch_takes_the_cpu(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(12080)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for device in ("auto", "cuda", "cuda:1"):
        with pytest.raises(MachineError) as refused:
            choose_machine(RuntimeSpec(device=device, deterministic=False))
        for part in ("570.86.15", "CUDA up to 12.8", "CUDA 13.0", "580 or newer", "-cuda12", "TORCH=cuda12"):
            assert part in str(refused.value)
    assert refused.value.exit_code is ExitCode.MACHINE
    assert choose_machine(RuntimeSpec(device="cpu", deterministic=False)).device.type == "cpu"


def test_no_image_is_named_that_would_not_run_either(install: Install) -> None:
    install(11040)
    for needed in ("13.0", "12.8"):
        with pytest.raises(MachineError) as refused:
            driver.check_driver(needed)
        assert "-cuda" not in str(refused.value) and "TORCH" not in str(refused.value)
    install(12020)
    driver.check_driver("12.8")  # the image -cuda12, on driver 535


def test_an_unknown_version_is_said_so(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(12080)
    monkeypatch.setattr(driver, "VERSION_FILE", tmp_path / "none")
    with pytest.raises(MachineError, match=r"driver is of unknown version, which runs CUDA up to 12\.8"):
        driver.check_driver("13.0")
