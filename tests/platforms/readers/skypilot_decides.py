"""Run in SkyPilot's own environment: does its controller start the task in argv[1] again, after each of the
exit codes in argv[2:], as JSON. Each code is asked for often: some are bounded by a count."""

import asyncio
import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import sky
import yaml
from sky.backends import CloudVmRayBackend
from sky.jobs.recovery_strategy import StrategyExecutor
from sky.utils.dag_utils import fill_default_config_in_dag_for_job_launch

TIMES = 50


def restarts(code: int) -> int:
    """How often in a row a fresh executor of the task says yes."""
    config = yaml.safe_load(Path(sys.argv[1]).read_text())
    config["file_mounts"] = {}
    task = sky.Task.from_yaml_config(config, secrets_overrides=[(name, "x") for name in config["secrets"]])
    with sky.Dag() as dag:
        dag.add(task)
    fill_default_config_in_dag_for_job_launch(dag)  # as `sky jobs launch` does
    starting: tuple[set[str], asyncio.Lock, asyncio.Condition] = (set(), asyncio.Lock(), asyncio.Condition())
    backend = MagicMock(spec=CloudVmRayBackend)
    executor = StrategyExecutor.make("cluster", backend, task, 1, 0, None, *starting)
    answers = [executor.should_restart_on_failure(exit_codes=[code]) for _ in range(TIMES)]
    return answers.index(False) if False in answers else TIMES


print(json.dumps({code: restarts(int(code)) for code in sys.argv[2:]}))
