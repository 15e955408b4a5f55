"""The chart as helm renders it, and what Kubernetes' schemas let pass. `make test-chart` runs these.

No cluster is asked: the schemas are those that the API server publishes (kubernetes-validate carries them),
and the rules that it enforces beyond them are held here against its documentation:
https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy
https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sidestep.config.job import JobSpec
from sidestep.platforms.job import Job
from sidestep.platforms.kubernetes import manifests
from sidestep.runtime.errors import ExitCode
from tests.documents import Block, blocks, run

pytestmark = pytest.mark.chart

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "side-step"
HELM = os.environ.get("HELM", "helm")
OLDEST, NEWEST = "1.31", "1.37"  # Chart.yaml's kubeVersion, and the newest that there are schemas of
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
JOB = {"job": {"audio_dir": "s3://a/b", "output_dir": "s3://studio/runs/x"}}

Manifest = dict[str, Any]


def helm(*arguments: str, values: Manifest | None = None) -> subprocess.CompletedProcess[str]:
    """Run helm; `values` are on top of whatever files the arguments name."""
    given = ["--values", "-"] if values is not None else []
    text = json.dumps(values) if values is not None else None
    return subprocess.run([HELM, *arguments, *given], input=text, capture_output=True, text=True)


def rendered(values: Manifest | None = None, *arguments: str) -> list[Manifest]:
    done = helm("template", "my-lora", str(CHART), *arguments, values=values)
    assert done.returncode == 0, done.stderr
    return [document for document in YAML(typ="safe").load_all(done.stdout) if document]


def one(kind: str, documents: list[Manifest]) -> Manifest:
    [found] = [document for document in documents if document["kind"] == kind]
    return found


def refused(values: Manifest) -> str:
    done = helm("template", "my-lora", str(CHART), values=values)
    assert done.returncode != 0, f"was not refused: {values}"
    return done.stderr


def pods(documents: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Kind and spec of every pod that the documents make."""
    for document in documents:
        if document["kind"] == "Pod":
            yield "Pod", document["spec"]
        elif document["kind"] in ("Job", "Deployment"):
            yield document["kind"], document["spec"]["template"]["spec"]


@pytest.fixture(params=VALUES, ids=lambda file: file.stem)
def documents(request: pytest.FixtureRequest) -> list[Manifest]:
    """What the chart makes of one of its example files."""
    return rendered(None, "--values", str(request.param))


@pytest.mark.parametrize("file", VALUES, ids=lambda file: file.stem)
def test_lint(file: Path) -> None:
    done = helm("lint", "--strict", str(CHART), "--values", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_manifest_is_valid(documents: list[Manifest], version: str) -> None:
    import kubernetes_validate  # one of requirements/tools.txt, which only these tests need

    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_failure_policy_says_what_the_exit_codes_mean(documents: list[Manifest]) -> None:
    spec = one("Job", documents)["spec"]
    rules = spec["podFailurePolicy"]["rules"]
    assert len(rules) <= 20
    assert {rule["action"] for rule in rules} <= {"Ignore", "FailJob", "Count", "FailIndex"}
    # The first that matches counts: a pod that had to go is replaced, whatever its code was.
    assert [rule["action"] for rule in rules] == ["Ignore", "FailJob", "Ignore"]
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    for rule in rules[1:]:
        on = rule["onExitCodes"]
        assert on["operator"] in ("In", "NotIn")
        assert on["containerName"] == spec["template"]["spec"]["containers"][0]["name"]
        assert 0 not in on["values"] and on["values"] == sorted(set(on["values"]))
    assert rules[1]["onExitCodes"]["values"] == [64, 65, 66, 70, 71, 77, 78]
    assert rules[2]["onExitCodes"]["values"] == [ExitCode.AGAIN]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # the policy asks for it
    assert spec["podReplacementPolicy"] == "Failed"


def test_every_pod_is_within_the_restricted_standard(documents: list[Manifest]) -> None:
    volumes = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
    }
    for _, pod in pods(documents):
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"].get("runAsUser") != 0
        assert pod["securityContext"]["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
        assert all(volume.keys() - {"name"} <= volumes for volume in pod["volumes"])
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert "hostPort" not in str(container.get("ports"))
        assert pod["automountServiceAccountToken"] is False


def test_the_kill_comes_after_the_grace(documents: list[Manifest]) -> None:
    maps = [document for document in documents if document["kind"] == "ConfigMap"]
    spec = json.loads(maps[0]["data"]["job.yaml"]) if maps else {}
    grace = spec.get("runtime", {}).get("grace_seconds", 30)
    assert one("Job", documents)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > grace


def test_the_job_is_the_one_that_render_makes(tmp_path: Path) -> None:
    """`sidestep render kubernetes` and the chart are two ways to the same pod."""
    values = JOB["job"]
    spec = JobSpec.model_validate(values)
    given: dict[tuple[str, ...], Any] = {(name,): value for name, value in values.items()}
    version = YAML(typ="safe").load(CHART / "Chart.yaml")["appVersion"]
    job = Job(spec, given, f"ghcr.io/side-step/side-step:{version}-cuda13", "job.yaml")
    plain = one("Job", manifests(job))["spec"]
    chart = one("Job", rendered({**JOB, "existingSecret": "sidestep-credentials"}))["spec"]
    for key in ("podFailurePolicy", "podReplacementPolicy", "backoffLimit", "ttlSecondsAfterFinished"):
        assert chart[key] == plain[key], key
    mine, theirs = chart["template"]["spec"], plain["template"]["spec"]
    for key in ("restartPolicy", "terminationGracePeriodSeconds", "automountServiceAccountToken"):
        assert mine[key] == theirs[key], key
    [mine], [theirs] = mine["containers"], theirs["containers"]
    for key in ("name", "image", "args", "envFrom", "resources", "securityContext", "volumeMounts"):
        assert mine[key] == theirs[key], key
    assert mine["livenessProbe"]["exec"] == theirs["livenessProbe"]["exec"]


def test_the_liveness_probe_is_the_images_health_check() -> None:
    probe = rendered(JOB)
    command = one("Job", probe)["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["exec"][
        "command"
    ]
    assert f"CMD {json.dumps(command)}" in (ROOT / "docker" / "Dockerfile").read_text()


def test_the_spec_arrives_as_it_was_written() -> None:
    """Numbers above all: 1e-05 must not become text, nor a large seed a float."""
    train = {"lr": 1e-05, "seed": 4294967295, "adapter": {"alpha": 0.1, "dropout": 0}, "max_steps": None}
    documents = rendered({"job": {**JOB["job"], "train": train}})
    config = one("ConfigMap", documents)
    assert config["immutable"] is True
    Path("job.yaml").write_text(config["data"]["job.yaml"])
    written = {**train, "max_steps": None}
    assert JobSpec.load("job.yaml") == JobSpec.model_validate({**JOB["job"], "train": written})
    volumes = one("Job", documents)["spec"]["template"]["spec"]["volumes"]
    assert {"name": "job", "configMap": {"name": config["metadata"]["name"]}} in volumes


def test_another_spec_or_pod_is_another_job() -> None:
    def names(values: Manifest) -> tuple[str, ...]:
        documents = rendered(values)
        return tuple(one(kind, documents)["metadata"]["name"] for kind in ("Job", "ConfigMap"))

    job, config = names(JOB)
    assert (job, config) == names({**JOB, "ttlSecondsAfterFinished": 60})  # may change while it is there
    other_job, other_config = names({"job": {**JOB["job"], "name": "other"}})
    assert other_job != job and other_config != config
    other_job, same_config = names({**JOB, "shmSize": "4Gi"})
    assert other_job != job and same_config == config


def test_names_stay_within_their_limits() -> None:
    for documents in (
        rendered({**JOB, "fullnameOverride": "a" * 70, "tensorboard": {"enabled": True}}),
        rendered({**JOB, "nameOverride": "b" * 70, "tensorboard": {"enabled": True}}),
    ):
        for document in documents:
            assert len(document["metadata"]["name"]) <= 63, document["metadata"]["name"]


@pytest.mark.parametrize(("gpu", "limits"), [
    ({}, {"nvidia.com/gpu": "1"}),
    ({"resource": "amd.com/gpu", "count": 2}, {"amd.com/gpu": "2"}),
    ({"count": 0}, None),
])  # fmt: skip
def test_the_gpu_is_asked_for_by_name_and_number(gpu: Manifest, limits: Manifest | None) -> None:
    [container] = one("Job", rendered({**JOB, "gpu": gpu}))["spec"]["template"]["spec"]["containers"]
    assert (container["resources"].get("limits") or None) == limits


def test_a_job_for_the_cpu_asks_for_no_gpu() -> None:
    documents = rendered({"job": {**JOB["job"], "runtime": {"device": "cpu"}}})
    assert "nvidia.com/gpu" not in json.dumps(one("Job", documents))


def test_helm_test_asks_for_no_gpu_and_no_gpu_node() -> None:
    pod = one("Pod", rendered({**JOB, "nodeSelector": {"gpu": "l4"}, "workspace": {"existingClaim": "w"}}))
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    # Helm 3 reads what `helm test --logs` shows when pods that succeeded are gone, if they are to go.
    assert "hook-succeeded" not in pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    [container] = pod["spec"]["containers"]
    assert container["args"] == ["plan", "--check-only", "--elsewhere"]
    assert "gpu" not in json.dumps(pod)
    assert {"name": "workspace", "emptyDir": {"sizeLimit": "100Gi"}} in pod["spec"]["volumes"]


def test_kueue_finds_a_suspended_job_in_its_queue() -> None:
    job = one("Job", rendered({**JOB, "kueue": {"queueName": "gpus"}}))
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert job["spec"]["suspend"] is True
    assert "suspend" not in one("Job", rendered(JOB))["spec"]


def test_unset_a_deadline_is_not_there() -> None:
    """It counts from the Job's creation: one that waits for a GPU would fail in the queue."""
    assert "activeDeadlineSeconds" not in one("Job", rendered(JOB))["spec"]


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
        ({**JOB, "terminationGracePeriodSeconds": 30}, "it must be more"),
        ({"existingConfigMap": "mine", "tensorboard": {"enabled": True}}, "set tensorboard.logdir"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_values_are_refused(values: Manifest, said: str) -> None:
    assert said in refused(values)


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


def test_every_command_of_the_page_works() -> None:
    """docs/kubernetes.md, without a cluster: what is installed is rendered, and not sent."""
    Path("helm").symlink_to(ROOT / "helm")
    found = [block for block in blocks(ROOT / "docs" / "kubernetes.md") if block.kind == "bash"]
    assert len(found) == 2
    for block in found:
        text = block.text.replace("helm install", "helm install --dry-run=client")
        run(Block("bash", re.sub(r"^helm ", f"{HELM} ", text, flags=re.M)))
