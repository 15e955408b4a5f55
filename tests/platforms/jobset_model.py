"""JobSet as far as the rules of a training of several nodes reach: its schema, and both controllers' rules.

Kubernetes' pkg/controller/job (`getFailJobMessage`, `matchPodFailurePolicy`): the first pod in the list for
which a rule fails the Job has the Job's message, and no other pod is asked any more. JobSet's
pkg/controllers/failure_policy.go: the first rule whose reasons and patterns match acts; where none does, all
is made anew and counted.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA: dict[str, Any] = json.loads(Path(__file__).with_name("jobset-crd.json").read_text())
POD = "default/sidestep-78-nodes-0-1-x75zz"  # its name may look like a code


@dataclass(frozen=True)
class End:
    """How a node's pod has ended. One that had to go bears the condition DisruptionTarget."""

    code: int
    disrupted: bool = False

    def __str__(self) -> str:
        return f"{self.code}{' disrupted' if self.disrupted else ''}"


def closed(schema: Any) -> Any:
    """The schema as `kubectl apply` holds objects against it: what it does not know is refused."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        found["additionalProperties"] = False
    return found


def job_of(jobset: dict[str, Any]) -> dict[str, Any]:
    """The Job that a JobSet makes, as a manifest of its own."""
    [replicated] = jobset["spec"]["replicatedJobs"]
    name = f"{jobset['metadata']['name']}-{replicated['name']}-0"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": replicated["template"]["spec"],
    }


def message_of(job: dict[str, Any], ends: Sequence[End]) -> tuple[str, str] | None:
    """Reason and message with which the Job fails, where the controller finds these pods, in this order."""
    failed = [end for end in ends if end.code != 0]
    for end in failed:
        for index, rule in enumerate(job["spec"]["podFailurePolicy"]["rules"]):
            at = f"matching {rule['action']} rule at index {index}"
            if "onPodConditions" in rule and end.disrupted:
                return "PodFailurePolicy", f"Pod {POD} has condition DisruptionTarget {at}"
            on = rule.get("onExitCodes")
            if on and (end.code in on["values"]) == (on["operator"] == "In"):
                container = on["containerName"]
                return (
                    "PodFailurePolicy",
                    f"Container {container} for pod {POD} failed with exit code {end.code} {at}",
                )
    if len(failed) > job["spec"]["backoffLimit"]:
        return "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    return None


def action_of(jobset: dict[str, Any], reason: str, message: str) -> str:
    """What the JobSet does about a Job that has failed so."""
    for rule in jobset["spec"]["failurePolicy"]["rules"]:
        reasons, patterns = rule.get("onJobFailureReasons"), rule.get("onJobFailureMessagePatterns")
        if reasons and reason not in reasons:
            continue
        if patterns and not any(re.search(pattern, message) for pattern in patterns):
            continue
        return str(rule["action"])
    return "RestartJobSet"


class Controllers:
    """Both of them, over all restarts of one JobSet."""

    def __init__(self, jobset: dict[str, Any]) -> None:
        self.jobset, self.job = jobset, job_of(jobset)
        self.restarts = self.counted = 0
        self.state = "Running"

    def pods_ended(self, *ends: End) -> str:
        """The state after the pods of one attempt have been found in this order."""
        failure = message_of(self.job, ends)
        if failure is None:
            self.state = "Completed"
            return self.state
        action = action_of(self.jobset, *failure)
        is_counted = action == "RestartJobSet"
        if action == "FailJobSet" or (
            is_counted and self.counted >= self.jobset["spec"]["failurePolicy"]["maxRestarts"]
        ):
            self.state = "Failed"
        else:
            self.restarts, self.counted = self.restarts + 1, self.counted + is_counted
        return self.state
