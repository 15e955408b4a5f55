"""From a spec and what is set up to a trainer: the adapter in its decoder, the songs on their sides."""

import logging

from sidestep.acestep.norms import fuse_norms
from sidestep.acestep.recompute import recompute_layers
from sidestep.acestep.swap import swap_layers
from sidestep.adapters import inject
from sidestep.adapters.targets import linear_modules
from sidestep.config.job import JobSpec
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.ranks import (
    Ranks,
    ranks_from,
    say_what_is_kept,
    warn_of_another,
)
from sidestep.report.contents import Ranking
from sidestep.runtime.preemption import Preemption
from sidestep.tasks.first_adapter import FirstAdapter
from sidestep.tasks.setup import TrainingSetup, sampling_config
from sidestep.training.dataset import Chosen
from sidestep.training.dropout import Masks
from sidestep.training.ema import Ema
from sidestep.training.loop import Trainer
from sidestep.training.offload import Offload
from sidestep.training.optimizer import build_optimizer
from sidestep.training.parallel import sums_of
from sidestep.training.schedule import Schedule
from sidestep.training.team import Team
from sidestep.training.validation import Validator
from sidestep.training.verdict import judge

log = logging.getLogger(__name__)


def build_trainer(
    spec: JobSpec,
    setup: TrainingSetup,
    preemption: Preemption | None = None,
    first: FirstAdapter | None = None,
    team: Team | None = None,
) -> Trainer:
    """Put the adapter into the decoder and set both up to be trained. Everything is keyed by the seed.

    `first` is the adapter that the run begins from, where it begins from one; `team` the processes that make
    the steps.
    """
    train, transformer = spec.train, setup.model.transformer
    adapter = inject(transformer, train.adapter, train.seed)
    if first:
        first.begin(adapter, setup.model.config, resize=train.init_resize)
    if train.gradient_checkpointing:
        recompute_layers(transformer, train.gradient_checkpointing_ratio)
    if setup.machine.kernels == "fused":
        fuse_norms(transformer)
    if train.block_swap:
        swap_layers(transformer, train.block_swap, setup.machine.device)
    fabric = setup.machine.fabric()
    sampling = sampling_config(spec, setup.model.config, setup.machine.dtype)
    held_out = setup.sides.are_held_out(setup.samples.songs) if setup.sides else [False] * len(setup.samples)
    trained = [number for number, is_out in enumerate(held_out) if not is_out]
    validator = None
    if train.validation.is_on:
        songs = setup.samples.songs
        validator = Validator(setup.samples, songs, held_out, sampling, train.validation.draws)
    log.info("Optimizer %s, learning rate %g, scheduler %s", train.optimizer_type, train.lr, train.scheduler)
    for name, factor in train.lr_groups.items():
        log.info("Learning rate of %s: %g times that", name, factor)
    team = team or Team()
    return Trainer(
        fabric=fabric,
        model=fabric.setup_module(transformer),
        adapter=adapter,
        masks=Masks(adapter, train.seed),
        optimizer=build_optimizer(adapter, train, fused=setup.machine.fuses_optimizer),
        samples=Chosen(setup.samples, trained),
        frames=[setup.samples.frames[song] for song in trained],
        weights=[setup.shares[song].weight for song in trained],
        batch_size=train.batch_size,
        null_condition=setup.null_condition,
        sampling=sampling,
        schedule=Schedule.of(train, [setup.shares[song].repeats for song in trained]),
        max_grad_norm=train.max_grad_norm,
        preemption=preemption or Preemption(),
        validator=validator,
        validate_every=train.validation.every_epochs,
        ends=lambda progress: judge(progress, train).end is not None,
        ema=Ema.of(adapter, train.ema),
        offload=Offload(transformer) if train.offload_activations else None,
        min_snr_gamma=train.min_snr_gamma if train.loss_weighting == "min_snr" else None,
        team=team,
        sums=sums_of(team, list(adapter.parameters().values()), train.batch_size, spec.runtime.gradient_sums),
    )


def with_ranks(
    job: Job, setup: TrainingSetup, kept: Ranks | None, ranking: Ranking | None
) -> tuple[JobSpec, Ranks | None]:
    """The spec with the ranks that an estimate gives its modules, written out, and these ranks.

    `kept` are those of a run that goes on; `ranking` is the estimate where one begins.
    """
    spec = job.spec
    if ranking:
        warn_of_another(job, ranking)
        linears = linear_modules(setup.model.transformer)
        shapes = {path: (module.out_features, module.in_features) for path, module in linears.items()}
        kept = ranks_from(ranking, spec.train.adapter, shapes)
    elif kept:
        say_what_is_kept(job, kept)
    if kept is None:
        return spec, None
    adapter = kept.of(spec.train.adapter)
    found = [adapter.rank, *adapter.rank_pattern.values()]
    log.info("Ranks by an estimate: from %d to %d", min(found), max(found))
    return spec.model_copy(update={"train": spec.train.model_copy(update={"adapter": adapter})}), kept
