"""The plan of a sweep: that of each run, of what they share, and the sums of their time and cost."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sidestep.planning.figures import gigabytes
from sidestep.planning.plan import CardEstimate, Plan
from sidestep.planning.report import as_data, cards_in_lines
from sidestep.runtime.words import counted


@dataclass(frozen=True)
class SweepPlan:
    """`runs` are the plans of the runs by name, `shared` those of what is made once for all of them."""

    runs: Mapping[str, Plan]
    shared: Mapping[str, Plan]

    @property
    def largest(self) -> Plan:
        """The run that takes the most memory."""
        return max(self.runs.values(), key=lambda plan: plan.largest.memory["total"].value)

    @property
    def cards(self) -> list[CardEstimate]:
        """Of each card that all of it can run on: the time and cost of everything, the memory of the most."""
        plans = [*self.shared.values(), *self.runs.values()]
        rows = [{row.card.name: row for row in plan.cards} for plan in plans]
        return [_summed([row[name] for row in rows]) for name in rows[-1] if all(name in row for row in rows)]


def head_as_text(sweep: SweepPlan) -> str:
    """Of which run the plan is that follows, and why of that one."""
    name = next(name for name, plan in sweep.runs.items() if plan is sweep.largest)
    return (
        f"Of the sweep's {counted(len(sweep.runs), 'runs')}, this is the first that takes the most memory:\n"
        f"  {name}\nWhat all of them come to stands at the end.\n"
    )


def _summed(rows: list[CardEstimate]) -> CardEstimate:
    costs = [row.cost for row in rows]
    return CardEstimate(
        card=rows[-1].card,
        precision=rows[-1].precision,
        memory=max(row.memory for row in rows),
        seconds=sum(row.seconds for row in rows),
        cost=None if None in costs else sum(cost for cost in costs if cost is not None),
    )


def sweep_as_text(sweep: SweepPlan) -> str:
    """What a sweep comes to, below the plan of its largest run."""
    width = max(map(len, [*sweep.runs, *sweep.shared]))
    lines = [f"The sweep: {counted(len(sweep.runs), 'runs')}"]
    lines += [f"  {name:{width}}  {_in_words(plan)}, once for all" for name, plan in sweep.shared.items()]
    lines += [f"  {name:{width}}  {_in_words(plan)}" for name, plan in sweep.runs.items()]
    lines += ["", "The sweep by card: all of that, one after the other or side by side"]
    lines += cards_in_lines(sweep.cards)
    return "\n".join(lines) + "\n"


def _in_words(plan: Plan) -> str:
    steps = f"{plan.job['steps'].value:,.0f} steps, " if "steps" in plan.job else ""
    compute = sum(phase.flops for phase in plan.phases) / 1e12
    return f"{steps}{gigabytes(plan.largest.memory['total'].value)}, {compute:,.0f} TFLOP"


def sweep_as_data(sweep: SweepPlan) -> dict[str, Any]:
    """The same for JSON, with the whole plan of each run."""
    return {
        "runs": {name: as_data(plan) for name, plan in sweep.runs.items()},
        "shared": {name: as_data(plan) for name, plan in sweep.shared.items()},
        "cards": [
            {
                **{key: value for key, value in asdict(row).items() if key != "card"},
                "name": row.card.name,
                "fits": row.fits,
            }
            for row in sweep.cards
        ],
    }
