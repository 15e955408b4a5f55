"""The commands by name, and the parser of each. What a parser needs is imported when it is built."""

from collections.abc import Callable, Collection

from sidestep.commands.parser import Parser

GROUPS = {
    "from songs to an adapter": {
        "wizard": "questions in place of flags (so does `sidestep` alone)",
        "run": "the task of the spec; by default preprocess, estimate, train",
        "preprocess": "songs to tensors",
        "estimate": "rank modules by how much a dataset moves them",
        "train": "tensors to an adapter",
        "fixed": "train in corrected mode (--preprocess: make the tensors)",
        "vanilla": "train in vanilla mode (--preprocess: make the tensors)",
        "export": "write an adapter for the ACE-Step app, diffusers or ComfyUI",
    },
    "before and while it runs": {
        "plan": "check a job; its memory, time and cost before a GPU is rented",
        "render": "write the file that runs a job at a place",
        "status": "what a job is doing, read from its output",
        "verify-resume": "prove on this machine that an interrupted run is no other",
        "presets": "named settings: list, show, save, delete, import, export",
    },
    "the tool itself": {
        "schema": "print the JSON schema of the job spec",
        "completion": "print the script that completes commands in bash or zsh",
        "tiny-checkpoint": "write a random checkpoint set, for trials and tests",
        "demo": "the whole pipeline on a tiny model, in minutes",
    },
}
COMMANDS = {name: says for group in GROUPS.values() for name, says in group.items()}

# What a command says about the spec, beyond its flags: path → value. `run` leaves all to the spec.
TASKS: dict[str, dict[tuple[str, ...], str]] = {
    "run": {},
    "preprocess": {("task",): "preprocess"},
    "estimate": {("task",): "estimate"},
    "train": {("task",): "train"},
    "fixed": {("task",): "train", ("train", "mode"): "corrected"},
    "vanilla": {("task",): "train", ("train", "mode"): "vanilla"},
}

# The tasks that a command is about, where not all: its short help shows what these read.
_ABOUT = {
    **{task: (task,) for task in ("preprocess", "estimate", "train")},
    **dict.fromkeys(("fixed", "vanilla"), ("preprocess", "train")),
    "verify-resume": ("train",),
}


def parser_of(command: str) -> Parser:
    """The parser of one of the COMMANDS."""
    says = COMMANDS[command]
    parser = Parser(prog=f"sidestep {command}", description=f"{says[0].upper()}{says[1:]}.")
    fill(parser, command)
    return parser


def fill(parser: Parser, command: str) -> None:
    """Give the parser, whose prog is `sidestep <command>`, all that the command takes."""
    _FILL[command](parser)


def _run(parser: Parser) -> None:
    command = parser.prog.split()[1]
    _add_job_flags(parser, "[flags]", TASKS[command])
    if ("train", "mode") in TASKS[command]:
        parser.add_argument("--preprocess", action="store_true", help="make the tensors instead of training")
    parser.add_argument(
        "--dry-run", action="store_true", help="only print the resolved spec, each value with its origin"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON, for scripts: the spec of --dry-run, or an estimate"
    )


def _plan(parser: Parser) -> None:
    from sidestep.commands.plan_flags import add_plan_flags

    add_plan_flags(parser)
    _add_job_flags(parser, "[JOB.YAML] [flags]")


def _render(parser: Parser) -> None:
    from sidestep.platforms.render import add_render_flags

    add_render_flags(parser)
    _add_job_flags(parser, "PLACE [JOB.YAML] [flags]")


def _verify_resume(parser: Parser) -> None:
    _add_job_flags(parser, "[JOB.YAML] [flags]", TASKS["train"])
    parser.add_argument("--steps", type=int, default=6, metavar="N", help="steps to make (default: 6)")


def _add_job_flags(parser: Parser, usage: str, says: Collection[tuple[str, ...]] = ()) -> None:
    """What every command that reads a job takes: its file, a preset, and a flag for each field but `says`."""
    from sidestep.commands.flags import add_flags
    from sidestep.config.groups import TASKS as ALL

    parser.usage = f"{parser.prog} {usage}"
    parser.add_help_all()
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the job spec, a YAML file; else SIDESTEP_CONFIG names it, else /etc/sidestep/job.yaml",
    )
    parser.add_argument(
        "--preset", metavar="NAME", help="settings for what nothing else says (`sidestep presets list`)"
    )
    parser.add_argument("--verbose", action="store_true", help="show on the screen what the log file gets")
    add_flags(parser, leave_out=says, about=_ABOUT.get(parser.prog.split()[1], ALL))


def _status(parser: Parser) -> None:
    from sidestep.commands.flags import add_flags
    from sidestep.config.fields import spec_fields

    parser.usage = f"{parser.prog} PLACE [flags]"
    parser.add_argument("place", metavar="PLACE", help="the job's output_dir")
    parser.add_argument("--json", action="store_true", help="as it is stored, for programs")
    parser.add_argument("--watch", action="store_true", help="again every few seconds, until the job ends")
    add_flags(parser, leave_out=[path for path in spec_fields() if path[0] != "storage"])


def _presets(parser: Parser) -> None:
    from sidestep.commands.presets import add_preset_actions

    add_preset_actions(parser)


def _export(parser: Parser) -> None:
    from sidestep.commands.export import add_export_flags
    from sidestep.commands.flags import add_flags
    from sidestep.config.fields import spec_fields

    parser.usage = f"{parser.prog} ADAPTER --format FORMAT [flags]"
    add_export_flags(parser)
    model = ("checkpoint_dir", "model_variant", "base_model", "storage")
    add_flags(parser, leave_out=[path for path in spec_fields() if path[0] not in model])


def _completion(parser: Parser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh"], help="the shell to complete in")


def _nothing(parser: Parser) -> None:
    """The command takes nothing."""


def _tiny_checkpoint(parser: Parser) -> None:
    parser.add_argument("folder", metavar="DIR", help="folder to write the checkpoint set into")
    parser.add_argument(
        "--variants",
        nargs="+",
        metavar="NAME",
        default=["base", "turbo", "xl-base"],
        help="model variants to write (default: base turbo xl-base)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the weights (default: 0)")


def _demo(parser: Parser) -> None:
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", default="demo", help="folder for it (default: demo)"
    )


_FILL: dict[str, Callable[[Parser], None]] = {
    **dict.fromkeys(TASKS, _run),
    "plan": _plan,
    "render": _render,
    "status": _status,
    "presets": _presets,
    "wizard": _nothing,
    "export": _export,
    "completion": _completion,
    "verify-resume": _verify_resume,
    "schema": _nothing,
    "tiny-checkpoint": _tiny_checkpoint,
    "demo": _demo,
}
