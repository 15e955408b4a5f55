"""The Kubernetes manifests: the rules of the Job, and what Kubernetes itself would not tell."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sidestep.acestep.layout import ALIASES
from sidestep.config.job import resolve
from sidestep.platforms.disk import workspace_gib
from sidestep.platforms.kubernetes import BACKOFF_LIMIT, CONTAINER, pod_failure_policy
from sidestep.runtime.errors import ExitCode, Rerun, rerun_after
from tests.platforms.rendering import ON_S3, ROOT, render


def manifests(values: dict[str, Any] = ON_S3) -> list[dict[str, Any]]:
    return list(YAML(typ="safe", pure=True).load_all(render("kubernetes", values).text))


_OLDER = ("find", "/workspace/alive", "-mmin")


@dataclass
class Controller:
    """What Kubernetes' Job controller keeps of its pods' ends, as far as these rules reach.

    `syncJob` and `deleteJobPods` in pkg/controller/job: when a Job is suspended, its pods' tracking finalizer
    is removed before they are deleted, and what has no finalizer is never counted. The rules that fail a Job
    are asked about every pod that is still there.
    """

    counted: int = 0
    failed: bool = False

    def pod_ended(self, code: int, *, disrupted: bool = False, suspended: bool = False) -> None:
        if suspended and disrupted:
            raise AssertionError("a pod that goes with its suspended Job bears no DisruptionTarget")
        action = outcome(code, disrupted)
        if action == "FailJob":
            self.failed = True
        elif action == "Count" and not suspended:
            self.counted += 1
        self.failed |= self.counted > BACKOFF_LIMIT


def outcome(code: int, disrupted: bool = False) -> str:
    """What Kubernetes does about a pod that ended with `code`: the first rule that matches counts."""
    for rule in pod_failure_policy()["rules"]:
        conditions = {condition["type"] for condition in rule.get("onPodConditions", [])}
        codes = rule.get("onExitCodes", {}).get("values", [])
        if (disrupted and "DisruptionTarget" in conditions) or code in codes:
            return str(rule["action"])
    return "Count"


def test_every_code_has_its_outcome() -> None:
    outcomes = {int(code): outcome(code) for code in ExitCode if code is not ExitCode.DONE}
    assert outcomes == {
        **dict.fromkeys((64, 65, 66, 70, 71, 77, 78), "FailJob"),
        **dict.fromkeys((69, 72, 73, 74, 76), "Count"),
        75: "Ignore",
    }
    by_class = {Rerun.PERMANENT: "FailJob", Rerun.COUNTED: "Count", Rerun.AGAIN: "Ignore"}
    assert all(outcome(code) == by_class[rerun_after(code)] for code in range(1, 256))


@pytest.mark.parametrize("code", [*ExitCode, 137])
def test_a_pod_that_had_to_go_never_counts(code: int) -> None:
    assert outcome(code, disrupted=True) == "Ignore"


@pytest.mark.parametrize("code", [75, 137, 143])
def test_a_job_that_kueue_preempts_goes_on_however_often(code: int) -> None:
    """Suspended: told in time (75), killed when the time was over (137), or told before it began (143)."""
    job = Controller()
    for _ in range(10 * BACKOFF_LIMIT):
        job.pod_ended(code, suspended=True)
    assert (job.counted, job.failed) == (0, False)
    for _ in range(BACKOFF_LIMIT):  # and its tries for what else may happen are all still there
        job.pod_ended(137)
    assert not job.failed


def test_what_is_never_counted_is_bounded_by_the_job_itself() -> None:
    """Too many attempts without progress end with 70, however their pods went."""
    job = Controller()
    for _ in range(10 * BACKOFF_LIMIT):
        job.pod_ended(137, disrupted=True)
        job.pod_ended(75)
    assert (job.counted, job.failed) == (0, False)
    job.pod_ended(ExitCode.BUG)
    assert job.failed


def test_a_permanent_failure_while_it_is_suspended_is_one() -> None:
    job = Controller()
    job.pod_ended(78, suspended=True)
    assert job.failed


@pytest.mark.parametrize("code", [1, 69, 72, 73, 76, 134, 137, 139, 143])
def test_counted_codes_end_the_job_together(code: int) -> None:
    """Whichever they are, and whatever was ignored in between."""
    job = Controller()
    for _ in range(BACKOFF_LIMIT):
        job.pod_ended(code)
        job.pod_ended(75)
        job.pod_ended(137, disrupted=True)
    assert (job.counted, job.failed) == (BACKOFF_LIMIT, False)
    job.pod_ended(72)
    assert job.failed


def test_what_is_missing_does_not_hold_the_node() -> None:
    """Without its Secret the container starts, and the job itself ends with 77."""
    (container,) = manifests()[1]["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "sidestep-credentials", "optional": True}}]


def in_a_pod(folder: Path, container: dict[str, Any], config_map: dict[str, Any] | None) -> tuple[int, str]:
    """Run the container's command without any Secret; its code, and what `kubectl describe` would show of it.

    With this policy that is the log's last 2048 bytes, where the container failed.
    """
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "AWS_EC2_METADATA_DISABLED": "true",
        "SIDESTEP_RUNTIME__WORKSPACE": str(folder / "workspace"),
    }
    if config_map:
        (folder / "job.yaml").write_text(config_map["data"]["job.yaml"])
        environment["SIDESTEP_CONFIG"] = str(folder / "job.yaml")
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    ended = subprocess.run(
        [sys.executable, "-m", "sidestep", *container["args"]],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return ended.returncode, ended.stdout[-2048:].decode()


def test_without_its_secret_a_job_ends_and_says_why(tmp_path: Path) -> None:
    config_map, job = manifests()
    code, message = in_a_pod(tmp_path, job["spec"]["template"]["spec"]["containers"][0], config_map)
    assert code == ExitCode.ACCESS and outcome(code) == "FailJob"
    assert "AWS_ACCESS_KEY_ID" in message and "s3://studio/songs" in message


def test_without_a_spec_a_job_ends_and_says_why(tmp_path: Path) -> None:
    _, job = manifests()
    code, message = in_a_pod(tmp_path, job["spec"]["template"]["spec"]["containers"][0], None)
    assert code == ExitCode.BAD_SPEC and outcome(code) == "FailJob"
    assert "output_dir" in message


@pytest.mark.parametrize(
    ("runtime", "minutes"),
    [
        ({}, 75),
        ({"first_step_minutes": 90.5}, 106),
        ({"stall_minutes": 100}, 115),
        ({"first_step_minutes": 1, "stall_minutes": 1, "lease_seconds": 1800}, 45),
        ({"stall_minutes": None}, None),
    ],
)
def test_the_probe_is_slower_than_the_job_s_own_watchdog(
    runtime: dict[str, Any], minutes: int | None
) -> None:
    pod = manifests({**ON_S3, "runtime": runtime})[1]["spec"]["template"]["spec"]
    command = pod["containers"][0].get("livenessProbe", {}).get("exec", {}).get("command")
    assert command == (minutes and [*_OLDER, f"+{minutes}", "-exec", "false", "{}", "+"])


@pytest.mark.parametrize(
    ("values", "size"),
    [({}, "24Gi"), ({"model_variant": "xl-turbo"}, "40Gi"), ({"train": {"adapter": {"rank": 65}}}, "27Gi")],
)
def test_the_disk_that_is_asked_for_is_the_one_that_may_be_used(values: dict[str, Any], size: str) -> None:
    pod = manifests({**ON_S3, **values})[1]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["requests"]["ephemeral-storage"] == size
    assert {"name": "workspace", "emptyDir": {"sizeLimit": size}} in pod["volumes"]


def test_the_usual_jobs_fit_nodes_of_gke_s_default_pools() -> None:
    for model in (*ALIASES, "my-fine-tune"):
        spec, _ = resolve(arguments={**ON_S3, "model_variant": model}, environ={})
        assert workspace_gib(spec) < 44, model


def test_the_rules_are_as_kubernetes_wants_them() -> None:
    """https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/"""
    _, job = manifests()
    rules = job["spec"]["podFailurePolicy"]["rules"]
    assert rules == pod_failure_policy()["rules"] and len(rules) <= 20
    for rule in rules:
        assert rule["action"] in ("Ignore", "FailJob", "Count", "FailIndex")
        assert ("onExitCodes" in rule) != ("onPodConditions" in rule)
        if codes := rule.get("onExitCodes", {}).get("values"):
            assert codes == sorted(set(codes)) and 0 not in codes and len(codes) <= 255
            assert rule["onExitCodes"]["operator"] in ("In", "NotIn")
            assert rule["onExitCodes"]["containerName"] == CONTAINER
        for condition in rule.get("onPodConditions", []):
            assert condition["status"] in ("True", "False", "Unknown")
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    assert [container["name"] for container in pod["containers"]] == [CONTAINER]
    assert job["spec"]["podReplacementPolicy"] == "Failed"


def test_the_pod_is_a_restricted_one() -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    pod = manifests()[1]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] != 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert all(set(volume) - {"name"} <= {"configMap", "emptyDir"} for volume in pod["volumes"])


def test_the_spec_in_it_is_the_spec(tmp_path: Any) -> None:
    config_map, job = manifests({**ON_S3, "train": {"lr": 1e-05}})
    (name, text), *_ = config_map["data"].items()
    (tmp_path / name).write_text(text)
    assert resolve(config=tmp_path / name, environ={})[0].train.lr == 1e-05
    assert json.loads(text)["train"]["lr"] == 1e-05
    pod = job["spec"]["template"]["spec"]
    assert pod["volumes"][0]["configMap"]["name"] == config_map["metadata"]["name"]
    mounted = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {"/etc/sidestep", "/workspace"} and name == "job.yaml"  # its default place


def test_another_spec_or_image_is_another_job() -> None:
    """Both manifests are immutable: an apply of the same names with other content would be refused."""
    names = [
        [one["metadata"]["name"] for one in manifests(values)]
        for values in (ON_S3, {**ON_S3, "train": {"seed": 1}})
    ]
    assert not set(names[0]) & set(names[1])
    assert manifests() == manifests()
    long = manifests({**ON_S3, "name": "A" + "_very.long-Name" * 4})
    assert all(len(one["metadata"]["name"]) <= 63 for one in long)


@pytest.mark.parametrize(("device", "limits"), [("auto", {"nvidia.com/gpu": "1"}), ("cpu", {})])
def test_a_gpu_is_asked_for_where_one_is_used(device: str, limits: dict[str, str]) -> None:
    pod = manifests({**ON_S3, "runtime": {"device": device}})[1]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == limits
