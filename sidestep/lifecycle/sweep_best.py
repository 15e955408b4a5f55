"""The best run of a sweep: by its held-out loss, published by name as the sweep's own adapter/."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sidestep.commitlog.log import CommitLog
from sidestep.lifecycle.compared import read_run
from sidestep.lifecycle.output import ADAPTER
from sidestep.lifecycle.publish import check_published
from sidestep.lifecycle.sweep import Entry, Folder
from sidestep.report.comparison import Run, judge_runs
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.parsing import Count, Number, parse_as
from sidestep.runtime.workspace import Workspace
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

FILE = "best.json"


class BestRun(BaseModel):
    """The content of best.json.

    Attributes:
        step: of the checkpoint that its adapter is; `held_out` is the loss that goes by.
        is_sure: whether it is better than each of the others by more than chance explains.
        finished: how many of the sweep's `runs` it was chosen from.
    """

    folder: Folder
    name: str
    values: dict[str, Any]
    step: Count
    held_out: Number
    is_sure: bool
    finished: Count
    runs: Count

    def __str__(self) -> str:
        sure = "" if self.is_sure else ", but not a sure winner"
        return (
            f"{self.name} ({self.folder}): held-out loss {self.held_out:.4f} after step {self.step}, the "
            f"lowest of {self.finished} finished runs of {self.runs}{sure}"
        )


def read_best(store: Store) -> BestRun | None:
    """The best run as the sweep in `store` has published it; None where it has none yet.

    Raises BadDataError where best.json is damaged.
    """
    try:
        return parse_as(BestRun, store.read_small(FILE), f"{store.place}/{FILE}")
    except MissingInputError:
        return None


def publish_best(store: Store, workspace: Workspace, entries: Sequence[Entry]) -> BestRun | None:
    """Make adapter/ of the sweep in `store` that of its best finished run, and name that in best.json.

    None where nobody can say which is the best: no songs are held out, or not the same ones. Called again,
    it changes nothing until another run has finished.

    Raises BadDataError where the best one's adapter is damaged, and what the store raises.
    """
    finished = _finished(store, entries)
    best, is_sure, why_not = _judge(list(finished.values()))
    if best is None:
        log.info("No run of the sweep is named the best: %s", why_not)
        return None
    folder = next(folder for folder, run in finished.items() if run is best)
    entry = next(entry for entry in entries if entry.folder == folder)
    assert best.measured is not None
    found = BestRun(
        folder=folder,
        name=entry.name,
        values=entry.values,
        step=best.adapter_step,
        held_out=best.loss,
        is_sure=is_sure,
        finished=len(finished),
        runs=len(entries),
    )
    run = store.child(folder)
    check_published(CommitLog(run))
    _copy(run, store, workspace)
    store.write_bytes(FILE, json_bytes(found.model_dump(mode="json")))
    log.info("The best run is %s; %s/%s is its adapter", found, store.place, ADAPTER)
    return found


def _finished(store: Store, entries: Sequence[Entry]) -> dict[str, Run]:
    """By folder, what a comparison reads of each run that has ended."""
    found = {}
    for entry in entries:
        run = store.child(entry.folder)
        commits = CommitLog(run)
        newest = commits.newest_commit(commits.tail())
        if newest is None or newest.kind != "done":
            continue
        try:
            found[entry.folder] = replace(read_run(run), label=entry.name)
        except (BadDataError, MissingInputError) as error:
            log.warning("Left out: %s", error)
    return found


def _judge(runs: Sequence[Run]) -> tuple[Run | None, bool, str]:
    """The best one, whether that is sure, and otherwise why there is none."""
    if len(runs) == 1 and runs[0].measured is not None:
        return runs[0], False, ""
    judgement = judge_runs(runs)
    why_not = judgement.remarks[0] if judgement.remarks else "none has finished"
    return judgement.best, judgement.is_sure, why_not


def _copy(run: Store, store: Store, workspace: Workspace) -> None:
    """Bring adapter/ of a run into the sweep's own: files that differ, and none that the run has not."""
    there = {file.path: run.read_bytes(file.path) for file in run.list_files(ADAPTER)}
    before = {file.path for file in store.list_files(ADAPTER)}
    with workspace.temporary() as temporary:
        for number, (path, content) in enumerate(there.items()):
            if path in before and store.read_bytes(path) == content:
                continue
            local = Path(temporary, str(number))
            local.write_bytes(content)
            store.upload(local, path)
    for path in before - there.keys():
        store.delete(path)
