"""The plan of a task: songs and steps, memory by part and phase, time and cost by card."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from sidestep.acestep.releases import Configs
from sidestep.config.job import JobSpec
from sidestep.config.processes import said_of_idle
from sidestep.data.survey import in_words
from sidestep.planning.bounds import Bound, bounds_of
from sidestep.planning.cards import CARDS, Card
from sidestep.planning.figures import Figure, gigabytes
from sidestep.planning.fit import changes_to_fit
from sidestep.planning.job import figures_of, gpus_of
from sidestep.planning.memory import on_a_card
from sidestep.planning.phase import Phase
from sidestep.planning.phases import ESTIMATE, checkpoint_bytes, phases_of, schedule_of, trains
from sidestep.planning.preemption import RESTART_SECONDS, Preemptions, plan_for_preemptions
from sidestep.planning.prices import Prices
from sidestep.planning.songs import Songs
from sidestep.runtime.words import duration
from sidestep.training.savings import Saving


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
    alone: list[Saving] | None = None  # the changes with which all but the estimate fits, where it does not


@dataclass(frozen=True)
class Plan:
    """The figures of a task by name, and what follows from them."""

    name: str
    task: str
    job: dict[str, Figure]
    phases: list[PhasePlan]  # in their order
    cards: list[CardEstimate]
    bounds: list[Bound]
    preemptions: dict[str, Figure]
    fit: Fit | None
    dataset: dict[str, str]  # what can be said of the songs without decoding any
    prices: Prices | None
    gpus: int = 1  # that train together; time and cost are those of one alone
    idle: str = ""  # what is to be said of GPUs that have nothing to do

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
    phases = phases_of(on_a_card(spec, configs.model, limit), configs, songs)
    uptime = hours_between_preemptions * 3600 if hours_between_preemptions else None
    found = (
        plan_for_preemptions(checkpoint_bytes(spec, configs, songs.trained), uptime)
        if uptime and trains(spec)
        else None
    )
    lost = found.lost_share if found else RESTART_SECONDS / uptime if uptime else 0.0

    def card_estimates() -> Iterator[CardEstimate]:
        for card in CARDS:
            on_this = on_a_card(spec, configs.model, card.memory, has_bf16=card.has_bf16)
            phases = phases_of(on_this, configs, songs)
            as_run = [card.precision(phase.precision) for phase in phases]
            if "bf16" in as_run and not card.has_bf16:
                continue
            on_it = list(zip(phases, as_run, strict=True))
            seconds = sum(card.seconds(phase.flops, precision) for phase, precision in on_it) * (1 + lost)
            price = prices.per_hour.get(card.name) if prices else spec.runtime.price_per_hour
            cost = None if price is None else price * seconds / 3600
            memory = max(phase.memory(precision) for phase, precision in on_it)
            yield CardEstimate(card, as_run[-1], memory, seconds, cost)

    cards = list(card_estimates())
    return Plan(
        name=spec.name,
        task=spec.task,
        job=figures_of(spec, configs, songs, phases),
        phases=[_phase_plan(phase) for phase in phases],
        cards=cards,
        bounds=bounds_of(spec, {row.card.name: row.seconds for row in cards}),
        preemptions=_preemptions(found, uptime, lost) if uptime else {},
        fit=_fit(spec, configs, songs, limit) if limit else None,
        dataset=in_words(songs.dataset) if songs.dataset else {},
        prices=prices,
        gpus=gpus_of(spec),
        idle=said_of_idle(spec.train, gpus_of(spec), schedule_of(spec, songs.trained).samples),
    )


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

    def total(changed: JobSpec, without: str = "") -> float:
        nonlocal largest
        phases = phases_of(on_a_card(changed, configs.model, limit), configs, songs)
        sizes = [(each.memory(each.usual_precision), each.name) for each in phases if each.name != without]
        memory, largest = max(sizes)
        return memory

    longest = songs.trained.longest
    changes, memory = changes_to_fit(spec, longest, total, limit)
    found = Fit(limit, changes, memory, largest)
    if changes is not None or spec.task != "pipeline" or largest != ESTIMATE:
        return found
    alone, _ = changes_to_fit(spec, longest, partial(total, without=ESTIMATE), limit)
    return replace(found, alone=alone)
