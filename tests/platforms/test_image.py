"""Which image a rendered file names, and that what it asks of a machine fits that image's CUDA."""

from typing import Any

import pytest
from ruamel.yaml import YAML

from sidestep.cli import main
from sidestep.platforms.image import image_reference
from sidestep.platforms.render import PLATFORMS
from sidestep.runtime.errors import ExitCode
from tests.platforms.rendering import ROOT, SPECS


def render(capsys: pytest.CaptureFixture[str], platform: str, *flags: str) -> str:
    assert main(["render", platform, str(SPECS / "s3" / "pipeline.yaml"), *flags]) == ExitCode.DONE
    return capsys.readouterr().out


def load(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_platform_s_own_cuda_and_the_one_that_is_asked_for(
    platform: str, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = PLATFORMS[platform].cuda
    assert usual == (12 if platform in ("dstack", "skypilot") else 13)
    other = {12: 13, 13: 12}[usual]
    for cuda, flags in ((usual, []), (other, ["--cuda", str(other)])):
        text = render(capsys, platform, *flags)
        assert f"-cuda{cuda}" in text and f"-cuda{other + usual - cuda}" not in text
    assert image_reference(None, 12, {}).endswith("-cuda12")


@pytest.mark.parametrize(
    ("flags", "cuda"),
    [
        ([], 13),
        (["--cuda", "12"], 12),
        (["--image", "registry.example/side-step:2-cuda12"], 12),
        (["--image", f"registry.example/side-step:2-cuda12@sha256:{'0' * 64}"], 12),
        (["--image", "registry.example/my-own:2", "--cuda", "12"], 12),
        (["--image", "registry.example/my-own:2"], 13),
        (["--image", "registry.example/side-step:2-cuda13", "--cuda", "13"], 13),
    ],
)
def test_what_is_asked_of_a_machine_is_what_the_image_needs(
    flags: list[str], cuda: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"cuda_max_good>={cuda}.0 " in render(capsys, "vast", *flags)
    assert f'"minCudaVersion": "{cuda}.0"' in render(capsys, "runpod", *flags)


@pytest.mark.parametrize("platform", ["dstack", "skypilot"])
def test_one_that_cannot_be_asked_for_a_driver_says_which_it_takes(
    platform: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "driver must be 525 or newer" in render(capsys, platform)
    assert "driver must be 580 or newer" in render(capsys, platform, "--cuda", "13")
    own = ["--image", "registry.example/side-step:2-cuda13"]
    assert "driver must be 580 or newer" in render(capsys, platform, *own)


@pytest.mark.parametrize(
    ("flags", "facts"),
    [
        (["--cuda", "12", "--image", "x/y:1-cuda13"], ["--cuda is 12", "x/y:1-cuda13"]),
        (["--cuda", "11"], ["--cuda", "11", "12", "13"]),
    ],
)
def test_what_contradicts_itself_is_refused(
    flags: list[str], facts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = str(SPECS / "s3" / "pipeline.yaml")
    assert main(["render", "vast", spec, *flags]) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert [fact for fact in facts if fact not in shown.err] == [] and shown.out == ""


def test_the_page_s_table_of_drivers_has_every_platform() -> None:
    page = (ROOT / "docs" / "places.md").read_text(encoding="utf-8")
    for one in PLATFORMS.values():
        assert f"\n| {one.name} | `-cuda{one.cuda}` | " in page, one.name


def test_the_chart_s_default_is_render_s() -> None:
    values = load((ROOT / "helm" / "side-step" / "values.yaml").read_text())
    assert values["image"]["cuda"] == PLATFORMS["helm"].cuda == PLATFORMS["kubernetes"].cuda
