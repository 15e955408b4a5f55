"""An interrupted run goes on: it is picked from a list, and its settings are read from its output."""

from functools import reduce

from sidestep.config.fields import spec_fields
from sidestep.config.job import JobSpec, resolve
from sidestep.config.yaml12 import parse_yaml
from sidestep.lifecycle.output import SPEC
from sidestep.lifecycle.status import Status
from sidestep.runtime.errors import BadSpecError, MissingInputError
from sidestep.runtime.words import as_typed
from sidestep.storage.open import open_store
from sidestep.wizard.job import Run, set_up
from sidestep.wizard.questions import QUESTIONS
from sidestep.wizard.runs import known_runs, pick_run
from sidestep.wizard.settings import load_settings
from sidestep.wizard.state import Answers, WizardState


def resume(run: Run) -> None:
    """Pick a run and continue it; its settings are shown first, and can be changed.

    Raises Back, MissingInputError where it has not kept its settings yet, and what reading them raises.
    """
    settings, storage = load_settings(), resolve(needs_places=False)[0].storage
    output, status = pick_run(known_runs(settings, storage), storage, settings.output_dir, is_unfinished)
    assert isinstance(status, Status)
    store = open_store(output, storage)
    if not store.stat(SPEC):
        raise MissingInputError(
            f"{output} has no {SPEC} yet: the run was interrupted before it had kept its settings. Set it up "
            "again with the same output, and it goes on from what is there."
        )
    values, _ = parse_yaml(store.read_small(SPEC), f"{output}/{SPEC}")
    spec = resolve(arguments={**values, "output_dir": output}, needs_places=False)[0]
    if status.last_commit:  # it goes on from there, not from where it once began
        spec = spec.changed({"train.resume_from": None, "train.new_attempt": False})
    answers = answers_that_make(spec)
    is_advanced = any(".".join(path) not in QUESTIONS[spec.task] for path in answers)
    set_up(spec.task, WizardState(answers, is_advanced=is_advanced), run, is_known=True)


def is_unfinished(run: Status | str) -> bool:
    """Whether there is something to go on with: not after its end, nor for tasks that begin anew anyway."""
    return isinstance(run, Status) and run.state != "done" and run.task in ("train", "pipeline")


def answers_that_make(spec: JobSpec) -> Answers:
    """The fewest answers that make `spec`, here and now: under these variables.

    Raises BadSpecError where answers cannot say it.
    """
    state = WizardState()
    while True:
        now = state.spec()
        differing = {
            path: as_typed(value) or "null"
            for path in spec_fields()
            if path != ("task",) and (value := _at(path, spec)) != _at(path, now)
        }
        if not differing:
            return state.answers
        if differing.keys() <= state.answers.keys():
            names = ", ".join(".".join(path) for path in differing)
            raise BadSpecError(
                f"{names}: the run's settings cannot be given as flags; use --config with its {SPEC}"
            )
        state.answers |= differing


def _at(path: tuple[str, ...], spec: JobSpec) -> object:
    return reduce(getattr, path, spec)
