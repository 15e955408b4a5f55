"""Kubernetes: a ConfigMap with the spec and a Job, as plain manifests; the chart in helm/ makes the same Job.

The Job's rules come from the table of exit codes. https://kubernetes.io/docs/concepts/workloads/controllers/job/
"""

import json
import math
from typing import Any

from sidestep.config.job import JobSpec
from sidestep.platforms import jobset
from sidestep.platforms.job import SHARED_MEMORY_GB, WORKSPACE, Job, digest
from sidestep.platforms.platform import Platform, Rendered
from sidestep.platforms.yaml11 import dump
from sidestep.runtime.errors import ExitCode, Rerun, codes
from sidestep.storage.access import Way

CONTAINER = jobset.CONTAINER
SECRET = "sidestep-credentials"  # noqa: S105 - the name of one
BACKOFF_LIMIT = 3  # for what another try, or another node, may mend: also 137 and unknown codes
TTL_SECONDS = 7 * 24 * 3600
PROBE_MARGIN = 15  # minutes that the job has to end by itself, when it finds that it hangs
USER = 10001


def pod_failure_policy() -> dict[str, Any]:
    """What the Job does about a pod that ended; the first rule that matches counts.

    A pod that had to go (preempted, evicted, drained) is replaced and does not count, whatever its code. A
    permanent failure ends the Job. Code 75, a notice that came some other way, does not count either. What no
    rule matches counts towards the Job's backoffLimit. A pod that goes because its Job is suspended, as Kueue
    preempts, has no such condition and needs no rule: the controller gives up tracking it first.
    """

    def on_codes(action: str, values: list[int]) -> dict[str, Any]:
        exit_codes = {"containerName": CONTAINER, "operator": "In", "values": values}
        return {"action": action, "onExitCodes": exit_codes}

    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            on_codes("FailJob", codes(Rerun.PERMANENT)),
            on_codes("Ignore", codes(Rerun.AGAIN)),
        ]
    }


def indexed_failure_policy() -> dict[str, Any]:
    """The same for a Job with an index for each run of a sweep, or for each shard: what is wrong with one
    ends that alone.

    What is wrong with the command, the credentials or the spec is wrong for all of them, and fails the Job.
    """
    policy = pod_failure_policy()
    for_all = [int(code) for code in (ExitCode.USAGE, ExitCode.ACCESS, ExitCode.BAD_SPEC)]
    for number, rule in enumerate(policy["rules"]):
        if rule["action"] == "FailJob":
            exit_codes = rule["onExitCodes"]
            of_one = [code for code in exit_codes["values"] if code not in for_all]
            policy["rules"][number : number + 1] = [
                {"action": "FailJob", "onExitCodes": {**exit_codes, "values": for_all}},
                {"action": "FailIndex", "onExitCodes": {**exit_codes, "values": of_one}},
            ]
            return policy
    raise AssertionError("no rule fails a Job")


def _pods(job: Job) -> dict[str, Any]:
    """How many pods the Job has, and how often each is tried."""
    if not job.jobs:
        return {"backoffLimit": BACKOFF_LIMIT}
    return {
        "completionMode": "Indexed",
        "completions": job.jobs,
        "parallelism": job.jobs,
        "backoffLimitPerIndex": BACKOFF_LIMIT,
    }


def manifests(job: Job) -> list[dict[str, Any]]:
    """The ConfigMap, and the Job or, of several nodes, the JobSet.

    Both are immutable, so their names carry a digest of what is in them.
    """
    spec = json.dumps(job.values, indent=2, sort_keys=True)
    config_name = f"sidestep-{job.label}-{digest(spec)}"
    labels = {"app.kubernetes.io/name": "side-step", "app.kubernetes.io/instance": job.label}
    template = {"metadata": {"labels": labels}, "spec": _pod(job, config_name)}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": config_name, "labels": labels},
        "immutable": True,
        "data": {"job.yaml": spec + "\n"},  # JSON is YAML, and has one way to write a number
    }
    if job.nodes > 1:
        name = f"sidestep-{job.label[: jobset.LONGEST_LABEL].strip('-')}-{digest(template)}"
        return [config, jobset.manifest(name, labels, job.nodes, template, BACKOFF_LIMIT, TTL_SECONDS)]
    return [
        config,
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": f"sidestep-{job.label}-{digest(template)}", "labels": labels},
            "spec": {
                **_pods(job),
                "podReplacementPolicy": "Failed",  # the old pod is gone before the next one starts
                "podFailurePolicy": indexed_failure_policy() if job.jobs else pod_failure_policy(),
                "ttlSecondsAfterFinished": TTL_SECONDS,
                "template": template,
            },
        },
    ]


def _pod(job: Job, config_name: str) -> dict[str, Any]:
    """The pod, within the restricted Pod Security Standard."""
    disk = f"{job.workspace_gib}Gi"
    shared_memory = {"medium": "Memory", "sizeLimit": f"{SHARED_MEMORY_GB}Gi"}
    # Without the Secret a pod would wait on its node for ever; so the job starts, ends with 77, and fails.
    secret = {"secretRef": {"name": SECRET, "optional": True}}
    container = {
        "name": CONTAINER,
        "image": job.image,
        "args": job.words,
        # The last lines of the log say why it ended, or what it did when it was killed: they are what
        # `kubectl describe` shows.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **({"env": jobset.WHERE_NODE_0_IS} if job.nodes > 1 else {}),
        **({"envFrom": [secret]} if job.secrets else {}),
        "resources": {
            "requests": {
                "cpu": str(job.cpus),
                "memory": f"{job.memory_gb}Gi",
                "ephemeral-storage": disk,
            },
            "limits": {"nvidia.com/gpu": str(job.gpus)} if job.wants_gpu else {},
        },
        **({"livenessProbe": _probe(hung)} if (hung := hung_minutes(job.spec)) else {}),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "job", "mountPath": "/etc/sidestep", "readOnly": True},
            {"name": "workspace", "mountPath": WORKSPACE},
            *([{"name": "shared-memory", "mountPath": "/dev/shm"}] if job.gpus > 1 else []),  # noqa: S108
        ],
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.stop_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": 0,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "job", "configMap": {"name": config_name}},
            {"name": "workspace", "emptyDir": {"sizeLimit": disk}},
            *([{"name": "shared-memory", "emptyDir": shared_memory}] if job.gpus > 1 else []),
        ],
    }


def hung_minutes(spec: JobSpec) -> int | None:
    """Minutes without a sign of life after which the pod is to be ended from outside; None: never.

    The job ends itself with 76 before that, and waits for a lease no longer, so whatever is still there hangs
    so badly that it could not.
    """
    runtime = spec.runtime
    if runtime.stall_minutes is None or runtime.first_step_minutes is None:
        return None
    longest = max(runtime.stall_minutes, runtime.first_step_minutes, runtime.lease_seconds / 60)
    return math.ceil(longest) + PROBE_MARGIN


def _probe(minutes: int) -> dict[str, Any]:
    """Fails where the file that the job touches, whenever something advances, is older than that."""
    is_old = ["find", f"{WORKSPACE}/alive", "-mmin", f"+{minutes}"]
    return {
        "exec": {"command": [*is_old, "-exec", "false", "{}", "+"]},
        "initialDelaySeconds": 600,
        "periodSeconds": 60,
        "timeoutSeconds": 5,
        "failureThreshold": 3,
    }


def secret_command(job: Job) -> str:
    """The command that makes the Secret, from the shell's own variables."""
    literals = " ".join(f'--from-literal={name}="${name}"' for name in job.secrets)
    return f"kubectl create secret generic {SECRET} {literals}"


def render(job: Job) -> Rendered:
    """The manifests, and `kubectl apply`."""
    command = f"kubectl apply -f {job.file}"
    comment = f"Side-Step: the job {job.spec.name} on Kubernetes. Submit it:\n  {command}\n"
    made = manifests(job)
    comment += job.many("a pod")
    if job.shards:
        name = made[1]["metadata"]["name"]
        comment += (
            f"  kubectl wait --for=condition=complete --timeout=-1s job/{name} && kubectl apply -f NEXT\n"
        )
    if job.nodes > 1:
        comment += f"The cluster must have JobSet {jobset.OLDEST} or newer: https://jobset.sigs.k8s.io\n"
    if job.secrets:
        comment += f"The credentials, once per namespace:\n  {secret_command(job)}\n"
    if job.clouds:
        comment += (
            f"{' and '.join(job.clouds)}: the pod has the access of its service account (the namespace's\n"
            "default, or serviceAccountName) by workload identity, or of its node. No other cluster has it.\n"
        )
    return Rendered(dump(*made, comment=comment), command)


PLATFORM = Platform(
    name="kubernetes",
    suffix=".k8s.yaml",
    reclaim="drains, evicts or preempts the pod: SIGTERM, later SIGKILL",
    notice="terminationGracePeriodSeconds, made from `grace_seconds`; on a spot node at most what its cloud "
    "leaves (GKE 15 s, AKS 30 s, EKS 120 s: set `grace_seconds` below that)",
    next_attempt="the Job's controller, as the class of the code says",
    after={
        Rerun.PERMANENT: "fails the Job",
        Rerun.COUNTED: f"starts another pod, {BACKOFF_LIMIT} times at most",
        Rerun.AGAIN: "starts another pod, without limit",
    },
    brings={
        Way.VARIABLES: f"the Secret `{SECRET}`",
        Way.IDENTITY: "the pod's service account's, or its node's",
    },
    render=render,
    many_gpus=True,
    many_nodes=True,
    starts_many=True,
    grants=frozenset({"disk"}),
)
