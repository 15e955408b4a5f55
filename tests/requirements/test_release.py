"""What must hold before anything is released: the tag's version, and the gates of the workflow."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
CHART = Path("helm", "side-step", "Chart.yaml")


@pytest.fixture(scope="module")
def check_tag() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_tag", ROOT / "requirements" / "check_tag.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def workflow(name: str) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load((ROOT / ".github" / name).read_text())
    return found


def test_the_tag_of_this_version_fits_and_no_other(check_tag: ModuleType) -> None:
    version = check_tag.versions(ROOT)["pyproject.toml"]
    assert check_tag.check(f"v{version}") is None
    for tag in (version, f"v{version}.1", f"v{version}-rc1", "v99.0.0"):
        problem = check_tag.check(tag)
        assert problem and tag in problem and "pyproject.toml" in problem


@pytest.mark.parametrize("key", ["version", "appVersion"])
def test_a_chart_of_another_version_is_found(check_tag: ModuleType, tmp_path: Path, key: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / CHART).parent.mkdir(parents=True)
    version = check_tag.versions(ROOT)["pyproject.toml"]
    lines = {"version": version, "appVersion": f'"{version}"', key: "0.0.9"}
    (tmp_path / CHART).write_text("".join(f"{name}: {value}\n" for name, value in lines.items()))
    problem = check_tag.check(f"v{version}", tmp_path)
    assert problem and f"{key} has 0.0.9" in problem and "pyproject.toml" not in problem


def test_no_image_is_built_before_the_tests_and_none_tagged_before_the_scan() -> None:
    release = workflow("workflows/release.yaml")
    jobs = release["jobs"]
    assert jobs["tests"]["uses"] == "./.github/workflows/tests.yaml"
    assert "workflow_call" in workflow("workflows/tests.yaml")["on"]
    assert set(jobs["image"]["needs"]) == {"tests", "base"} and "image" in jobs["chart"]["needs"]
    assert any("check_tag.py" in step.get("run", "") for step in jobs["base"]["steps"])
    steps = jobs["image"]["steps"]
    build, scan, tag = (
        next(place for place, step in enumerate(steps) if word in str(step))
        for word in ("buildx build", "anchore/scan-action", "imagetools create")
    )
    assert build < scan < tag
    assert "--tag" not in steps[build]["run"]
    assert "--sbom true" in steps[build]["run"] and "$BASE@$DIGEST" in steps[build]["run"]
    assert steps[scan]["with"]["sbom"] == "sbom.json" and "cosign sign" in steps[tag]["run"]
    made = {
        row["suffix"]: (row["target"], row["cuda"]) for row in jobs["image"]["strategy"]["matrix"]["include"]
    }
    assert made.pop("cpu")[0] == "cpu"
    assert made == {
        f"{prefix}cuda{cuda}": (target, cuda)
        for target, prefix in (("cuda", ""), ("shell", "shell-"))
        for cuda in (12, 13)
    }


def test_every_action_is_pinned_by_commit() -> None:
    for name in ("release", "tests"):
        for job in workflow(f"workflows/{name}.yaml")["jobs"].values():
            for step in job.get("steps", []):
                if "uses" in step:
                    assert len(step["uses"].partition("@")[2]) == 40, step["uses"]


def test_the_bot_watches_packages_actions_and_images_but_not_torch() -> None:
    updates = {update["package-ecosystem"]: update for update in workflow("dependabot.yml")["updates"]}
    assert {"pip", "github-actions", "docker"} <= set(updates)
    assert (ROOT / updates["pip"]["directory"].strip("/") / "common.txt").exists()
    assert "torch" in {one["dependency-name"] for one in updates["pip"]["ignore"]}
