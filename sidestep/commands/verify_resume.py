"""`sidestep verify-resume`: are interrupted runs exact on this machine?"""

from sidestep.commands.command import Call
from sidestep.commands.job import add_job_flags, read_job, refuse_many
from sidestep.commands.parser import Parser
from sidestep.config.fields import FieldPath
from sidestep.runtime.errors import UsageError

SAYS: dict[FieldPath, str] = {("task",): "train"}


def add_arguments(parser: Parser) -> None:
    add_job_flags(parser, "[JOB.YAML] [flags]", SAYS, about=("train",))
    parser.add_argument(
        "--steps", type=int, default=6, metavar="N", help="how many steps to make (default: 6)"
    )


def run(call: Call) -> None:
    options, spec, _ = read_job(call, SAYS)
    refuse_many(call, spec)
    if options.steps < 2:
        raise UsageError(f"--steps is {options.steps}; at least 2 are needed")

    from sidestep.tasks.verify import verify_resume

    verify_resume(spec, options.steps)
