"""Kubernetes: a ConfigMap with the spec and a Job, as plain manifests; the chart in helm/ makes the same Job.

The Job's rules come from the table of exit codes. https://kubernetes.io/docs/concepts/workloads/controllers/job/
"""

import json
from typing import Any

from sidestep.platforms.job import DISK_GB, WORKSPACE, Job, digest
from sidestep.platforms.platform import Platform, Rendered
from sidestep.platforms.yaml11 import dump
from sidestep.runtime.errors import Rerun, codes

CONTAINER = "sidestep"
SECRET = "sidestep-credentials"  # noqa: S105 - the name of one
BACKOFF_LIMIT = 3  # for what another try, or another node, may mend: also 137 and unknown codes
TTL_SECONDS = 7 * 24 * 3600
HUNG_MINUTES = 30
USER = 10001


def pod_failure_policy() -> dict[str, Any]:
    """What the Job does about a pod that ended; the first rule that matches counts.

    A pod that had to go (preempted, evicted, drained) is replaced and does not count, whatever its code. A
    permanent failure ends the Job. Code 75, a notice that came some other way, does not count either.
    """

    def on_codes(action: str, values: list[int]) -> dict[str, Any]:
        exit_codes = {"containerName": CONTAINER, "operator": "In", "values": values}
        return {"action": action, "onExitCodes": exit_codes}

    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            on_codes("FailJob", codes(Rerun.NEVER)),
            on_codes("Ignore", codes(Rerun.ALWAYS)),
        ]
    }


def manifests(job: Job) -> list[dict[str, Any]]:
    """The ConfigMap and the Job. Both are immutable, so their names carry a digest of what is in them."""
    spec = json.dumps(job.values, indent=2, sort_keys=True)
    config_name = f"sidestep-{job.label}-{digest(spec)}"
    labels = {"app.kubernetes.io/name": "side-step", "app.kubernetes.io/instance": job.label}
    template = {"metadata": {"labels": labels}, "spec": _pod(job, config_name)}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": config_name, "labels": labels},
            "immutable": True,
            "data": {"job.yaml": spec + "\n"},  # JSON is YAML, and has one way to write a number
        },
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": f"sidestep-{job.label}-{digest(template)}", "labels": labels},
            "spec": {
                "backoffLimit": BACKOFF_LIMIT,
                "podReplacementPolicy": "Failed",  # the old pod is gone before the next one starts
                "podFailurePolicy": pod_failure_policy(),
                "ttlSecondsAfterFinished": TTL_SECONDS,
                "template": template,
            },
        },
    ]


def _pod(job: Job, config_name: str) -> dict[str, Any]:
    """The pod, within the restricted Pod Security Standard."""
    disk = f"{DISK_GB}Gi"
    container = {
        "name": CONTAINER,
        "image": job.image,
        "args": ["run"],
        **({"envFrom": [{"secretRef": {"name": SECRET}}]} if job.secrets else {}),
        "resources": {
            "requests": {"cpu": "4", "memory": "16Gi", "ephemeral-storage": disk},
            "limits": {"nvidia.com/gpu": "1"} if job.wants_gpu else {},
        },
        "livenessProbe": {  # the job touches the file whenever something advances
            "exec": {
                "command": [
                    *("find", f"{WORKSPACE}/alive", "-mmin", f"+{HUNG_MINUTES}"),
                    *("-exec", "false", "{}", "+"),
                ]
            },
            "initialDelaySeconds": 600,
            "periodSeconds": 60,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "job", "mountPath": "/etc/sidestep", "readOnly": True},
            {"name": "workspace", "mountPath": WORKSPACE},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - a mount of the pod's own
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
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
        ],
    }


def secret_command(job: Job) -> str:
    """The command that makes the Secret, from the shell's own variables."""
    literals = " ".join(f'--from-literal={name}="${name}"' for name in job.secrets)
    return f"kubectl create secret generic {SECRET} {literals}"


def render(job: Job) -> Rendered:
    """The manifests, and `kubectl apply`."""
    command = f"kubectl apply -f {job.file}"
    comment = f"Side-Step: the job {job.spec.name} on Kubernetes. Submit it:\n  {command}\n"
    if job.secrets:
        comment += f"The credentials, once per namespace:\n  {secret_command(job)}\n"
    return Rendered(dump(*manifests(job), comment=comment), command)


PLATFORM = Platform(
    name="kubernetes",
    suffix=".k8s.yaml",
    reclaim="drains, evicts or preempts the pod: SIGTERM, later SIGKILL",
    notice="terminationGracePeriodSeconds, made from `grace_seconds`; on a spot node at most what its cloud "
    "leaves (GKE 15 s, AKS 30 s, EKS 120 s: set `grace_seconds` below that)",
    next_attempt="the Job's controller, without limit; after codes "
    f"{', '.join(map(str, codes(Rerun.LIMITED)))}, 137 and unknown ones three times",
    render=render,
)
