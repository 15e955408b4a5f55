"""Checks of a job before it begins: its places, its machine. They take a second and import no torch.

Nothing is changed, but for an empty file that is written where the output goes and deleted again.
"""

from sidestep.config.job import JobSpec
from sidestep.lifecycle.job import Job
from sidestep.preflight.checks import Finding, run_checks
from sidestep.preflight.machine import check_machine
from sidestep.preflight.places import credential_checks, input_checks, output_checks


def check_everything(spec: JobSpec, *, here: bool) -> list[Finding]:
    """Look at credentials, places and, where the job is to run `here`, the machine: all problems at once."""
    found, job = [Finding("spec", f"is complete and valid: {spec.task}, {spec.model_variant}")], Job(spec)
    found += run_checks([*credential_checks(spec), *input_checks(job), *output_checks(job)])
    return found + (check_machine(spec) if here else [])
