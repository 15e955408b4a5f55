"""The chart as helm renders it, and what Kubernetes' schemas let pass. `make test-chart` runs these.

No cluster is asked: the schemas are those that the API server publishes (kubernetes-validate carries them),
and the rules that it enforces beyond them are held here against its documentation:
https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy
https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sidestep.config.job import JobSpec
from sidestep.platforms.job import Job
from sidestep.platforms.kubernetes import hung_minutes, indexed_failure_policy, manifests
from sidestep.runtime.errors import ExitCode
from tests.chart.charted import (
    CHART,
    JOB,
    NEWEST,
    OLDEST,
    ROOT,
    VALUES,
    Manifest,
    helm,
    one,
    pods,
    rendered,
)

pytestmark = pytest.mark.chart


@pytest.mark.parametrize("file", VALUES, ids=lambda file: file.stem)
def test_lint(file: Path) -> None:
    done = helm("lint", "--strict", str(CHART), "--values", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_manifest_is_valid(documents: list[Manifest], version: str) -> None:
    import kubernetes_validate  # one of requirements/tools.txt, which only these tests need

    for document in documents:
        if document["kind"] != "PodMonitor":  # the Prometheus Operator's: see test_a_monitor_of_the_pod
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


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_a_sweep_is_an_indexed_job(version: str) -> None:
    """With an index for each combination; how many run at a time and may fail is for the values to say."""
    import kubernetes_validate

    sweep = {**JOB["job"], "sweep": {"train.lr": [1e-4, 3e-4], "train.adapter.rank": [16, 32, 64]}}
    spec = one("Job", rendered({"job": sweep}))["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 6, 6)
    assert spec["backoffLimitPerIndex"] == 3 and not {"backoffLimit", "maxFailedIndexes"} & spec.keys()
    assert spec["podFailurePolicy"] == indexed_failure_policy()
    made = one(
        "Job", rendered({"job": sweep, "parallelism": 2, "maxFailedIndexes": 0, "backoffLimitPerIndex": 0})
    )
    kubernetes_validate.validate(made, version, strict=True)
    spec = made["spec"]
    assert (spec["parallelism"], spec["maxFailedIndexes"], spec["backoffLimitPerIndex"]) == (2, 0, 0)
    assert "completions" not in one("Job", rendered({"job": {**sweep, "task": "preprocess"}}))["spec"]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_shards_are_an_indexed_job(version: str) -> None:
    import kubernetes_validate

    dealt = {**JOB["job"], "task": "preprocess", "preprocess": {"shards": 5}}
    made = one("Job", rendered({"job": dealt, "parallelism": 2, "maxFailedIndexes": 1}))
    kubernetes_validate.validate(made, version, strict=True)
    spec = made["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 5, 2)
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (3, 1)
    assert spec["podFailurePolicy"] == indexed_failure_policy() and "successPolicy" not in spec
    for other in ({"shards": 1}, {"shards": 5, "shard": 0}):
        assert "completions" not in one("Job", rendered({"job": {**dealt, "preprocess": other}}))["spec"]
    assert "completions" not in one("Job", rendered({"job": {**dealt, "task": "train"}}))["spec"]


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
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"].get("runAsUser") != 0
        assert pod["securityContext"]["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
        assert all(volume.keys() - {"name"} <= volumes for volume in pod["volumes"])
        for container in (*pod["containers"], *pod.get("initContainers", ())):
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
    for key in (
        *("name", "image", "args", "envFrom", "resources", "securityContext", "volumeMounts"),
        "terminationMessagePolicy",
    ):
        assert mine[key] == theirs[key], key
    assert mine["livenessProbe"]["exec"] == theirs["livenessProbe"]["exec"]


def test_the_liveness_probe_is_the_images_health_check() -> None:
    probe = rendered(JOB)
    command = one("Job", probe)["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["exec"][
        "command"
    ]
    assert f"CMD {json.dumps(command)}" in (ROOT / "docker" / "Dockerfile").read_text()


@pytest.mark.parametrize(
    ("runtime", "minutes"),
    [
        ({}, 75),
        ({"first_step_minutes": 90.5}, 106),
        ({"stall_minutes": 720}, 735),
        ({"stall_minutes": 1, "first_step_minutes": 1, "lease_seconds": 3600}, 75),
        ({"stall_minutes": None}, None),
        ({"first_step_minutes": None}, None),
    ],
)
def test_the_probe_leaves_the_job_its_own_bounds(runtime: Manifest, minutes: int | None) -> None:
    """It is the same sum as the one in the code."""
    values = {**JOB["job"], "runtime": runtime}
    assert hung_minutes(JobSpec.model_validate(values)) == minutes
    [container] = one("Job", rendered({"job": values}))["spec"]["template"]["spec"]["containers"]
    if minutes is None:
        assert "livenessProbe" not in container
    else:
        assert f"+{minutes}" in container["livenessProbe"]["exec"]["command"]
        assert container["livenessProbe"]["periodSeconds"] == 60


def test_a_probe_of_one_s_own_takes_its_place() -> None:
    own = {"exec": {"command": ["true"]}, "periodSeconds": 5}
    values = {"job": {**JOB["job"], "runtime": {"stall_minutes": None}}, "livenessProbe": own}
    [container] = one("Job", rendered(values))["spec"]["template"]["spec"]["containers"]
    assert container["livenessProbe"]["exec"] == own["exec"]
    assert container["livenessProbe"]["periodSeconds"] == 5
    assert "livenessProbe" not in json.dumps(rendered({**JOB, "livenessProbe": None}))


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
    other_job, same_config = names({**JOB, "workspace": {"size": "4Gi"}})
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
    assert {"name": "workspace", "emptyDir": {"sizeLimit": "24Gi"}} in pod["spec"]["volumes"]


def test_kueue_gets_what_it_reads_and_is_left_its_own() -> None:
    """https://kueue.sigs.k8s.io/docs/reference/labels-and-annotations/"""
    kueue = {"queueName": "gpus", "priorityClass": "low", "maxExecTimeSeconds": 2_000_000}
    job = one("Job", rendered({**JOB, "kueue": kueue}))
    assert {key: value for key, value in job["metadata"]["labels"].items() if "kueue" in key} == {
        "kueue.x-k8s.io/queue-name": "gpus",
        "kueue.x-k8s.io/priority-class": "low",
        "kueue.x-k8s.io/max-exec-time-seconds": "2000000",
    }
    assert "kueue" not in json.dumps(one("Job", rendered(JOB)))


def test_nothing_suspends_the_job_or_says_that_it_is_not(documents: list[Manifest]) -> None:
    """The field is Kueue's, see test_upgrade.py."""
    assert "suspend" not in one("Job", documents)["spec"]


@pytest.mark.parametrize(("key", "mine"), [("backoffLimit", 3), ("ttlSecondsAfterFinished", 604800)])
def test_null_leaves_a_limit_to_kubernetes(key: str, mine: int) -> None:
    assert one("Job", rendered(JOB))["spec"][key] == mine
    assert one("Job", rendered({**JOB, key: 0}))["spec"][key] == 0
    assert key not in one("Job", rendered({**JOB, key: None}))["spec"]


def test_what_is_missing_does_not_hold_the_node() -> None:
    """The kubelet starts no container whose Secret or ConfigMap is missing, unless it is optional."""
    values: Manifest = {
        "existingConfigMap": "spec",
        "existingSecret": "keys",
        "envFrom": [
            {"secretRef": {"name": "a"}},
            {"configMapRef": {"name": "b", "optional": False}, "prefix": "X_"},
        ],
        "extraEnv": [
            {"name": "PLAIN", "value": "1"},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "c", "key": "t"}}},
        ],
        "extraVolumes": [{"name": "ca", "secret": {"secretName": "d"}}, {"name": "tmp", "emptyDir": {}}],
        "tensorboard": {"enabled": True, "logdir": "s3://a/b"},
    }
    documents = rendered(values)
    for kind, pod in pods(documents):
        [container] = pod["containers"]
        assert container["envFrom"] == [
            {"secretRef": {"name": "keys", "optional": True}},
            {"secretRef": {"name": "a", "optional": True}},
            {"configMapRef": {"name": "b", "optional": False}, "prefix": "X_"},
        ], kind
        env = {one["name"]: one for one in container["env"]}
        assert env["PLAIN"] == {"name": "PLAIN", "value": "1"}
        assert env["TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "c", "key": "t", "optional": True}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["ca"]["secret"] == {"secretName": "d", "optional": True}
        assert volumes["tmp"]["emptyDir"] == {}
        if kind != "Deployment":
            assert volumes["job"]["configMap"] == {"name": "spec", "optional": True}
    # The spec that the chart itself brings is there before the Job is.
    volumes = one("Job", rendered(JOB))["spec"]["template"]["spec"]["volumes"]
    assert "optional" not in volumes[0]["configMap"]


def test_a_run_again_is_another_job_of_the_same_spec() -> None:
    def names(**values: int) -> tuple[str, str]:
        documents = rendered({**JOB, **values})
        return one("Job", documents)["metadata"]["name"], one("ConfigMap", documents)["metadata"]["name"]

    found = [names(), names(rerun=0), names(rerun=1), names(rerun=2)]
    assert (
        found[0] == found[1] and len({job for job, _ in found}) == 3 and len({spec for _, spec in found}) == 1
    )


def test_a_digest_says_more_than_a_tag() -> None:
    digest = "sha256:" + "0a" * 32
    documents = rendered(
        {
            **JOB,
            "image": {"repository": "r:5000/x", "tag": "1", "digest": digest},
            "tensorboard": {"enabled": True, "imageDigest": digest},
        }
    )
    assert {pod["containers"][0]["image"] for _, pod in pods(documents)} == {f"r:5000/x@{digest}"}


def test_labels_and_annotations_of_the_job_are_not_its_pods() -> None:
    given = {"jobLabels": {"a/b": "c", "app.kubernetes.io/name": "mine"}, "jobAnnotations": {"d": "e"}}
    job = one("Job", rendered({**JOB, **given}))
    assert job["metadata"]["labels"]["a/b"] == "c" and job["metadata"]["annotations"] == {"d": "e"}
    assert job["metadata"]["labels"]["app.kubernetes.io/name"] == "side-step"  # what others select by stays
    assert "a/b" not in json.dumps(job["spec"]) and "annotations" not in job["spec"]["template"]["metadata"]


def test_what_the_pod_is_given_it_has() -> None:
    init = [
        {"name": "first", "image": "busybox:1", "volumeMounts": [{"name": "workspace", "mountPath": "/w"}]}
    ]
    spread = [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]
    documents = rendered({**JOB, "initContainers": init, "topologySpreadConstraints": spread})
    pod = one("Job", documents)["spec"]["template"]["spec"]
    assert (pod["initContainers"], pod["topologySpreadConstraints"]) == (init, spread)
    assert "initContainers" not in one("Pod", documents)["spec"]  # `helm test` checks, and prepares nothing
