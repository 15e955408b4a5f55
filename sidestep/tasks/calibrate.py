"""How strong the adapter should be: the held-out loss of what was published, over a grid of strengths.

Songs, noise and noise levels are those of the run's own validations, so the loss at strength 1 is the one
that the run has found, and nothing is drawn anew: the same adapter gives the same numbers.
"""

import logging
import math
from collections.abc import Sequence

import torch

from sidestep import adapters
from sidestep.commitlog.log import Record
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.sides import by_hash, sides_in
from sidestep.lifecycle.adapter_files import digest_of, find_adapter, header_of
from sidestep.lifecycle.card import keep_card
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.publish import check_published, refuse_if_older
from sidestep.lifecycle.results import note_made
from sidestep.report.page import write_report
from sidestep.report.strength import FILE, At, Calibration
from sidestep.runtime.errors import BadSpecError, MissingInputError
from sidestep.runtime.progress import track
from sidestep.runtime.words import counted
from sidestep.sampling.pipeline import evaluating
from sidestep.tasks.setup import prepare_setup, sampling_config
from sidestep.training.dataset import Chosen
from sidestep.training.flow import flow_loss
from sidestep.training.machine import choose_machine
from sidestep.training.validation import Validator

log = logging.getLogger(__name__)

GRID = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


def calibrate(job: Job, strengths: Sequence[float], *, in_card: bool) -> Calibration:
    """Take the loss at each strength, write strength.json, and tell it in the report; in the card, if asked.

    Raises MissingInputError where nothing is published, BadDataError where that is damaged, BadSpecError
    where no song was held out of its training, TakenError where the run has gone on meanwhile.
    """
    spec, store, newest = job.spec, job.output_store, job.commits.tail()
    found = find_adapter(store.place, spec.storage)
    if newest is None:
        raise MissingInputError(f"{store.place} is no output_dir of a job: it has no commits")
    check_published(job.commits)
    sides = sides_in(header_of(found), found.place)
    if sides is None or not any(song.held_out for song in sides.songs):
        raise BadSpecError(
            f"{found.place} was trained on all of its songs, so no loss can tell how strong it should be\n"
            "  hold some out with train.validation.share, and train anew"
        )
    setup = prepare_setup(job, Preprocessed(job.tensors), choose_machine(spec.runtime), sides=sides)
    assert setup.sides, "they are the adapter's"
    weights = found.pull(job.workspace)
    adapter = adapters.load(setup.model, weights)
    is_out, songs = setup.sides.are_held_out(setup.samples.songs), setup.samples.songs
    chosen = by_hash(songs, [number for number, out in enumerate(is_out) if out])
    validator = Validator(
        *(Chosen(setup.samples, chosen), [songs[number] for number in chosen], [True] * len(chosen)),
        sampling_config(spec, setup.model.config, setup.machine.dtype),
        spec.train.validation.draws,
    )
    grid = sorted(set(strengths))
    log.info(
        "Held-out loss at %s, each on %s of %s",
        *(counted(len(grid), "strengths"), counted(len(validator), "draws"), counted(len(chosen), "songs")),
    )
    module = setup.machine.fabric().setup_module(setup.model.transformer)
    losses = []
    with (
        evaluating(module),
        torch.no_grad(),
        track("Calibrating", len(grid) * len(validator), "draws") as bar,
    ):
        for strength in grid:
            adapter.set_strength(strength)
            made = []
            for batch in validator.batches(setup.null_condition, setup.machine.device):
                made.append(float(flow_loss(module, batch)))
                bar.advance(1)
            mean = validator.validation(made).held_out.mean
            losses.append(At(strength=strength, loss=mean if math.isfinite(mean) else None))
            log.info("Strength %g: held-out loss %.4f", strength, mean)
    result = Calibration(
        adapter=digest_of(weights),
        songs=len(chosen),
        draws=spec.train.validation.draws,
        losses=tuple(losses),
        best=best_of(losses),
        in_card=in_card,
    )
    _keep(job, result, newest)
    return result


def best_of(losses: Sequence[At]) -> float | None:
    """The strength with the lowest loss; of equal ones the nearest to 1. None where no loss is finite."""
    finite = [(at.loss, abs(at.strength - 1), at.strength) for at in losses if at.loss is not None]
    return min(finite)[2] if finite else None


def _keep(job: Job, result: Calibration, newest: Record) -> None:
    """strength.json, and all that tells of it, while `newest` is the newest record."""
    store, commits = job.output_store, job.commits

    def check() -> None:
        refuse_if_older(commits, newest)

    check()
    store.write_bytes(FILE, result.content())
    keep_card(store, check)
    done = commits.newest_commit(newest)
    if done and done.kind == "done":
        check()
        write_report(store, job.spec, job.tensors)
        note_made(store, done)
