"""The plan of a task: songs and steps, memory by part and phase, time and cost by card."""

from collections.abc import Iterator
from dataclasses import dataclass

from sidestep.acestep.releases import Configs
from sidestep.config.job import JobSpec
from sidestep.data.survey import in_words
from sidestep.lifecycle.policy import CheckpointPolicy
from sidestep.planning.cards import CARDS, Card
from sidestep.planning.figures import Figure, gigabytes
from sidestep.planning.fit import changes_to_fit
from sidestep.planning.memory import Memory, estimate_memory_of, memory_of
from sidestep.planning.passes import passes_of
from sidestep.planning.phase import Phase
from sidestep.planning.preemption import RESTART_SECONDS, Preemptions, plan_for_preemptions
from sidestep.planning.prices import Prices
from sidestep.planning.songs import Songs
from sidestep.runtime.words import counted, duration
from sidestep.training.savings import Saving
from sidestep.training.schedule import Schedule

_TERA = 1e12


@dataclass(frozen=True)
class CardEstimate:
    """A job on one card. Without a price there is no cost."""

    card: Card
    precision: str  # of the last phase
    memory: float  # bytes, of the phase that takes the most
    seconds: float
    cost: float | None

    @property
    def fits(self) -> bool:
        return self.memory <= self.card.memory


@dataclass(frozen=True)
class PhasePlan:
    """A phase on a GPU that computes in its usual precision."""

    name: str
    precision: str
    memory: dict[str, Figure]
    flops: float


@dataclass(frozen=True)
class Fit:
    """The changes that make the job fit `limit` bytes: [] if it does already, None if nothing here does."""

    limit: float
    changes: list[Saving] | None
    memory: float  # bytes, with these changes or with all that there are
    phase: str  # that takes the most, with what was tried last: all that there is where nothing helps


@dataclass(frozen=True)
class Plan:
    """The figures of a task by name, and what follows from them."""

    name: str
    task: str
    job: dict[str, Figure]
    phases: list[PhasePlan]  # in their order
    cards: list[CardEstimate]
    preemptions: dict[str, Figure]
    fit: Fit | None
    dataset: dict[str, str]  # what can be said of the songs without decoding any
    prices: Prices | None

    @property
    def largest(self) -> PhasePlan:
        """The phase that takes the most memory."""
        return max(self.phases, key=lambda phase: phase.memory["total"].value)


def make_plan(
    spec: JobSpec,
    configs: Configs,
    songs: Songs,
    *,
    limit: float | None = None,
    hours_between_preemptions: float | None = None,
    prices: Prices | None = None,
) -> Plan:
    """The plan of the task of `spec` on `songs`, with the models of `configs`.

    Args:
        limit: bytes that the job is to fit, if any.
        hours_between_preemptions: how long a machine is kept on the average, where it may be taken away.
        prices: of cards, in place of the spec's one price.
    """
    phases = phases_of(spec, configs, songs)
    uptime = hours_between_preemptions * 3600 if hours_between_preemptions else None
    found = plan_for_preemptions(_state(spec, configs, songs), uptime) if uptime and _trains(spec) else None
    lost = found.lost_share if found else RESTART_SECONDS / uptime if uptime else 0.0

    def card_estimates() -> Iterator[CardEstimate]:
        for card in CARDS:
            as_run = [card.precision(phase.precision) for phase in phases]
            if "bf16" in as_run and not card.has_bf16:
                continue
            on_it = list(zip(phases, as_run, strict=True))
            seconds = sum(card.seconds(phase.flops, precision) for phase, precision in on_it) * (1 + lost)
            price = prices.per_hour.get(card.name) if prices else spec.runtime.price_per_hour
            cost = None if price is None else price * seconds / 3600
            memory = max(phase.memory(precision) for phase, precision in on_it)
            yield CardEstimate(card, as_run[-1], memory, seconds, cost)

    return Plan(
        name=spec.name,
        task=spec.task,
        job=_job(spec, configs, songs, phases),
        phases=[_phase_plan(phase) for phase in phases],
        cards=list(card_estimates()),
        preemptions=_preemptions(found, uptime, lost) if uptime else {},
        fit=_fit(spec, configs, songs, limit) if limit else None,
        dataset=in_words(songs.dataset) if songs.dataset else {},
        prices=prices,
    )


def phases_of(spec: JobSpec, configs: Configs, songs: Songs) -> list[Phase]:
    """What has the GPU one after the other in the task of `spec`."""
    phases: list[Phase] = []
    if spec.task in ("preprocess", "pipeline"):
        phases += passes_of(configs, songs)
    if spec.task in ("estimate", "pipeline"):
        wish = spec.runtime.precision
        phases.append(
            Phase(
                "estimate",
                "fp32" if wish == "fp16" else wish,  # fp16 is for training
                lambda precision: _estimate(spec, configs, songs, precision).parts(),
                _estimate(spec, configs, songs, "bf16", _mean(songs)).trace.flops * spec.estimate.batches,
            )
        )
    if _trains(spec):
        phases.append(
            Phase(
                "train",
                spec.runtime.precision,
                lambda precision: _train(spec, configs, songs, precision).parts(),
                _flops_per_song(spec, configs, songs) * _micro_batches(_schedule(spec, songs)),
            )
        )
    return phases


def _trains(spec: JobSpec) -> bool:
    return spec.task in ("train", "pipeline")


def _schedule(spec: JobSpec, songs: Songs) -> Schedule:
    return Schedule.of(spec.train, len(songs.seconds))


def _micro_batches(schedule: Schedule) -> int:
    return min(schedule.total_steps * schedule.accumulation, schedule.epochs * schedule.samples)


def _mean(songs: Songs) -> float:
    return sum(songs.seconds) / len(songs.seconds)


def _frames(spec: JobSpec, songs: Songs, seconds: float | None) -> int:
    return songs.frames(songs.longest if seconds is None else seconds, spec.train.chunk_duration)


def _train(
    spec: JobSpec, configs: Configs, songs: Songs, precision: str, seconds: float | None = None
) -> Memory:
    """The memory of a step on the longest song, or on one of `seconds`."""
    return memory_of(spec, configs.model, precision, _frames(spec, songs, seconds), songs.tokens)


def _estimate(
    spec: JobSpec, configs: Configs, songs: Songs, precision: str, seconds: float | None = None
) -> Memory:
    """The same of an estimate's batch."""
    return estimate_memory_of(spec, configs.model, precision, _frames(spec, songs, seconds), songs.tokens)


def _flops_per_song(spec: JobSpec, configs: Configs, songs: Songs) -> float:
    precision = "bf16" if spec.runtime.precision == "auto" else spec.runtime.precision
    return _train(spec, configs, songs, precision, _mean(songs)).trace.flops


def _state(spec: JobSpec, configs: Configs, songs: Songs) -> float:
    """Bytes of a checkpoint."""
    precision = "bf16" if spec.runtime.precision == "auto" else spec.runtime.precision
    memory = _train(spec, configs, songs, precision)
    return memory.adapter + memory.optimizer


def _job(spec: JobSpec, configs: Configs, songs: Songs, phases: list[Phase]) -> dict[str, Figure]:
    count, sound = len(songs.seconds), sum(songs.seconds)
    figures = {"songs": Figure(count, f"{count}, {duration(sound)} of sound ({songs.source})", songs.basis)}
    if spec.task == "preprocess":
        figures["longest"] = Figure(songs.longest, f"{songs.longest:.0f} s, in tiles of 30 s", songs.basis)
    else:
        seen = min(songs.longest, spec.train.chunk_duration or songs.longest)
        figures["longest"] = Figure(seen, f"{seen:.0f} s of a song in a step", songs.basis)
    tokens = f"up to {counted(songs.tokens, 'tokens')} a song"
    figures["conditions"] = Figure(songs.tokens, tokens, songs.tokens_basis)
    if spec.task in ("estimate", "pipeline"):
        batches = spec.estimate.batches
        figures["estimate"] = Figure(batches, f"{counted(batches, 'batches')} of one song", "computed")
    total = sum(phase.flops for phase in phases)
    per_song = ""
    if _trains(spec):
        figures |= _training(spec, configs, songs)
        per_song = f"{_flops_per_song(spec, configs, songs) / _TERA:,.1f} TFLOP a song in training, "
    figures["compute"] = Figure(total, f"{per_song}{total / _TERA:,.0f} TFLOP in all", "computed")
    return figures


def _training(spec: JobSpec, configs: Configs, songs: Songs) -> dict[str, Figure]:
    schedule, adapter = _schedule(spec, songs), {"lora": "LoRA", "lokr": "LoKR"}[spec.train.adapter.type]
    precision = "bf16" if spec.runtime.precision == "auto" else spec.runtime.precision
    memory = _train(spec, configs, songs, precision)
    trace = memory.trace
    return {
        "steps": Figure(
            schedule.total_steps,
            f"{schedule.total_steps:,} ({counted(schedule.epochs, 'epochs')} of {schedule.steps_per_epoch})",
            songs.basis if songs.basis == "assumed" else "computed",
        ),
        "adapter": Figure(
            trace.adapter_parameters,
            f"{adapter}, {trace.adapter_parameters:,} parameters in {trace.adapter_tensors} tensors",
            "computed",
        ),
        "checkpoints": _checkpoints(spec, schedule, memory),
    }


def _checkpoints(spec: JobSpec, schedule: Schedule, memory: Memory) -> Figure:
    """The bytes of all checkpoints that the output holds at the end, each with adapter and optimizer."""
    size = 2 * memory.adapter + memory.optimizer
    newest, stay = spec.train.checkpoint.keep, CheckpointPolicy(spec.train.checkpoint, schedule).milestones
    kept = (newest + stay) * size
    return Figure(kept, f"{newest + stay} ({stay} for good), {gigabytes(kept)} in the output", "computed")


def _phase_plan(phase: Phase) -> PhasePlan:
    precision = phase.usual_precision
    parts = {
        name: Figure(size, gigabytes(size), "assumed" if name == "context" else "computed")
        for name, size in phase.parts(precision).items()
    }
    total = phase.memory(precision)
    memory = {**parts, "total": Figure(total, gigabytes(total), "computed")}
    return PhasePlan(phase.name, precision, memory, phase.flops)


def _preemptions(found: Preemptions | None, uptime: float, lost: float) -> dict[str, Figure]:
    """Without commits, what is made song by song or batch by batch is kept, and restarts alone are lost."""
    figures = {
        "machine kept": Figure(uptime, f"{duration(uptime)} on the average", "assumed"),
        "restart": Figure(RESTART_SECONDS, f"{duration(RESTART_SECONDS)} each", "assumed"),
    }
    if found:
        minutes = max(found.interval / 60, 1)
        figures["commit"] = Figure(found.commit, f"{duration(found.commit)} each", "assumed")
        figures["commit every"] = Figure(
            found.interval, f"{minutes:.0f} min (train.checkpoint.every_minutes)", "computed"
        )
    return {**figures, "lost": Figure(lost, f"{lost:.1%} more time, in the table above", "computed")}


def _fit(spec: JobSpec, configs: Configs, songs: Songs, limit: float) -> Fit:
    largest = ""

    def total(changed: JobSpec) -> float:
        nonlocal largest
        phases = phases_of(changed, configs, songs)
        memory, largest = max((phase.memory(phase.usual_precision), phase.name) for phase in phases)
        return memory

    changes, memory = changes_to_fit(spec, songs.longest, total, limit)
    return Fit(limit, changes, memory, largest)
