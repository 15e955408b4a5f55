"""Slurm: a batch script that runs the image with Apptainer, and goes back to the queue after code 75.

https://slurm.schedmd.com/sbatch.html, https://slurm.schedmd.com/preempt.html
"""

import shlex

from sidestep.platforms.docker import mounts
from sidestep.platforms.job import WORKSPACE, Job
from sidestep.platforms.platform import Platform, Rendered
from sidestep.platforms.yaml11 import commented
from sidestep.runtime.errors import ExitCode

HOURS = 24


def render(job: Job) -> Rendered:
    """The script, and `sbatch`. Credentials are the submitting shell's: sbatch passes its variables on."""
    command = f"sbatch {job.file}"
    comment = f"Side-Step: the job {job.spec.name} on Slurm, with Apptainer. Submit it:\n  {command}\n"
    if job.secrets:
        comment += f"The variables {' and '.join(job.secrets)} must be set where that is typed.\n"
    return Rendered(f"#!/bin/bash\n{_options(job)}{commented(comment)}{_script(job)}", command)


def _options(job: Job) -> str:
    """For sbatch. TERM comes before the time is up, to this script alone (B:), which passes it on."""
    options = [
        f"--job-name={job.label}",
        f"--output={job.label}-%j.log",
        "--open-mode=append",  # the attempts of one job share a log
        "--cpus-per-task=4",
        "--mem=32G",
        *(["--gres=gpu:1"] if job.wants_gpu else []),
        f"--time={HOURS}:00:00",
        "--requeue",
        f"--signal=B:TERM@{job.stop_seconds}",
    ]
    return "".join(f"#SBATCH {option}\n" for option in options)


def _script(job: Job) -> str:
    folders = mounts(job)
    written = [shlex.quote(folder) for folder, is_written in folders.items() if is_written]
    binds = [f"{folder}:{folder}" + ("" if is_written else ":ro") for folder, is_written in folders.items()]
    command = " \\\n    ".join(
        [
            f"apptainer run --cleanenv --no-eval{' --nv' if job.wants_gpu else ''}",
            f'--home "$workspace:{WORKSPACE}"',
            *(f"--bind {shlex.quote(bind)}" for bind in binds),
            f"{shlex.quote(f'docker://{job.image}')} run &",
        ]
    )
    variables = "".join(
        f"export APPTAINERENV_{name}={shlex.quote(value)}\n" for name, value in job.environment.items()
    )
    passed_on = "".join(
        f'[[ -z "${{{name}+set}}" ]] || export APPTAINERENV_{name}="${name}"\n'
        for name in ("CUDA_VISIBLE_DEVICES", *job.secrets_of_a_shell)
    )
    makes = f"mkdir -p {' '.join(written)}" if written else ""
    return f"""\
set -u
workspace=$(mktemp -d "${{SLURM_TMPDIR:-${{TMPDIR:-/tmp}}}}/sidestep-XXXXXX") || exit {ExitCode.MACHINE}
trap 'rm -rf "$workspace"' EXIT
{makes}
# --cleanenv keeps the node's settings (PYTHONPATH, HF_HOME, ...) out. The image gets these variables.
{variables}{passed_on}
{command}
job=$!
trap 'signalled=yes; kill -TERM "$job"' TERM

# A signal that is trapped ends `wait`, not the job: then it is waited for again.
signalled=yes
while [[ -n "$signalled" ]]; do
    signalled=
    wait "$job"
    code=$?
done
if [[ "$code" -eq {ExitCode.AGAIN} ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


PLATFORM = Platform(
    name="slurm",
    suffix=".sbatch",
    reclaim="at the time limit, and at a preemption where the cluster has "
    "PreemptParameters=send_user_signal: SIGTERM, later SIGKILL",
    notice="--signal, made from `grace_seconds`; at a preemption the partition's GraceTime",
    next_attempt="the script, which requeues the job after code 75; Slurm (`--requeue`) after a preemption "
    "or a failed node",
    render=render,
    local_paths=True,
)
