"""The command `sidestep plan`: what it prints, and how it ends."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from sidestep.config.job import JobSpec
from sidestep.preflight import check_everything
from sidestep.preflight.checks import Finding, in_lines

Write = Callable[[str], None]


def plan(spec: JobSpec, options: argparse.Namespace, write: Write) -> None:
    """Check `spec` and, unless that is all that is asked for, plan it; print what was found.

    Raises an error of the first trouble's kind where a check fails: there is no plan then.
    """
    found = [] if options.offline else check_everything(spec, here=not options.elsewhere)
    data: dict[str, Any] = {"checks": _as_data(found)}
    troubles = [finding for finding in found if finding.error]
    if found and not options.json:
        write(in_lines(found) + ("" if troubles or options.check_only else "\n"))
    if not troubles and not options.check_only:
        data["plan"] = _whole_plan(spec, options, write)
    if options.json:
        write(json.dumps(data, indent=2) + "\n")
    if troubles:
        first = troubles[0].error
        assert first is not None
        names = ", ".join(trouble.name for trouble in troubles)
        raise type(first)(f"{len(troubles)} of {len(found)} checks failed: {names}") from first


def _whole_plan(spec: JobSpec, options: argparse.Namespace, write: Write) -> dict[str, Any]:
    # Imported here: it loads torch, which checks can do without.
    from sidestep.acestep.releases import config_of
    from sidestep.planning.plan import make_plan
    from sidestep.planning.report import as_data, as_text
    from sidestep.planning.songs import assumed_songs, find_songs

    if not options.json:
        write("Tracing one step of training, without a GPU: this takes some seconds\n\n")
    made = make_plan(
        spec,
        config_of(spec, offline=options.offline),
        assumed_songs(options.songs, options.song_seconds) if options.offline else find_songs(spec),
        limit=options.fit,
        hours_between_preemptions=options.hours_between_preemptions,
    )
    if not options.json:
        write(as_text(made))
    return as_data(made)


def _as_data(found: list[Finding]) -> list[dict[str, Any]]:
    return [
        {"name": finding.name, "ok": finding.error is None, "said": finding.said}
        | ({"exit_code": int(finding.error.exit_code)} if finding.error else {})
        for finding in found
    ]
