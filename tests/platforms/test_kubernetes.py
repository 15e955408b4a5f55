"""The Kubernetes manifests: the rules of the Job, and what Kubernetes itself would not tell."""

import json
from typing import Any

import pytest
from ruamel.yaml import YAML

from sidestep.config.job import resolve
from sidestep.platforms.kubernetes import CONTAINER, pod_failure_policy
from sidestep.runtime.errors import ExitCode
from tests.platforms.rendering import ON_S3, render


def manifests(values: dict[str, Any] = ON_S3) -> list[dict[str, Any]]:
    return list(YAML(typ="safe", pure=True).load_all(render("kubernetes", values).text))


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
        **dict.fromkeys((69, 72), "Count"),
        75: "Ignore",
    }
    assert outcome(137) == outcome(143) == outcome(1) == "Count"


@pytest.mark.parametrize("code", [*ExitCode, 137])
def test_a_pod_that_had_to_go_never_counts(code: int) -> None:
    assert outcome(code, disrupted=True) == "Ignore"


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
    assert mounted == {"/etc/sidestep", "/workspace", "/dev/shm"} and name == "job.yaml"  # its default place


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
