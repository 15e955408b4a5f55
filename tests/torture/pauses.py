"""A writer is paused (SIGSTOP), another one takes over and goes on, the first one wakes (SIGCONT)."""

import os
import random
import signal
from typing import Any

from tests.torture.field import CELLS, Attempt, Field, same, store_of
from tests.torture.outcome import check_log, read_outcome, read_records
from tests.torture.points import POINTS
from tests.torture.tally import Tally

STEPS = 8
TRIES = 4


def pause(field: Field, cell: str, rng: random.Random, tally: Tally) -> None:
    """One run with a pause at a random moment; `cell` says where its output is.

    The paused writer wakes while the other one works, or after its end. It must end with 73, and may end
    with 0 where the run is done by then; of what the other one made nothing may be missing after that.
    """

    def spec_of(output: str) -> dict[str, Any]:
        return field.spec(output, CELLS["lora-adamw"] | {"max_steps": STEPS})

    reference = field.reference(spec_of)
    spec = spec_of(field.new_output(cell))
    name = rng.choice(sorted(POINTS))
    paused = field.start(spec, name, rng.randint(1, POINTS[name].most), signal.SIGSTOP)
    paused.wait_until(lambda: paused.is_stopped or paused.is_gone)
    if paused.is_gone:  # that call never came
        assert paused.end() == 0, paused.said
        tally.came_to["no pause"] += 1
        return
    tally.done[name] += 1
    other, wakes_at = field.start(spec), rng.choice([*range(1, STEPS), None])
    other.wait_until(lambda: other.is_gone or (wakes_at is not None and other.steps[-1:] >= [wakes_at]))
    os.kill(paused.pid, signal.SIGCONT)
    ends = [_end(paused, spec), _end(other, spec)]
    check_log(store_of(spec))
    for _ in range(TRIES):
        if 0 in ends:
            break
        ends.append(_end(field.start(spec), spec))
    assert 0 in ends, f"{name}: nobody finished, {ends}"
    check_log(store_of(spec))
    same(read_outcome(store_of(spec)), reference.outcome)
    tally.came_to["the same bytes"] += 1


def _end(attempt: Attempt, spec: dict[str, Any]) -> int:
    code = attempt.end()
    assert code in (0, 73), f"exit code {code}: {attempt.said}"
    assert code == 73 or read_records(store_of(spec))[-1]["kind"] == "done", attempt.said
    return code
