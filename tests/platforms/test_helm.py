"""The values for the chart, and that the chart makes of them the same Job as the plain manifests."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from sidestep.config.job import resolve
from sidestep.platforms.render import PLATFORMS, job_for
from tests.platforms.rendering import ON_S3, ROOT, render

CHART = ROOT / "helm" / "side-step"
DIGEST = "sha256:" + "0f" * 32
JOBS = {
    "a GPU and secrets": {**ON_S3, "runtime": {"grace_seconds": 12.5}, "train": {"lr": 1e-05}},
    "XL at a high rank": {
        **ON_S3,
        "model_variant": "xl-base",
        "train": {"adapter": {"rank": 200}},
    },
    "a sweep": {**ON_S3, "sweep": {"train.lr": [1e-05, 1e-4], "train.adapter.rank": [16, 200, 64]}},
    "neither": {**ON_S3, "storage": {"anonymous": True}, "runtime": {"device": "cpu"}},
}


def values(job: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = YAML(typ="safe", pure=True).load(render("helm", job).text)
    return read


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_the_values_fit_the_chart_s_schema_and_are_the_spec(job: dict[str, Any]) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(values(job))
    spec, _ = resolve(arguments=job, environ={})
    assert resolve(arguments=values(job)["job"], environ={})[0] == spec


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("registry:5000/side-step:1", {"repository": "registry:5000/side-step", "tag": "1"}),
        ("registry:5000/side-step", {"repository": "registry:5000/side-step", "tag": "latest"}),
        ("side-step", {"repository": "side-step", "tag": "latest"}),
        (f"side-step@{DIGEST}", {"repository": "side-step", "digest": DIGEST}),
        (f"registry:5000/side-step:1@{DIGEST}", {"repository": "registry:5000/side-step", "digest": DIGEST}),
    ],
)
def test_the_image_in_its_parts(image: str, parts: dict[str, str]) -> None:
    spec, origins = resolve(arguments=ON_S3, environ={})
    helm = PLATFORMS["helm"]
    text = helm.render(job_for(helm, spec, origins, image)).text
    read = YAML(typ="safe", pure=True).load(text)
    assert read["image"] == parts
    Draft202012Validator(json.loads((CHART / "values.schema.json").read_text())).validate(read)


@pytest.mark.chart
@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_the_chart_makes_the_same_job(job: dict[str, Any]) -> None:
    Path("values.yaml").write_text(render("helm", job).text)
    command = [os.environ.get("HELM", "helm"), "template", "my-lora", str(CHART), "--values", "values.yaml"]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    yaml = YAML(typ="safe", pure=True)
    by_chart = {one["kind"]: one for one in yaml.load_all(made)}
    plain = {one["kind"]: one for one in yaml.load_all(render("kubernetes", job).text)}
    import kubernetes_validate  # one of requirements/tools.txt, which the chart's tests alone need

    for manifest in plain.values():
        kubernetes_validate.validate(manifest, "1.31", strict=True)
    specs = [json.loads(one["ConfigMap"]["data"]["job.yaml"]) for one in (by_chart, plain)]
    assert specs[0] == specs[1]

    for manifests in (by_chart, plain):  # each has names and labels of its own
        template = manifests["Job"]["spec"]["template"]
        del template["metadata"]
        assert template["spec"]["volumes"][0].pop("configMap") == {
            "name": manifests["ConfigMap"]["metadata"]["name"]
        }
    pod = by_chart["Job"]["spec"]["template"]["spec"]
    assert pod.pop("serviceAccountName") == "default"  # what Kubernetes adds, and the chart writes
    assert pod["containers"][0].pop("imagePullPolicy") == "IfNotPresent"
    assert by_chart["Job"]["spec"] == plain["Job"]["spec"]
