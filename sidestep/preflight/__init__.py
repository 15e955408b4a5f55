"""Checks of a job before it begins: its places, its machine. They take a second and import no torch.

Nothing is changed, but for an empty file that is written where the output goes and deleted again.
"""

from sidestep.config.optimizers import doubtful_rate
from sidestep.lifecycle.job import Job
from sidestep.preflight.checks import Finding, run_checks, skipped
from sidestep.preflight.machine import MACHINE, check_machine
from sidestep.preflight.places import credential_checks, input_checks, output_checks

TRAINING = ("train", "pipeline")


def check_everything(job: Job, *, here: bool, offline: bool = False) -> list[Finding]:
    """Look at credentials, places and, where the job is to run `here`, the machine: all problems at once.

    What is not looked at, as the job runs elsewhere or nothing is to be looked at (`offline`), is in the list
    as skipped.
    """
    spec = job.spec
    doubt = doubtful_rate(spec.train.optimizer_type, spec.train.lr) if spec.task in TRAINING else ""
    about = f"{spec.task}, {spec.model_variant}" + (f". Warning: {doubt}" if doubt else "")
    found = [Finding("spec", f"is complete and valid: {about}")]
    checks = [*credential_checks(spec), *input_checks(job, ahead=True), *output_checks(job, ahead=True)]
    if offline:
        found = [Finding("spec", f"is valid: {about}")]
        return found + skipped((*(check.name for check in checks), *MACHINE), "--offline")
    found += run_checks(checks)
    return found + (check_machine(spec) if here else skipped(MACHINE, "--elsewhere"))
