"""`sidestep verify-resume`: on this machine, is an interrupted run the uninterrupted one, bit for bit?

A few steps of the user's own job are made three times, each by a process of its own, in folders that are
deleted afterwards: once to the end, once until the machine "vanishes" (SIGKILL, right after a checkpoint),
and once more on from there.
"""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from sidestep.commitlog.log import Record
from sidestep.config.adapter import OWN_ESTIMATE
from sidestep.config.job import JobSpec
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.reporter import Reporter
from sidestep.runtime.errors import ExitCode, MachineError, SideStepError
from sidestep.runtime.folders import provide_folders
from sidestep.runtime.preemption import Preemption
from sidestep.runtime.words import counted
from sidestep.runtime.workspace import open_workspace

log = logging.getLogger(__name__)


def verify_resume(spec: JobSpec, steps: int) -> None:
    """Compare `steps` steps of the job made at one go with the same made in two attempts.

    The tensors must be there: `sidestep preprocess` makes them. Raises MachineError where the two differ,
    and what training raises.
    """
    provide_folders(spec.runtime.workspace)
    with open_workspace(spec.runtime.workspace).temporary() as folder:
        whole, cut = (_trial(spec, steps, Path(folder, name)) for name in ("whole", "cut"))
        log.info("1 of 3: %s in one go", counted(steps, "steps"))
        _train(whole, expected=0)
        log.info("2 of 3: the same, but the machine disappears after step %d", steps // 2)
        _train(cut, expected=-signal.SIGKILL)
        log.info("3 of 3: continuing from there in a new process")
        _train(cut, expected=0)
        digests = _digests(whole)
        differing = sorted(name for name, digest in _digests(cut).items() if digest != digests.get(name))
    if differing:
        raise MachineError(
            f"an interrupted run does not equal an uninterrupted one here: {', '.join(differing)} differ\n"
            "  the state is restored exactly, but this machine does not compute the same numbers twice\n"
            "  make sure that runtime.deterministic is on and that nothing else uses the GPU"
        )
    log.info(
        "On this machine, an interrupted run equals an uninterrupted one, bit for bit: %s are equal",
        ", ".join(digests),
    )


def _trial(spec: JobSpec, steps: int, output: Path) -> JobSpec:
    """The job in small: so many steps, with a checkpoint in the middle, and no waiting for a dead writer."""
    rank_from = spec.train.adapter.rank_from
    return spec.changed(
        {
            "task": "train",
            "dataset_dir": spec.tensors_place,
            "output_dir": str(output),
            "train.max_steps": steps,
            "train.checkpoint.every_epochs": 10**6,
            "train.checkpoint.keep_every_epochs": None,
            "train.checkpoint.every_minutes": None,
            "train.checkpoint.every_steps": steps // 2,
            "train.resume_from": None,
            "train.extend": False,
            **({"train.adapter.rank_from": spec.output_place} if rank_from == OWN_ESTIMATE else {}),
            "runtime.lease_seconds": 1.0,
        }
    )


def _train(spec: JobSpec, expected: int) -> None:
    """Train in a process of its own. It is expected to end with 0, or to be killed after a checkpoint."""
    file = Path(f"{spec.output_dir}.json")
    file.write_text(spec.model_dump_json())
    vanish = ["vanish"] if expected else []
    command, pipe = [sys.executable, "-m", __name__, str(file), *vanish], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stderr=pipe, text=True) as trial:
        assert trial.stderr
        words = trial.stderr.read().strip() or "a trial ended without a word"
    if trial.returncode != expected:
        kinds = {kind.exit_code: kind for kind in SideStepError.__subclasses__()}
        raise kinds.get(trial.returncode, SideStepError)(words)  # type: ignore[arg-type]


def _digests(spec: JobSpec) -> dict[str, str]:
    """sha256 of the adapter's files, and of the state with the losses of all steps, by name."""
    output = Path(str(spec.output_dir))
    files = [
        *(output / "adapter").iterdir(),
        *(output / "checkpoints").glob("*/training_state.safetensors"),
    ]
    newest = {file.name: file for file in sorted(files, key=lambda file: file.stat().st_mtime)}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in sorted(newest.items())}


class _Vanishing(Reporter):
    """Of an attempt whose machine is gone after its first checkpoint: no handler and no clean-up runs."""

    def committed(self, record: Record) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def _end_with_parent() -> None:
    """Wait for the end of standard input, which only the parent holds open, however it ends."""
    os.read(0, 1)
    os._exit(ExitCode.AGAIN)


def _main(file: str, *vanish: str) -> None:
    """What a trial's process does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from sidestep.runtime.logs import setup_logging
    from sidestep.tasks.train import train

    setup_logging()
    try:
        with Preemption(is_command=True) as preemption:
            job = Job(JobSpec.load(file), preemption)
            with (_Vanishing if vanish else Reporter)(job) as reporter:
                train(job, reporter)
    except SideStepError as error:
        log.error("%s", error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    _main(*sys.argv[1:])
