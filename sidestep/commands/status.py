"""`sidestep status`: what a job is doing, read from its output."""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sidestep.commands.command import Call
from sidestep.commands.flags import add_flags
from sidestep.commands.parser import Parser
from sidestep.commitlog.log import CommitLog
from sidestep.config.fields import spec_fields
from sidestep.config.job import resolve
from sidestep.config.sources import Given
from sidestep.lifecycle.part_status import read_status
from sidestep.lifecycle.shards_status import ShardsStatus, are_newest, shards_status
from sidestep.lifecycle.status import FILE, Status
from sidestep.lifecycle.sweep import read_sweep
from sidestep.runtime.console import write, write_json
from sidestep.runtime.errors import MissingInputError, SideStepError
from sidestep.runtime.logs import setup_logging
from sidestep.runtime.shown import on_one_line
from sidestep.runtime.words import duration
from sidestep.storage.open import open_store
from sidestep.storage.store import Store

if TYPE_CHECKING:
    from sidestep.lifecycle.sweep_status import SweepStatus

log = logging.getLogger(__name__)

WATCH_SECONDS = 5.0


def add_arguments(parser: Parser) -> None:
    parser.usage = f"{parser.prog} PLACE [flags]"
    parser.add_argument("place", metavar="PLACE", help="the job's output_dir")
    parser.add_argument("--json", action="store_true", help="print status.json as it is, for scripts")
    parser.add_argument("--watch", action="store_true", help="update every few seconds until the job ends")
    add_flags(parser, leave_out=[path for path in spec_fields() if path[0] != "storage"])


def run(call: Call) -> None:
    options = call.options()
    setup_logging()
    place = Given(("output_dir",), options.place, call.parser.prog)
    spec, _ = resolve(flags=[*getattr(options, "given", []), place], needs_places=False)
    store = open_store(spec.output_place, spec.storage)
    show_status(store, as_json=options.json, watch=options.watch)


def show_status(
    store: Store, *, as_json: bool, watch: bool, sleep: Callable[[float], object] = time.sleep
) -> None:
    """Print the status of the job whose output is in `store`; with `watch` again and again, until it ends.

    Raises MissingInputError where there is none, and what the store raises.
    """
    if read_sweep(store):
        from sidestep.lifecycle.sweep_status import sweep_status  # it loads numpy, to judge runs

        _show_whole(lambda: sweep_status(store), as_json=as_json, watch=watch, sleep=sleep)
        return
    if are_newest(store):
        _show_whole(lambda: shards_status(store), as_json=as_json, watch=watch, sleep=sleep)
        return
    while True:
        status = _read(store)
        if as_json:
            write_json(status.model_dump(mode="json"))
        else:
            write(_for_people(status, *_checkpoint(store, status)))
        if not watch or status.state != "running":
            return
        sleep(WATCH_SECONDS)


def _show_whole(
    look: "Callable[[], SweepStatus | ShardsStatus]",
    *,
    as_json: bool,
    watch: bool,
    sleep: Callable[[float], object],
) -> None:
    """Of many jobs that are one to its user."""
    while True:
        whole = look()
        if as_json:
            write_json(whole.model_dump(mode="json"))
        else:
            write("\n  ".join(map(on_one_line, whole.in_words())) + "\n")
        if not watch or whole.has_ended:
            return
        sleep(WATCH_SECONDS)


def _read(store: Store) -> Status:
    try:
        return read_status(store)
    except MissingInputError as error:
        raise MissingInputError(
            f"there is no {FILE} in {store.place}: no job has started there. Give the output_dir of a job."
        ) from error


def _checkpoint(store: Store, status: Status) -> tuple[str, int]:
    """The newest checkpoint's folder and step, by the output's log: an attempt that was killed had not told
    its last one, nor has the next one told any of those before. Where there is none, "" and 0."""
    told = status.last_commit
    folder, step = (told.folder, told.step) if told else ("", 0)
    if status.task in ("train", "pipeline"):
        commits = CommitLog(store)
        try:
            if newest := commits.newest_commit(commits.tail()):
                folder, step = newest.folder, newest.step
        except SideStepError as error:
            log.warning("The newest checkpoint may be another one than %s says: %s", FILE, error)
    return folder, step


def _for_people(status: Status, checkpoint: str, saved: int) -> str:
    """Some lines, the most important first; what is not known is not said."""
    phase = f" ({status.phase})" if status.state == "running" else ""
    lines = [f"{status.name}: {status.state_now}{phase}"]
    if status.steps and saved > (status.step or 0):
        lines.append(f"step {saved} of {status.steps} ({saved / status.steps:.0%})")
    elif status.step is not None and status.steps:
        epoch = f", epoch {status.epoch} of {status.epochs}" if status.epoch is not None else ""
        loss = f", loss {status.loss:.4f}" if status.loss is not None else ""
        lines.append(f"step {status.step} of {status.steps} ({status.step / status.steps:.0%}){epoch}{loss}")
    if status.state_now == "running" and status.steps_per_second and status.seconds_left is not None:
        lines.append(f"{status.steps_per_second:.3g} steps/s, {duration(status.seconds_left)} left")
    if status.validation:
        lines.append(f"validation after step {status.validation.step}: {status.validation}")
    if status.state_now == "running" and (at := status.validating):
        lines.append(f"validating after step {at.step}: {at.done} of {at.total} draws")
    if checkpoint:
        lines.append(f"newest checkpoint: {checkpoint}, after step {saved}")
    spent = status.spent
    seconds = sum(spent.seconds.values())
    preempted = f", {spent.preemptions} of them preempted" if spent.preemptions else ""
    lines.append(f"attempt {status.attempt}{preempted}, {duration(seconds)} in all")
    if status.without:
        lines.append(status.without)
    if status.message:
        lines.append(status.message)
    if sign := status.sign_of_life():
        lines.append(sign)
    return "\n  ".join(map(on_one_line, lines)) + "\n"
