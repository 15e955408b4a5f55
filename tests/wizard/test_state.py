"""What the answers come to, and the way back through a flow; both without a terminal."""

from functools import reduce

import pytest

from sidestep.config.fields import spec_fields
from sidestep.config.job import resolve
from sidestep.config.sources import Given
from sidestep.runtime.words import as_typed
from sidestep.wizard.ask import Back
from sidestep.wizard.flow import Step, walk
from sidestep.wizard.state import WizardState

RANK = ("train", "adapter", "rank")
SONGS, REPEATS = ("train", "validation", "songs"), ("train", "repeats")
TARGETS = ("train", "adapter", "target_modules")
EXTEND = ("train", "extend")


def test_the_flags_that_say_the_same() -> None:
    state = WizardState({RANK: "8", TARGETS: "q_proj v_proj", EXTEND: "false"}, preset="quick-test")
    assert state.flags() == [
        *("--preset", "quick-test", "--rank", "8"),
        *("--target-modules", "q_proj", "v_proj", "--no-extend"),
    ]


@pytest.mark.parametrize(
    ("path", "value", "text", "words"),
    [
        (SONGS, ["e", "Night Drive"], '["e", "Night Drive"]', ["e", "Night Drive"]),
        (SONGS, ["Stop,Go"], '["Stop,Go"]', ["Stop,Go"]),
        (SONGS, ["e", "[ab]*"], "e [ab]*", ["e", "[ab]*"]),
        (REPEATS, {"Night Drive": 2}, '{"Night Drive": 2}', ["Night Drive=2"]),
        (REPEATS, {"a": 2, "b=c": 3}, "a=2 b=c=3", ["a=2", "b=c=3"]),
    ],
)
def test_names_with_spaces_are_the_same_typed_and_as_flags(
    path: tuple[str, ...], value: object, text: str, words: list[str]
) -> None:
    """An earlier job's value is offered as one text, and handed on as flags."""
    assert as_typed(value) == text
    state = WizardState({path: text})
    assert state.flags() == [spec_fields()[path].flags[0], *words]
    meant = reduce(getattr, path, state.spec())
    assert (list(meant) if path == SONGS else meant) == value
    assert reduce(getattr, path, resolve([Given(path, words, "--flag")], needs_places=False)[0]) == meant


def test_what_a_field_would_be_is_told_without_its_own_answer() -> None:
    state = WizardState({RANK: "8"})
    assert state.otherwise(RANK) == "64"
    assert state.otherwise(("train", "adapter", "alpha")) == "16"  # by the other answers
    state.preset = "quick-test"
    assert state.otherwise(RANK) == "16"
    assert state.spec().train.adapter.rank == 8


def test_what_is_wrong_with_an_answer() -> None:
    field = spec_fields()[RANK]
    state = WizardState({RANK: "0"})
    assert state.problem(field, "4") is None
    assert state.problem(field, "") is None
    assert "4096" in str(state.problem(field, "5000"))


def test_back_leads_to_the_question_before_not_to_one_that_was_left_out() -> None:
    asked: list[str] = []

    def step(name: str, *, goes_back: bool = False, applies: bool = True) -> Step:
        def ask(state: WizardState) -> None:
            asked.append(name)
            if goes_back and asked.count(name) == 1:
                raise Back

        return Step(ask, lambda state: applies)

    walk([step("first"), step("left out", applies=False), step("last", goes_back=True)], WizardState())
    assert asked == ["first", "last", "first", "last"]


def test_back_from_the_first_question_leaves_the_flow() -> None:
    def leave(state: WizardState) -> None:
        raise Back

    with pytest.raises(Back):
        walk([Step(leave)], WizardState())


def test_a_flow_may_begin_at_its_end_with_the_way_back_open() -> None:
    asked: list[str] = []

    def step(name: str, *, applies: bool = True) -> Step:
        def ask(state: WizardState) -> None:
            asked.append(name)
            if asked == ["last"]:
                raise Back

        return Step(ask, lambda state: applies)

    walk([step("first"), step("left out", applies=False), step("last")], WizardState(), start=2)
    assert asked == ["last", "first", "last"]
