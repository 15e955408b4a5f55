"""The pins that only the image takes. That they are complete, its build finds out by `pip check`."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text()
    return {canonicalize_name(p): v for p, v in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)}


def test_every_extra_of_the_image_is_pinned_within_its_range() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = pins("cpu.txt") | pins("image.txt")
    for text in (line for extra in ("gpu", "gcs", "azure") for line in extras[extra]):
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), text


def test_no_package_has_two_versions() -> None:
    """What is tested is what the image has."""
    seen: dict[str, str] = {}
    for file in ("cpu.txt", "cuda.txt", "dev.txt", "image.txt", "tools.txt"):
        for package, version in pins(file).items():
            assert seen.setdefault(package, version) == version, f"{package} in {file}"


def test_what_builds_the_wheel_is_pinned_within_its_range() -> None:
    [wanted] = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    requirement = Requirement(wanted)
    assert requirement.specifier.contains(pins("build.txt")[requirement.name])
