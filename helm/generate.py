"""Writes what the chart takes from the code: its values' schema, podFailurePolicy, the workspace's sizes.

    python helm/generate.py

The spec's schema has its parts in `$defs`, and refers to them from its root. In the values the spec is
under `job`, so its `$defs` are lifted to the root of the values' schema, where the references find them.
"""

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from sidestep.config.job import JobSpec
from sidestep.platforms.disk import chart_sizes
from sidestep.platforms.jobset import chart_policies
from sidestep.platforms.kubernetes import indexed_failure_policy, pod_failure_policy

HERE = Path(__file__).parent
CHART = HERE / "side-step"


def values_schema() -> dict[str, Any]:
    """The schema of the chart's values: what own-values.yaml says, and `job` as the spec's own schema."""
    schema: dict[str, Any] = YAML(typ="safe").load(HERE / "own-values.yaml")
    job = JobSpec.model_json_schema()
    schema["$defs"] |= job.pop("$defs")
    schema["properties"]["job"] = job
    for part in schema["$defs"].values():
        for setting in part.get("properties", {}).values():
            if "off" in setting.get("enum", ()):
                # Helm, by YAML 1.1, reads false where `off` has no quotes.
                setting |= {"type": ["string", "boolean"], "enum": [*setting["enum"], False]}
    return schema


def generated() -> dict[Path, str]:
    """File → content of all that is made here."""
    made = {
        CHART / "values.schema.json": values_schema(),
        CHART / "files" / "pod-failure-policy.json": pod_failure_policy(),
        CHART / "files" / "indexed-failure-policy.json": indexed_failure_policy(),
        CHART / "files" / "jobset.json": chart_policies(),
        CHART / "files" / "workspace.json": chart_sizes(),
    }
    return {file: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for file, content in made.items()}


if __name__ == "__main__":
    for file, content in generated().items():
        file.write_text(content)
