"""What a training needs before its first step, at each of its ranks: machine, songs, model, trainer."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sidestep.config.job import JobSpec
from sidestep.data.preprocessed import Preprocessed
from sidestep.lifecycle.identity import check_same_run, with_quantization
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.ranks import find_ranking, frozen_ranks
from sidestep.lifecycle.resume import ResumePoint
from sidestep.tasks.first_adapter import find_first_adapter
from sidestep.tasks.hearing import Hearing
from sidestep.tasks.setup import TrainingSetup, prepare_setup
from sidestep.tasks.trainer import build_trainer, with_ranks
from sidestep.training.batches import at_once
from sidestep.training.compiled import compile_checked
from sidestep.training.loop import Trainer
from sidestep.training.machine import Machine, choose_machine
from sidestep.training.numbers import LAW
from sidestep.training.team import Team

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Ready to train, for a `ResumePoint`."""

    setup: TrainingSetup
    trainer: Trainer
    fingerprint: dict[str, Any]
    kind: dict[str, Any]  # of machine
    hearing: Hearing
    why_plain: str | None = None  # why blocks are not compiled, where they were to be


def prepare(
    job: Job, dataset: Preprocessed, start: ResumePoint, settings: Mapping[str, Any], team: Team
) -> Prepared:
    """Pull, load and build all. `settings` are those of the fingerprint that are known without it.

    The processes of one machine share its workspace: where there are several, the first one pulls.

    Raises what `tasks.train.train` raises of tensors, weights, machine and settings.
    """
    spec = job.spec
    machine = choose_machine(spec.runtime, start.numbers.machine if start.numbers else None)
    ranking = find_ranking(job) if spec.train.adapter.rank_from and not start.numbers else None
    first = find_first_adapter(job, start.numbers)
    hearing = Hearing(job, machine, is_on=team.rank == 0)

    def before_loading(*found: Any) -> None:
        team.say_pulled()
        hearing.prepare(*found)

    team.await_pulled()
    setup = prepare_setup(
        *(job, dataset, machine, start.numbers, spec.train.alternates, first.sides(spec.train.validation)),
        before_loading=before_loading,
        quantize=settings.get("train.quantize", "none"),
        swapped=spec.train.block_swap,
    )
    settings = with_quantization(settings, setup.quantize)
    known_now = {"dataset_content": setup.samples.content, "weights": setup.weights}
    spec, ranks = with_ranks(job, setup, frozen_ranks(start.numbers), ranking)
    fingerprint = {**settings, **known_now, **first.fingerprint}
    if ranks:
        fingerprint["train.adapter"] = settings["train.adapter"] | ranks.model_dump()
    check_same_run(spec, start.numbers, fingerprint, start.place)
    trainer = build_trainer(spec, setup, job.preemption, first, team)
    law = start.numbers.progress.law if start.numbers else LAW
    why_plain = compile_checked(trainer, law, machine.precision) if machine.compile != "off" else None
    if why_plain:
        log.warning("runtime.compile is %s, but %s: the run trains without", machine.compile, why_plain)
        machine = replace(machine, compile="off")
        setup = replace(setup, machine=machine)
    kind = kind_of(machine, spec, law, team, setup.quantize)
    return Prepared(setup, trainer, fingerprint, kind, hearing, why_plain)


def kind_of(machine: Machine, spec: JobSpec, law: int, team: Team, quantize: str = "none") -> dict[str, Any]:
    """The kind of machine that makes the steps of `spec`: see `Machine.kind`. `quantize` is as resolved."""
    most = min(at_once(spec.train.batch_size, law), -(-spec.train.samples_per_step // team.count))
    reduced_by = team.count if spec.runtime.gradient_sums == "all_reduce" else 1
    uses = {
        "bitsandbytes": quantize == "nf4" or spec.train.optimizer_type == "adamw8bit",
        "prodigyopt": spec.train.optimizer_type == "prodigy",
        "flash-attn": machine.attention == "flash",
    }
    return machine.kind(most, reduced_by, [name for name, is_used in uses.items() if is_used])
