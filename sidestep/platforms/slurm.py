"""Slurm: a batch script that runs the image with Apptainer, and goes back to the queue after code 75.

https://slurm.schedmd.com/sbatch.html, https://slurm.schedmd.com/preempt.html
"""

import re
import shlex

from sidestep.platforms.docker import mounts
from sidestep.platforms.job import WORKSPACE, Job
from sidestep.platforms.platform import Platform, Rendered
from sidestep.platforms.yaml11 import commented
from sidestep.runtime.errors import ExitCode, Rerun
from sidestep.storage.access import Way

HOURS = 24

OF_A_NODE = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LAUNCH_NODE_IPADDR", "CUDA_VISIBLE_DEVICES")
"""What `sidestep launch` reads, and its GPUs: srun sets them for each node's task."""

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Which network the nodes talk over, where somebody has said it."""


def render(job: Job) -> Rendered:
    """The script, and `sbatch`. Credentials are the submitting shell's: sbatch passes its variables on."""
    pull = f"test -e {_sif(job)} || apptainer pull {_sif(job)} {shlex.quote(f'docker://{job.image}')}"
    command = f"{pull} && sbatch {job.file}"
    comment = (
        f"Side-Step: the job {job.spec.name} on Slurm, with Apptainer. Pull the image, before a GPU waits\n"
        f"for it, and submit the job from the same folder:\n  {pull}\n  sbatch {job.file}\n"
        "To end it without another attempt:\n  scancel JOB\n"
    )
    comment += job.many("a task of an array")
    if job.shards:
        comment += (
            "Submitted at once, it begins when the last task has ended well:\n"
            f"  sbatch --dependency=afterok:$(sbatch --parsable {job.file}) NEXT.sbatch\n"
        )
    if needed := [name for name in job.secrets if name not in job.optional_secrets]:
        comment += f"The variables {' and '.join(needed)} must be set where that is typed.\n"
    if more := [*job.optional_secrets, *job.key_files]:
        comment += f"{', '.join(more)}: passed on where set.\n"
    return Rendered(f"#!/bin/bash\n{_options(job)}{commented(comment)}{_script(job)}", command)


def _options(job: Job) -> str:
    """For sbatch. USR1 comes before the time is up, to this script alone (B:), which passes it on as TERM."""
    options = [
        f"--job-name={job.label}",
        f"--output={job.label}-{'%A_%a' if job.jobs else '%j'}.log",
        *([f"--array=0-{job.jobs - 1}"] if job.jobs else []),
        "--open-mode=append",  # the attempts of one job share a log
        *([f"--nodes={job.nodes}", "--ntasks-per-node=1"] if job.nodes > 1 else []),
        f"--cpus-per-task={job.cpus}",
        f"--mem={2 * job.memory_gb}G",
        *([_gpus(job)] if job.wants_gpu else []),
        f"--time={HOURS}:00:00",
        "--requeue",
        f"--signal=B:USR1@{job.stop_seconds}",
    ]
    return "".join(f"#SBATCH {option}\n" for option in options)


def _gpus(job: Job) -> str:
    return f"--gpus-per-node={job.gpus}" if job.is_launched else "--gres=gpu:1"


def _sif(job: Job) -> str:
    """The image's file in the folder that the job is submitted from."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", job.image.rpartition("/")[2]) + ".sif"


def _script(job: Job) -> str:
    folders = mounts(job)
    written = [shlex.quote(folder) for folder, is_written in folders.items() if is_written]
    binds = [f"{folder}:{folder}" + ("" if is_written else ":ro") for folder, is_written in folders.items()]
    start = "await on_each_node" if job.nodes > 1 else "await"
    command = " \\\n    ".join(
        [
            f"    {start} apptainer run --cleanenv --no-eval{' --nv' if job.wants_gpu else ''}",
            f'--home "$workspace:{WORKSPACE}"',
            *(f"--bind {shlex.quote(bind)}" for bind in binds),
            *(f'${{{name}:+--bind "${name}:${name}:ro"}}' for name in job.key_files),
            f'"$sif" {" ".join(job.words)}',
        ]
    )
    variables = "".join(
        f"export APPTAINERENV_{name}={shlex.quote(value)}\n" for name, value in job.environment.items()
    )
    passed_on = "".join(
        f'[[ -z "${{{name}+set}}" ]] || export APPTAINERENV_{name}="${name}"\n'
        for name in (
            "CUDA_VISIBLE_DEVICES",
            *(["SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"] if job.jobs else []),
            *(INTERFACES if job.nodes > 1 else []),
            *job.secrets_of_a_shell,
        )
    )
    # srun ends its tasks with SIGKILL at TERM, and passes USR1 on.
    notice = "USR1" if job.nodes > 1 else "TERM"
    more = _on_each_node(job)
    makes = f"mkdir -p {' '.join(written)}" if written else ""
    return f"""\
set -u

# USR1 is notice, which is passed on once, as {notice}. TERM itself is the end: scancel, the time limit, or a
# preemption after which Slurm requeues by itself. Each process of the job gets its own: it is waited for.
job='' noticed='' cancelled='' signalled=''
trap 'signalled=yes; [[ -n "$noticed" || -z "$job" ]] || kill -{notice} "$job" 2>/dev/null; noticed=yes' USR1
trap 'signalled=yes; cancelled=yes' TERM

: "${{SLURM_JOB_ID:?submit this script with sbatch}}"
id=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}}}
id=${{id:-$SLURM_JOB_ID}}
{_workspace(job)}{makes}
# Runs a command and returns its code. A trapped signal ends `wait`, not the command: it is waited for again.
await() {{
    "$@" &
    job=$!
    [[ -z "$noticed" ]] || kill -{notice} "$job" 2>/dev/null
    signalled=yes
    while [[ -n "$signalled" ]]; do
        signalled=''
        wait "$job"
        code=$?
    done
    return "$code"
}}

{more}# --cleanenv keeps the node's settings (PYTHONPATH, HF_HOME, ...) out. The image gets these variables.
{variables}{passed_on}
code=0
sif=${{SLURM_SUBMIT_DIR:-$PWD}}/{_sif(job)}
if [[ ! -e "$sif" ]]; then
{_without_image(job)}fi
if [[ -n "$noticed$cancelled" ]]; then
    code={ExitCode.AGAIN}
elif [[ "$code" -eq 0 ]]; then
{command}
fi
# Where notice came before the image had a handler for it, nothing was done, and it is begun again.
if [[ -n "$noticed" && ( "$code" -eq 138 || "$code" -eq 143 ) ]]; then
    code={ExitCode.AGAIN}
fi
if [[ "$code" -eq {ExitCode.AGAIN} && -z "$cancelled" ]]; then
    trap '' USR1 TERM  # also for scontrol
    scontrol requeue "$id"
fi
exit "$code"
"""


def _workspace(job: Job) -> str:
    """Makes it, on the node's own disk. On each of several nodes it is `on_each_node` that does so."""
    parent = "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}"
    if job.nodes > 1:
        return f"""\
export workspace={parent}/sidestep-$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}
trap 'srun --ntasks-per-node=1 rm -rf "$workspace"' EXIT
"""
    return f"""\
workspace=$(mktemp -d "{parent}/sidestep-XXXXXX") || exit {ExitCode.MACHINE}
trap 'rm -rf "$workspace" "$workspace.sif"' EXIT
"""


def _without_image(job: Job) -> str:
    """What becomes of a job whose image nobody has pulled. Of several nodes, each would pull it."""
    if job.nodes > 1:
        return f"""\
    echo "$sif is not there: pull the image first, where all nodes see it" >&2
    code={ExitCode.MISSING}
"""
    return f"""\
    echo "$sif is not there: the image is pulled while the node is paid for" >&2
    sif=$workspace.sif
    await apptainer pull "$sif" {shlex.quote(f"docker://{job.image}")} || code={ExitCode.MACHINE}
"""


def _on_each_node(job: Job) -> str:
    """Of several nodes: how the command runs on each, where its variables are that node's own.

    srun ends with the highest code of all, and 75 alone has the job requeued. Once a node has failed, srun
    ends the others.
    """
    if job.nodes == 1:
        return ""
    return f"""\
# A task on each node; the first node is where the others meet it, at a port that other jobs have not.
export APPTAINERENV_MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
on_each_node() {{
    exec srun --kill-on-bad-exit=1 --ntasks-per-node=1 --cpus-per-task={job.cpus} bash -c '
        for name in {" ".join(OF_A_NODE)}; do
            [[ -z "${{!name+set}}" ]] || export "APPTAINERENV_$name=${{!name}}"
        done
        mkdir -m 700 "$workspace" || exit {ExitCode.MACHINE}
        exec "$@"
    ' sidestep "$@"
}}

"""


PLATFORM = Platform(
    name="slurm",
    suffix=".sbatch",
    reclaim="at the time limit, and at a preemption where the cluster has "
    "PreemptParameters=send_user_signal: SIGUSR1 to the script; then, as at `scancel` and at other "
    "preemptions, SIGTERM to every process, later SIGKILL",
    notice="--signal, made from `grace_seconds`; at a preemption the partition's GraceTime; at `scancel` "
    "KillWait (30 s)",
    next_attempt="the script, which requeues the job after code 75 unless SIGTERM came to the script itself; "
    "Slurm (`--requeue`) after a preemption or a failed node; after `scancel` nobody",
    after={
        Rerun.PERMANENT: "ends the job",
        Rerun.COUNTED: "ends the job",
        Rerun.AGAIN: "the script requeues it, without limit",
    },
    brings={
        Way.VARIABLES: "the environment of the shell that submits the job",
        Way.FILE: "the one that the shell's variable names, bound",
        Way.IDENTITY: "the node's",
    },
    render=render,
    starts_many=True,
    local_paths=True,
    many_gpus=True,
    many_nodes=True,
)
