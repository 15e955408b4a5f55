"""`sidestep plan`: check a job, and say what memory, time and money it takes, before a GPU is rented."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidestep.commands.command import Call
from sidestep.commands.job import add_job_flags, read_job
from sidestep.commands.parser import Parser, whole
from sidestep.config.shards import is_sharded
from sidestep.config.sweep import members_of, shared_of
from sidestep.runtime.console import write, write_json
from sidestep.runtime.errors import SideStepError
from sidestep.runtime.folders import provide_folders
from sidestep.runtime.lean import import_diffusers
from sidestep.runtime.words import out_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidestep.config.job import JobSpec
    from sidestep.lifecycle.job import Job
    from sidestep.planning.plan import Plan

SPLITS = ("train.validation.", "train.repeats", "train.weights")
"""Settings that decide which songs are trained on, and how often."""


def add_arguments(parser: Parser) -> None:
    group = parser.add_argument_group("plan")
    group.add_argument("--check-only", action="store_true", help="run the checks and stop there")
    group.add_argument(
        "--elsewhere",
        action="store_true",
        help="the job will run on another machine: skip this one's GPU, driver and disk",
    )
    group.add_argument(
        "--offline",
        action="store_true",
        help="look at no files: use built-in configurations of the released models and assumed songs",
    )
    group.add_argument(
        "--songs",
        type=whole(1, 999_999),
        default=20,
        metavar="N",
        help="with --offline: how many songs (default: 20)",
    )
    group.add_argument(
        "--song-seconds",
        type=_positive,
        default=180.0,
        metavar="X",
        help="with --offline: length of each song in seconds (default: 180)",
    )
    group.add_argument(
        "--fit",
        type=size_in_bytes,
        metavar="SIZE",
        help="name the cheapest changes that make the job fit a GPU: 12GB, 11.5GiB",
    )
    group.add_argument(
        "--hours-between-preemptions",
        type=_positive,
        metavar="X",
        help="how long you keep a machine on average before it is taken away",
    )
    group.add_argument(
        "--prices",
        type=Path,
        metavar="FILE",
        help="prices per hour by card, a YAML or JSON file with currency, date and per_hour",
    )
    group.add_argument("--json", action="store_true", help="print JSON, for scripts")
    add_job_flags(parser, "[JOB.YAML] [flags]")


def run(call: Call) -> None:
    """Check the job and, unless that is all that is asked for, plan it; print what was found.

    Raises an error of the first trouble's kind where a check fails: there is no plan then.
    """
    options, spec, _ = read_job(call, needs_places="--offline" not in call.words)

    from sidestep.lifecycle.job import Job
    from sidestep.preflight import check_everything
    from sidestep.preflight.checks import in_lines, summary, summary_in_words

    job = Job(spec)
    found = check_everything(job, here=not options.elsewhere, offline=options.offline)
    troubles = {finding.name: finding.error for finding in found if finding.error}
    checks = [
        {"name": finding.name, "ok": finding.state == "ok", "state": finding.state, "said": finding.said}
        | ({"exit_code": int(finding.error.exit_code)} if finding.error else {})
        for finding in found
    ]
    data: dict[str, Any] = {"task": spec.task, "checks": checks, "summary": summary(found)}
    if not options.json:
        write(f"{in_lines(found)}\n{summary_in_words(found)}\n")
    if not troubles and not options.check_only:
        try:
            data["plan"] = _whole_plan(job, options)
        except SideStepError as error:
            data["error"] = {"exit_code": int(error.exit_code), "said": str(error)}
            if options.json:
                write_json(data)
            raise
    if options.json:
        write_json(data)
    if troubles:
        first = next(iter(troubles.values()))
        names = ", ".join(troubles)
        raise type(first)(f"{out_of(len(troubles), len(found), 'checks')} failed: {names}") from first


def _whole_plan(job: "Job", options: argparse.Namespace) -> dict[str, Any]:
    """Make the plan, print it as text unless JSON is wanted, and return it as data.

    Of a sweep it is that of the run that takes the most memory, with all runs and their sums under `sweep`.
    """
    # Imported here: it loads torch, which checks can do without.
    provide_folders(job.spec.runtime.workspace)
    import_diffusers()
    from sidestep.planning.report import as_data, as_text

    if not options.json:
        time = "some seconds" if options.fit is None else "up to some minutes"
        write(f"\nTracing what the GPU does, without one: this takes {time}\n\n")
    plan_of = _planner(job, options)
    if not job.spec.is_sweep:
        made = plan_of(job.spec)
        if not options.json:
            write(as_text(made))
        if not is_sharded(job.spec) or options.offline:
            return as_data(made)
        from sidestep.planning.shards import plan_shards, shards_as_data, shards_as_text

        shards = plan_shards(job.read_songs(), job.spec.preprocess.shards)
        if not options.json:
            write(f"\n{shards_as_text(shards)}")
        return {**as_data(made), "shards": shards_as_data(shards)}
    from sidestep.planning.sweep import SweepPlan, head_as_text, sweep_as_data, sweep_as_text

    members = members_of(job.spec)
    tasks = ("preprocess", "estimate") if job.spec.task == "pipeline" else ()
    sweep = SweepPlan(
        runs={member.name: plan_of(member.whole, task="train") for member in members},
        shared={task: plan_of(shared_of(job.spec, members, task)) for task in tasks},
    )
    if not options.json:
        write(f"{head_as_text(sweep)}\n{as_text(sweep.largest)}\n{sweep_as_text(sweep)}")
    return {**as_data(sweep.largest), "sweep": sweep_as_data(sweep)}


def _planner(job: "Job", options: argparse.Namespace) -> "Callable[..., Plan]":
    """What plans the job's spec, or one that a sweep has made of it, on the same songs and models."""
    from sidestep.acestep.releases import configs_of
    from sidestep.lifecycle.job import Job
    from sidestep.lifecycle.ranks import with_known_ranks
    from sidestep.planning.plan import make_plan
    from sidestep.planning.prices import read_prices
    from sidestep.planning.songs import Songs, assumed_songs, find_songs

    prices = read_prices(options.prices) if options.prices else None
    configs = configs_of(job.spec, offline=options.offline)

    def songs_of(spec: "JobSpec") -> Songs:
        if options.offline:
            validation = None if spec.task == "preprocess" else spec.train.validation
            return assumed_songs(options.songs, options.song_seconds, validation)
        return find_songs(job if spec is job.spec else Job(spec))

    splits = any(name.startswith(SPLITS) for name in job.spec.sweep)
    songs = None if splits else songs_of(job.spec)

    def plan_of(spec: "JobSpec", task: str = "") -> "Plan":
        known = spec if options.offline else with_known_ranks(Job(spec), configs.model)
        return make_plan(
            known.changed({"task": task}) if task else known,
            configs,
            songs or songs_of(spec),
            limit=options.fit,
            hours_between_preemptions=options.hours_between_preemptions,
            prices=prices,
        )

    return plan_of


def size_in_bytes(text: str) -> float:
    """12GB, 12 G or 11.5GiB as bytes. Raises ArgumentTypeError for what is no size."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GiB|GB|G)", text.strip(), re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 12GB or 11.5GiB")
    return float(found[1]) * (2**30 if found[2].lower() == "gib" else 1e9)


def _positive(text: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d+)?", text) or float(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0, such as 2.5")
    return float(text)
