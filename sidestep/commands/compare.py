"""`sidestep compare`: some runs beside each other, in a table and on one page."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sidestep.commands.command import Call
from sidestep.commands.flags import add_flags
from sidestep.commands.parser import Parser
from sidestep.config.fields import spec_fields
from sidestep.config.job import JobSpec, resolve
from sidestep.config.presets import write_file
from sidestep.config.sources import Given
from sidestep.runtime.console import write, write_json
from sidestep.runtime.errors import BadDataError, MissingInputError, SideStepError, UsageError
from sidestep.runtime.logs import setup_logging

log = logging.getLogger(__name__)

FILE = "compare.html"


def add_arguments(parser: Parser) -> None:
    parser.usage = f"{parser.prog} OUTPUT OUTPUT... [--output FILE] [flags]"
    parser.add_argument(
        "places",
        metavar="OUTPUT",
        nargs="+",
        help="the output_dir of a job: two or more, or one of a sweep, which stands for its runs",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        default=FILE,
        help=f"the page to write (default: {FILE}, replaced if there)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table, for scripts")
    add_flags(parser, leave_out=[path for path in spec_fields() if path[0] != "storage"])


def run(call: Call) -> None:
    """Print the table and write the page. An output of a sweep stands for all its runs, each by its name.

    Raises UsageError for fewer than two outputs, and the first problem where fewer than two can be read.
    """
    options = call.options()
    setup_logging()
    given = getattr(options, "given", [])

    def spec_of(place: str) -> JobSpec:
        said = Given(("output_dir",), place, call.parser.prog)
        return resolve(flags=[*given, said], needs_places=False)[0]

    specs = [spec_of(place) for place in dict.fromkeys(options.places)]

    from sidestep.lifecycle.compared import called_apart, read_run
    from sidestep.lifecycle.sweep import read_sweep
    from sidestep.report.compare import as_data, as_text, comparison_page
    from sidestep.report.comparison import judge_runs
    from sidestep.storage.open import open_store

    stores = [open_store(spec.output_place, spec.storage) for spec in specs]
    asked = {store.place: (store, "") for store in stores}
    for store in stores:
        if runs_of_it := read_sweep(store):
            del asked[store.place]
            asked |= {
                f"{store.place}/{run.folder}": (store.child(run.folder), run.name) for run in runs_of_it
            }
    if len(asked) < 2:
        raise UsageError("give two outputs or more to compare, each once, or one of a sweep")
    runs, problems = [], []
    for store, name in asked.values():
        try:
            run = read_run(store)
        except (BadDataError, MissingInputError) as error:
            problems.append(error)
        else:
            runs.append(replace(run, label=name) if name else run)
    if len(runs) < 2:
        raise _not_enough(problems)
    for problem in problems:
        log.warning("Left out: %s", problem)
    runs = called_apart(runs)
    judgement = judge_runs(runs)
    page = comparison_page(runs, [str(problem) for problem in problems])
    write_file(Path(options.output), page, replace=True)
    if options.json:
        write_json(as_data(runs, judgement))
    else:
        write(as_text(runs, judgement))
    log.info("Written: %s", options.output)


def _not_enough(problems: Sequence[SideStepError]) -> SideStepError:
    """Of the first problem's kind, with what is wrong with each."""
    said = "\n  ".join(str(problem) for problem in problems)
    return type(problems[0])(f"there are not two outputs that can be compared:\n  {said}")
