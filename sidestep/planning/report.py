"""A plan as people read it in 80 columns, and as scripts do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from textwrap import wrap
from typing import Any

from sidestep.planning.bounds import NOT_SEEN, Bound
from sidestep.planning.figures import Figure, gigabytes
from sidestep.planning.hearing import SOUNDS
from sidestep.planning.plan import CardEstimate, Fit, Plan
from sidestep.preflight.checks import WIDTH
from sidestep.runtime.words import duration
from sidestep.training.savings import Saving

_BASIS_WIDTH = 10


def as_text(plan: Plan) -> str:
    """The whole plan, each figure with where it comes from."""
    sections = [_section(f"Plan of {plan.name}: {plan.task}", plan.job)]
    sections += [
        _section(f"Memory of the GPU: {phase.name}, in {phase.precision}", phase.memory)
        for phase in plan.phases
    ]
    sections += [_cards(plan), _bounds(plan.bounds)]
    if plan.idle:
        sections.append("\n".join(wrap(f"Warning: {plan.idle}", WIDTH)) + "\n")
    if plan.dataset:
        sections.insert(0, _dataset(plan.dataset))
    if plan.preemptions:
        sections.append(_section("Preemptions", plan.preemptions))
    if plan.fit:
        sections.append(_fit(plan.fit))
    return "\n".join(sections)


def as_data(plan: Plan) -> dict[str, Any]:
    """The plan for JSON: bytes, seconds, FLOPs, and each figure's basis."""
    return {
        "name": plan.name,
        "task": plan.task,
        "precision": plan.largest.precision,
        "job": _data(plan.job),
        "memory": _data(plan.largest.memory),
        "phases": [
            {
                "name": phase.name,
                "precision": phase.precision,
                "flops": phase.flops,
                "memory": _data(phase.memory),
            }
            for phase in plan.phases
        ],
        "gpus": plan.gpus,
        "idle": plan.idle,
        "prices": plan.prices.model_dump(mode="json") if plan.prices else None,
        "cards": [
            {
                "name": row.card.name,
                "memory": row.card.memory,
                "precision": row.precision,
                "needed": row.memory,
                "fits": row.fits,
                "seconds": row.seconds,
                "cost": row.cost,
                "efficiency": row.card.efficiency,
            }
            for row in plan.cards
        ],
        "bounds": {bound.setting: asdict(bound) for bound in plan.bounds},
        "not_seen": NOT_SEEN,
        "preemptions": _data(plan.preemptions),
        "dataset": plan.dataset,
        "fit": None if plan.fit is None else _fit_data(plan.fit),
    }


def _data(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: asdict(figure) for name, figure in figures.items()}


def _fit_data(fit: Fit) -> dict[str, Any]:
    changes = fit.changes
    return {
        "limit": fit.limit,
        "changes": changes
        if changes is None
        else [{"settings": change.settings, "price": change.price} for change in changes],
        "memory": fit.memory,
        **({"without_estimate": [change.settings for change in fit.alone]} if fit.alone is not None else {}),
    }


def _section(title: str, figures: Mapping[str, Figure]) -> str:
    name_width = max(map(len, figures)) + 2
    lines = [title]
    for name, figure in figures.items():
        line = f"  {name:{name_width}}{figure.says}"
        lines.append(f"{line:{WIDTH - _BASIS_WIDTH}}  {figure.basis}".rstrip())
    return "\n".join(lines) + "\n"


def _dataset(dataset: Mapping[str, str]) -> str:
    return "\n".join(["Dataset, by listings and headers (not decoded)", *_wrapped(dataset)]) + "\n"


def _bounds(bounds: Sequence[Bound]) -> str:
    said = {
        bound.setting: bound.says if bound.value is None else f"{bound.says} ({bound.code})"
        for bound in bounds
    }
    title = "Bounds, settings of runtime, each with the exit code at its end"
    return "\n".join([title, *_wrapped(said), *wrap(NOT_SEEN, WIDTH)]) + "\n"


def _wrapped(said: Mapping[str, str]) -> Iterator[str]:
    name_width = max(map(len, said)) + 2
    for name, words in said.items():
        indent = " " * (name_width + 2)
        yield from wrap(words, WIDTH, initial_indent=f"  {name:{name_width}}", subsequent_indent=indent)


def _cards(plan: Plan) -> str:
    lines = [
        "Cards: the time that the GPU works, computed from FLOPs, the data sheet's peak,",
        "and the share of it that is assumed; pulling and decoding come on top",
        *_of_one(plan),
        *_priced(plan),
        *cards_in_lines(plan.cards),
    ]
    return "\n".join(lines) + "\n"


def cards_in_lines(rows: Sequence[CardEstimate]) -> list[str]:
    """A table. Cards with fp32 are those without bf16; the efficiency is what is assumed of the peak."""
    cost = "cost" if any(row.cost is not None for row in rows) else ""
    lines = [
        f"  {'':12}{'memory':>8}{'needs':>11}{'share':>20}{'time':>12}{cost:>10}".rstrip(),
    ]
    for row in rows:
        verdict = "fits" if row.fits else "too small"
        cost = f"{row.cost:>10,.2f}" if row.cost is not None else ""
        lines.append(
            f"  {row.card.name:12}{row.card.gib:>4} GiB{gigabytes(row.memory):>11} {verdict:9}"
            f" {row.precision if row.precision != 'bf16' else '':4}"
            f"{row.card.efficiency:>6.0%} {duration(row.seconds):>11}{cost}"
        )
    return lines


def _of_one(plan: Plan) -> list[str]:
    """That what several GPUs save, and what they send each other, is not in the table."""
    if plan.gpus == 1:
        return []
    return [f"time and cost are those of one GPU alone, not of the {plan.gpus} that share each step"]


def _priced(plan: Plan) -> list[str]:
    """Where the costs are from."""
    if plan.prices:
        return [f"cost in {plan.prices.currency}, by prices of {plan.prices.date}; none where none is given"]
    if any(row.cost is not None for row in plan.cards):
        return ["cost by runtime.price_per_hour, the same for every card"]
    return []


_SMALLER = "a smaller model, where this is an XL one, or a card with more memory"
_ONCE = "preprocess on another card, or with runtime.device: cpu; the tensors serve every training"
_QUIET = "leave train.sample out, or make its sounds shorter; without memory for them, a run goes on alone"


def _fit(fit: Fit) -> str:
    limit = gigabytes(fit.limit)
    if fit.changes is None:
        way_on = _ONCE if fit.phase.startswith("pass ") else _SMALLER
        if fit.phase.startswith(SOUNDS):
            way_on = _QUIET
        if fit.alone is not None:
            how = "do, as they are" if not fit.alone else "do, with these changes"
            way_on = f"preprocess and train, as jobs of their own, {how}:" + _changes(fit.alone)
        return (
            f"It does not fit {limit}, whatever is changed here:\n"
            f"  {fit.phase} takes {gigabytes(fit.memory)} at least\n  {way_on}\n"
        )
    if not fit.changes:
        return f"It fits {limit} as it is.\n"
    taken = gigabytes(fit.memory)
    return f"It fits {limit} with these changes, and then takes {taken}:{_changes(fit.changes)}\n"


def _changes(changes: Sequence[Saving]) -> str:
    return "".join(f"\n  {change}\n      {change.price}" for change in changes)
