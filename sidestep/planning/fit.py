"""The cheapest changes that make a job fit a GPU's memory."""

from collections.abc import Callable, Sequence

from sidestep.config.job import JobSpec
from sidestep.training.savings import Saving, savings


def changes_to_fit(
    spec: JobSpec, longest: float, memory: Callable[[JobSpec], float], limit: float
) -> tuple[list[Saving] | None, float]:
    """The changes after which `memory` of the spec is within `limit`, and what it is then, both in bytes.

    They are tried from the cheapest on until the job fits; then those that it fits without are taken back,
    from the dearest on. None where all together do not suffice. `longest` is the longest song in seconds.
    """
    # A plan is of one model: another one has other tensors, too.
    ladder = [saving for saving in savings(spec, longest) if saving.setting != "model_variant"]
    chosen: list[Saving] = []
    while (needed := memory(changed(spec, chosen))) > limit:
        if len(chosen) == len(ladder):
            return None, needed
        chosen.append(ladder[len(chosen)])
    for change in reversed(chosen[:-1]):
        without = [other for other in chosen if other is not change]
        if (then := memory(changed(spec, without))) <= limit:
            chosen, needed = without, then
    return chosen, needed


def changed(spec: JobSpec, changes: Sequence[Saving]) -> JobSpec:
    """`spec` with the settings of `changes`, checked as if it had been written so."""
    return spec.changed({name: value for change in changes for name, value in change.settings.items()})
