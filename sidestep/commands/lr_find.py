"""`sidestep lr-find`: a range test for the learning rate."""

import logging

from sidestep.commands.command import Call
from sidestep.commands.job import add_job_flags, read_job, refuse_many
from sidestep.commands.parser import Parser, whole
from sidestep.config.fields import FieldPath, spec_fields
from sidestep.runtime.console import write_json

log = logging.getLogger(__name__)

SAYS: dict[FieldPath, str] = {("task",): "train"}
STEPS, FEWEST, MOST = 48, 20, 400


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--steps",
        type=whole(FEWEST, MOST),
        default=STEPS,
        metavar="N",
        help=f"optimizer steps of each of three ramps, {FEWEST} to {MOST} (default: {STEPS})",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON, for scripts")
    add_job_flags(parser, "[flags]", SAYS, about=("train",))


def run(call: Call) -> None:
    """Run the range test, and say what it suggests. Without a suggestion it has done its work, too."""
    from sidestep.platforms.guard import stand_guard
    from sidestep.platforms.release import RentedMachine
    from sidestep.runtime.preemption import Preemption

    with Preemption(is_command=call.is_process) as preemption, RentedMachine(call.words) as machine:
        options, spec, _ = read_job(call, SAYS)
        refuse_many(call, spec)
        machine.keep_or_release(spec.runtime.on_exit)
        if call.is_process:
            stand_guard(machine, spec.runtime)
        preemption.set_grace(spec.runtime.grace_seconds)

        from sidestep.lifecycle.job import Job
        from sidestep.preflight.places import check_places
        from sidestep.runtime.folders import provide_folders
        from sidestep.runtime.lean import import_diffusers
        from sidestep.tasks.limits import limits_explained

        provide_folders(spec.runtime.workspace)
        job = Job(spec, preemption)
        check_places(job)
        import_diffusers()
        from sidestep.tasks.lr_find import as_data, lr_find

        with limits_explained(spec, "train"):
            found = lr_find(job, options.steps)
        rate, reason = found.suggestion.rate, found.suggestion.reason
        if rate is None:
            log.warning("No suggestion: %s", reason)
        else:
            flag = spec_fields()[("train", "lr")].flags[0]
            log.info("Suggestion: %s %g (%s)", flag, rate, reason)
        log.info("Report: %s and report.png", found.report)
        if options.json:
            write_json(as_data(found))
