"""What the chart makes of wrong values, says after an install, and its page's commands."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sidestep.config.job import JobSpec
from tests.chart.charted import CHART, HELM, JOB, ROOT, Manifest, helm, one, refused, rendered
from tests.documents import Block, blocks, run

pytestmark = pytest.mark.chart


def test_no_value_makes_a_secret() -> None:
    assert {document["kind"] for document in rendered(JOB)} == {"ConfigMap", "Job", "Pod"}


def test_default_values_are_refused_with_what_to_set() -> None:
    said = refused({})
    assert "Set `job` to the job spec" in said and "existingConfigMap" in said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({**JOB, "existingConfigMap": "mine"}, "job"),
        ({"job": {"audio_dr": "s3://a/b"}}, "audio_dr"),
        ({"job": {"train": {"lr": "1e-4"}}}, "/job/train/lr"),
        ({"job": {"train": {"epochs": 0}}}, "/job/train/epochs"),
        ({"job": {"train": {"adapter": {"type": "dora"}}}}, "/job/train/adapter/type"),
        ({**JOB, "gpus": {}}, "gpus"),
        ({**JOB, "gpu": {"count": "1"}}, "/gpu/count"),
        ({**JOB, "gpu": {"resource": "gpu"}}, "/gpu/resource"),
        ({**JOB, "workspace": {"size": "100GB"}}, "/workspace/size"),
        ({**JOB, "nodeSelector": {"spot": True}}, "/nodeSelector/spot"),
        ({**JOB, "image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({**JOB, "image": {"tag": 1.0}}, "/image/tag"),
        ({**JOB, "image": {"digest": "0a" * 32}}, "/image/digest"),
        ({**JOB, "shmSize": "2Gi"}, "shmSize"),
        ({**JOB, "backoffLimit": -1}, "/backoffLimit"),
        ({**JOB, "rerun": "now"}, "/rerun"),
        ({**JOB, "kueue": {"maxExecTimeSeconds": 0}}, "/kueue/maxExecTimeSeconds"),
        ({**JOB, "kueue": {"suspend": True}}, "suspend"),
        ({**JOB, "jobLabels": {"spot": True}}, "/jobLabels/spot"),
        ({**JOB, "envFrom": [{"secretRef": {"nam": "x"}}]}, "/envFrom/0"),
        ({**JOB, "envFrom": ["keys"]}, "/envFrom/0"),
        ({**JOB, "initContainers": [{"name": "x"}]}, "/initContainers/0"),
        ({**JOB, "networkPolicy": {"metadata": "yes"}}, "/networkPolicy/metadata"),
        ({**JOB, "networkPolicy": {"metricsFrom": [{}]}}, "/networkPolicy/metricsFrom/0"),
        ({**JOB, "networkPolicy": {"metricsFrom": [{"podSelector": {}}]}}, "set metrics.port"),
        ({**JOB, "metrics": {"podMonitor": {"enabled": True}}}, "set metrics.port"),
        ({**JOB, "metrics": {"port": 80}}, "/metrics/port"),
        ({**JOB, "metrics": {"podMonitor": {"interval": "often"}}}, "/metrics/podMonitor/interval"),
        ({**JOB, "workspace": {"ephemeralVolume": {"size": "1Gi"}}}, "/workspace/ephemeralVolume"),
        (
            {**JOB, "workspace": {"existingClaim": "w", "ephemeralVolume": {"enabled": True}}},
            "are both set",
        ),
        ({**JOB, "terminationGracePeriodSeconds": 30}, "it must be more"),
        (
            {"job": {"runtime": {"webhook": ["https://hooks.example.org/T0"]}}},
            "SIDESTEP_RUNTIME__WEBHOOK",
        ),
        ({"existingConfigMap": "mine", "tensorboard": {"enabled": True}}, "set tensorboard.logdir"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_values_are_refused(values: Manifest, said: str) -> None:
    assert said in refused(values)


def test_off_needs_no_quotes(tmp_path: Path) -> None:
    """Helm reads YAML 1.1, for which it is false."""
    values = tmp_path / "values.yaml"
    values.write_text("job: {audio_dir: s3://a/b, output_dir: s3://studio/x, runtime: {compile: off}}\n")
    job = one("ConfigMap", rendered(None, "--values", str(values)))["data"]["job.yaml"]
    spec = YAML(typ="safe").load(job)
    assert spec["runtime"] == {"compile": False}
    assert JobSpec(**spec).runtime.compile == "off"


def test_the_rendered_values_files_are_good() -> None:
    for file in (ROOT / "jobs" / "helm").glob("*.yaml"):
        assert one("Job", rendered(None, "--values", str(file)))


def test_the_notes_name_what_is_there() -> None:
    values = {**JOB, "tensorboard": {"enabled": True}}
    done = helm("install", "--dry-run=client", "my-lora", str(CHART), values=values)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    documents = rendered(values)
    assert f"logs --follow job/{one('Job', documents)['metadata']['name']}" in notes
    assert f"port-forward service/{one('Service', documents)['metadata']['name']} 6006" in notes
    assert "sidestep status s3://studio/runs/x" in notes
    assert f"job-name={one('Job', documents)['metadata']['name']}" in notes and "rerun=1" in notes


def test_every_command_of_the_page_works() -> None:
    """docs/kubernetes.md, without a cluster: what is installed is rendered, and not sent."""
    Path("helm").symlink_to(ROOT / "helm")
    found = [block for block in blocks(ROOT / "docs" / "kubernetes.md") if block.kind == "bash"]
    assert len(found) == 4
    for block in found:
        text = block.text.replace("helm install", "helm install --dry-run=client")
        run(Block("bash", re.sub(r"^helm ", f"{HELM} ", text, flags=re.M)))
