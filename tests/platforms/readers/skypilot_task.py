"""Run in SkyPilot's own environment: what its parser makes of the task in argv[1], as JSON."""

import json
import sys

import sky

task = sky.Task.from_yaml(sys.argv[1])
resources = [
    {
        "cloud": str(one.cloud),
        "accelerators": one.accelerators,
        "use_spot": one.use_spot,
        "disk_size": one.disk_size,
        "job_recovery": one.job_recovery,
    }
    for one in task.resources
]
said = {"name": task.name, "run": task.run, "file_mounts": task.file_mounts, "resources": resources}
print(json.dumps({**said, "secrets": task.to_yaml_config().get("secrets")}))
