"""A flow is a list of steps over one WizardState. Going back keeps what was answered."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidestep.wizard.ask import Back, ask
from sidestep.wizard.state import WizardState

Choices = Mapping[str, str]
"""What can be picked, with a word on each."""


@dataclass(frozen=True)
class Step:
    """One question, and whether it is asked at all after what was answered before."""

    ask: Callable[[WizardState], None]
    applies: Callable[[WizardState], bool] = lambda state: True


def word(
    question: str,
    default: str = "",
    choices: Choices | Callable[[WizardState], Choices] | None = None,
    applies: Callable[[WizardState], bool] = lambda state: True,
    **how: Any,
) -> Step:
    """A step whose answer is kept in `state.words` under its question; `how` is for `ask`."""

    def put(state: WizardState) -> None:
        offered = choices(state) if callable(choices) else choices
        before = state.words.get(question, default)
        state.words[question] = ask(
            question, before, choices=offered, problem=lambda text: None if text else "type an answer", **how
        )

    return Step(put, applies)


def walk(steps: Sequence[Step], state: WizardState, start: int = 0) -> None:
    """Ask them in order; Back asks the one before again, and leaves the flow at its first.

    From `start` on: what is before it counts as asked.
    """
    asked = [number for number in range(start) if steps[number].applies(state)]
    here = start
    while here < len(steps):
        if steps[here].applies(state):
            try:
                steps[here].ask(state)
                asked.append(here)
            except Back:
                if not asked:
                    raise
                here = asked.pop()
                continue
        here += 1
