"""The command `sidestep plan`: what it prints, and how it ends."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from sidestep.planning.checks import check_everything, in_lines
from sidestep.spec.schema import JobSpec
from sidestep.tasks.preflight import Finding


def plan(spec: JobSpec, options: argparse.Namespace, write: Callable[[str], None]) -> None:
    """Check `spec` and print what was found; raises an error of the first trouble's kind, if there is one."""
    found = check_everything(spec, here=not options.elsewhere)
    write(json.dumps({"checks": _as_data(found)}, indent=2) + "\n" if options.json else in_lines(found))
    troubles = [finding for finding in found if finding.error]
    if troubles:
        first = troubles[0].error
        assert first is not None
        names = ", ".join(trouble.name for trouble in troubles)
        raise type(first)(f"{len(troubles)} of {len(found)} checks failed: {names}") from first


def _as_data(found: list[Finding]) -> list[dict[str, Any]]:
    return [
        {"name": finding.name, "ok": finding.error is None, "said": finding.said}
        | ({"exit_code": int(finding.error.exit_code)} if finding.error else {})
        for finding in found
    ]
