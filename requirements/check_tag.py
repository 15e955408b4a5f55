"""Checks that a tag is the version that pyproject.toml and the chart name. The release workflow runs it.

python requirements/check_tag.py v1.2.3
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def versions(root: Path) -> dict[str, str]:
    """The version that each file names, by what names it. Read without a package that had to be installed."""
    chart = (root / "helm" / "side-step" / "Chart.yaml").read_text()
    said = dict(re.findall(r'^(version|appVersion): *"?([^"\s]+)"?\s*$', chart, re.MULTILINE))
    return {
        "pyproject.toml": tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"],
        "Chart.yaml, version": said.get("version", "none"),
        "Chart.yaml, appVersion": said.get("appVersion", "none"),
    }


def check(tag: str, root: Path = ROOT) -> str | None:
    """None where all agree with `tag`, else one line that says which do not."""
    wrong = [f"{where} has {version}" for where, version in versions(root).items() if f"v{version}" != tag]
    return f"The tag is {tag}, but {'; '.join(wrong)}." if wrong else None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python requirements/check_tag.py vX.Y.Z")
    if problem := check(sys.argv[1]):
        sys.exit(problem)
