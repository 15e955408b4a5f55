"""`sidestep plan --check-only`: everything that can be known to be wrong, each in a line, in a second.

No torch is imported and nothing is changed, but for an empty file that is written where the output goes
and deleted again.
"""

import shutil
from collections.abc import Iterator
from functools import partial
from textwrap import wrap

from rich.filesize import decimal

from sidestep.config.job import JobSpec
from sidestep.preflight.machine import find_gpus, look_for_device, look_for_driver, look_for_packages
from sidestep.preflight.places import Check, Finding, findings, input_checks, output_checks
from sidestep.runtime.errors import AccessError, MachineError
from sidestep.runtime.workspace import open_workspace

WIDTH = 80

_CREDENTIALS_FROM = {  # botocore's names for where it finds them
    "env": "environment variables",
    "shared-credentials-file": "the AWS credentials file",
    "config-file": "the AWS config file",
    "assume-role-with-web-identity": "the pod's or runner's web identity",
    "container-role": "the container's role",
    "iam-role": "the machine's role",
}


def check_everything(spec: JobSpec, *, here: bool) -> list[Finding]:
    """Look at credentials, places and, where the job is to run `here`, the machine: all problems at once."""
    found = [Finding("spec", f"is complete and valid: {spec.task}, {spec.model_variant}")]
    found += findings([*_credentials(spec), *input_checks(spec), *output_checks(spec)])
    return found + (_machine(spec) if here else [])


def in_lines(found: list[Finding]) -> str:
    """A line for each finding, and more where a problem has more to say."""
    name_width = max(len(finding.name) for finding in found)
    lines = []
    for finding in found:
        head = f"{'ok' if finding.error is None else 'FAIL':4}  {finding.name:{name_width}}  "
        for line in finding.said.splitlines():
            lines += wrap(
                line.strip(),
                width=WIDTH,
                initial_indent=head,
                subsequent_indent=" " * len(head),
                break_long_words=False,
                break_on_hyphens=False,
            )
            head = " " * len(head)
    return "\n".join(lines) + "\n"


def _credentials(spec: JobSpec) -> Iterator[Check]:
    places = (spec.checkpoint_dir, spec.audio_dir, spec.dataset_json, spec.dataset_dir, spec.output_dir)
    if any(place and place.lower().startswith("s3://") for place in places):
        yield Check("credentials", partial(_look_for_credentials, spec))


def _look_for_credentials(spec: JobSpec) -> str:
    if spec.storage.anonymous:
        return "none are sent: storage.anonymous is set"
    # botocore takes a fifth of a second to import: only for those whose places are in S3.
    from botocore.exceptions import BotoCoreError, NoCredentialsError
    from botocore.session import Session

    try:
        credentials = Session().get_credentials()
        if credentials is None:
            raise NoCredentialsError()
    except BotoCoreError as error:
        raise AccessError(
            f"none that can be used for S3: {error}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE with ~/.aws, or run where a role gives them; for a bucket that anyone may read, set "
            "storage.anonymous."
        ) from error
    return f"for S3, from {_CREDENTIALS_FROM.get(credentials.method, credentials.method)}"


def _machine(spec: JobSpec) -> list[Finding]:
    checks = [Check("workspace", partial(_look_at_workspace, spec))]
    try:
        gpus = find_gpus()
    except MachineError as error:
        return [*findings(checks), Finding("device", str(error), error)]
    checks.append(Check("device", partial(look_for_device, spec, gpus)))
    if gpus and spec.runtime.device != "cpu":
        checks.append(Check("driver", look_for_driver))
    checks.append(Check("packages", partial(look_for_packages, spec)))
    return findings(checks)


def _look_at_workspace(spec: JobSpec) -> str:
    root = open_workspace(spec.runtime.workspace).root
    return f"{root}, with {decimal(shutil.disk_usage(root).free)} free"
