"""JobSet: a training of several nodes on Kubernetes. What is wrong with one pod is decided for all of them.

Two controllers decide one after the other. The Job's ends at its first pod that does not end with 0, and its
message has that pod's code. The JobSet's rules read the message: they make all pods anew, or give up.
https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2/
"""

from typing import Any

from sidestep.platforms.job import SHARED_MEMORY_GB
from sidestep.runtime.errors import Rerun, codes

API = "jobset.x-k8s.io/v1alpha2"
OLDEST = "0.10"  # knows onJobFailureMessagePatterns; without them the first rule would match every code
CONTAINER = "sidestep"
NODES = "nodes"  # the replicated job: pods are called JOBSET-nodes-0-0-xxxxx
LONGEST_LABEL = 24  # so that such a name has 63 characters at most

_NAME = "jobset.sigs.k8s.io/jobset-name"  # a label that JobSet gives every pod

WHERE_NODE_0_IS: list[dict[str, Any]] = [
    {"name": "JOBSET_NAME", "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{_NAME}']"}}},
    {"name": "MASTER_ADDR", "value": f"$(JOBSET_NAME)-{NODES}-0-0.$(JOBSET_NAME)"},
]
"""For `sidestep launch`. Which node a pod is, JOB_COMPLETION_INDEX says, which Kubernetes sets."""


def node_failure_policy() -> dict[str, Any]:
    """podFailurePolicy of the Job: the first pod that does not end with 0 ends it, and its message says how.

    A pod that had to go is told by that, whatever its code.
    """
    exit_codes = {"containerName": CONTAINER, "operator": "NotIn", "values": [0]}
    return {
        "rules": [
            {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": exit_codes},
        ]
    }


def failure_rules() -> list[dict[str, Any]]:
    """failurePolicy.rules of the JobSet; what none of them matches has it made anew, `maxRestarts` times.

    One message has one pod's code. 74, that of a node which only lost another one, is counted: where it hides
    a permanent code, or where nodes cannot meet, that bounds it.
    """

    def by_message(name: str, action: str, *patterns: str) -> dict[str, Any]:
        return {
            "name": name,
            "action": action,
            "onJobFailureReasons": ["PodFailurePolicy"],
            "onJobFailureMessagePatterns": list(patterns),
        }

    def exited(rerun: Rerun) -> str:
        return f"failed with exit code ({'|'.join(map(str, codes(rerun)))}) matching"

    return [
        by_message("permanent", "FailJobSet", exited(Rerun.PERMANENT)),
        by_message(
            "again",
            "RestartJobSetAndIgnoreMaxRestarts",
            exited(Rerun.AGAIN),
            "has condition DisruptionTarget matching",
        ),
        {"name": "deadline", "action": "FailJobSet", "onJobFailureReasons": ["DeadlineExceeded"]},
    ]


def chart_policies() -> dict[str, Any]:
    """The same for the chart."""
    return {
        "podFailurePolicy": node_failure_policy(),
        "rules": failure_rules(),
        "env": WHERE_NODE_0_IS,
        "sharedMemory": f"{SHARED_MEMORY_GB}Gi",
    }


def manifest(
    name: str, labels: dict[str, str], nodes: int, template: dict[str, Any], max_restarts: int, ttl: int
) -> dict[str, Any]:
    """The JobSet of as many pods of `template`. It cannot be changed once it is there, but for `ttl`."""
    return {
        "apiVersion": API,
        "kind": "JobSet",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            # Nodes meet before any of them is ready.
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {
                "maxRestarts": max_restarts,
                "restartStrategy": "BlockingRecreate",  # all old pods are gone before the next ones start
                "rules": failure_rules(),
            },
            "ttlSecondsAfterFinished": ttl,
            "replicatedJobs": [
                {
                    "name": NODES,
                    "replicas": 1,
                    "template": {
                        "spec": {
                            "completionMode": "Indexed",
                            "completions": nodes,
                            "parallelism": nodes,
                            "backoffLimit": 0,
                            "podReplacementPolicy": "Failed",
                            "podFailurePolicy": node_failure_policy(),
                            "template": template,
                        }
                    },
                }
            ],
        },
    }
