"""The pins that only the image takes. That they are complete, its build finds out by `pip check`."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text()
    return {canonicalize_name(p): v for p, v in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)}


def test_every_extra_of_the_image_is_pinned_within_its_range() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = pins("common.txt") | pins("image.txt")
    for text in (line for extra in ("gpu", "gcs", "azure") for line in extras[extra]):
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), text


@pytest.mark.parametrize("torch", ["cpu.txt", "cuda12.txt", "cuda13.txt"])
def test_no_package_has_two_versions(torch: str) -> None:
    """What is tested is what the image has."""
    seen: dict[str, str] = {}
    for file in ("common.txt", torch, "dev.txt", "image.txt", "tools.txt"):
        for package, version in pins(file).items():
            assert seen.setdefault(package, version) == version, f"{package} in {file}"


def test_each_torch_comes_with_the_libraries_of_its_cuda_alone() -> None:
    """None without the CPU's; of both CUDAs the same kinds, so that none is forgotten."""
    assert set(pins("cpu.txt")) == {"torch"}
    kinds = [
        {name.removesuffix(f"-cu{cuda}") for name in pins(f"cuda{cuda}.txt")} - {"cuda-toolkit"}
        for cuda in (12, 13)
    ]
    assert kinds[0] == kinds[1] >= {"torch", "triton", "nvidia-cublas", "nvidia-cudnn", "nvidia-nccl"}
    assert not [name for name in pins("cuda12.txt") if "cu13" in name]
    assert not [name for name in pins("cuda13.txt") if "cu12" in name]
    assert pins("cuda12.txt")["nvidia-cuda-runtime-cu12"].startswith("12.")
    assert pins("cuda13.txt")["nvidia-cuda-runtime"].startswith("13.")
    assert pins("cpu.txt")["torch"] == pins("cuda13.txt")["torch"] != pins("cuda12.txt")["torch"]


def test_what_builds_the_wheel_is_pinned_within_its_range() -> None:
    [wanted] = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    requirement = Requirement(wanted)
    assert requirement.specifier.contains(pins("build.txt")[requirement.name])
