"""Run in dstack's own environment: what its server makes of a run of the configuration in argv[1] whose
command ended with each of the codes in argv[2:], as JSON: retry, failed or done.

The server's packages are not there, so the functions that decide are taken out of its module.
"""

import ast
import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import dstack._internal
import yaml
from dstack._internal.core.models.configurations import parse_run_configuration
from dstack._internal.core.models.profiles import RetryEvent
from dstack._internal.core.models.runs import JobStatus, JobTerminationReason
from dstack._internal.core.services.profiles import get_retry

MODULE = "server/background/pipeline_tasks/runs/active.py"
DECIDE = ("_job_is_done_or_finishing_done", "_should_retry_job", "_is_retry_duration_exceeded")
NOW = datetime.now(UTC)

retry = get_retry(parse_run_configuration(yaml.safe_load(Path(sys.argv[1]).read_text())))


async def last_provisioned(**_: object) -> SimpleNamespace:
    """The last attempt ended a minute ago, however long ago the run was submitted."""
    return SimpleNamespace(last_processed_at=NOW - timedelta(minutes=1))


names: dict[str, Any] = {
    "JobStatus": JobStatus,
    "JobTerminationReason": JobTerminationReason,
    "RetryEvent": RetryEvent,
    "JobModel": object,
    "RunModel": object,
    "Optional": Optional,
    "timedelta": timedelta,
    "get_current_datetime": lambda: NOW,
    "get_job_spec": lambda job: SimpleNamespace(retry=retry),
    "_load_last_provisioned_job": last_provisioned,
}
source = ast.parse((Path(dstack._internal.__path__[0]) / MODULE).read_text())
source.body = [part for part in source.body if getattr(part, "name", "") in DECIDE]
assert len(source.body) == len(DECIDE)
exec(compile(source, MODULE, "exec"), names)


def outcome(code: int) -> str:
    """The runner reports 0 as done and all others as an error of the container."""
    reason = JobTerminationReason.CONTAINER_EXITED_WITH_ERROR if code else JobTerminationReason.DONE_BY_RUNNER
    job = SimpleNamespace(status=reason.to_status(), termination_reason=reason)
    job.run_id = job.replica_num = job.job_num = 0
    if names["_job_is_done_or_finishing_done"](job):
        return "done"
    run = SimpleNamespace(submitted_at=NOW - timedelta(days=30), next_triggered_at=None)
    passed = asyncio.run(names["_should_retry_job"](run, job))
    return "failed" if passed is None or names["_is_retry_duration_exceeded"](job, passed) else "retry"


print(json.dumps({code: outcome(int(code)) for code in sys.argv[2:]}))
