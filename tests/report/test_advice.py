"""Which checkpoint the page names, by what the held-out songs say."""

from typing import Any

import pytest

from sidestep.report.advice import advice_of
from sidestep.report.contents import Published, Validation


def at(step: int, held_out: float | None, trained: float, name: str | None = None) -> dict[str, Any]:
    folder = f"checkpoints/{name}" if name else None
    losses = {"held_out": held_out, "trained": trained, "smoothed": held_out if step else None}
    return {"step": step, **losses, "checkpoint": folder}


def gained(mean: float, error: float) -> dict[str, float]:
    return {"mean": mean, "standard_error": error}


def found(**changes: Any) -> Validation:
    """An overfit: the best after step 40, of 100."""
    return Validation.model_validate(
        {
            "songs_held_out": 6,
            "songs_trained": 6,
            "draws": 16,
            "window": 3,
            "first": at(0, 1.0, 1.0),
            "best": at(40, 0.8, 0.7, "checkpoint-epoch-40.g2"),
            "last": at(100, 0.9, 0.4, "checkpoint-epoch-100"),
            "gain": gained(-0.2, 0.05),
            "after_best": gained(0.1, 0.02),
            **changes,
        }
    )


LAST = at(100, 0.8, 0.4, "checkpoint-epoch-100")


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({}, ["Use checkpoint-epoch-40", "memorizes", "0.2000 lower", "0.0500"], ["not kept"]),
        ({"after_best": gained(0.1, 0.06)}, ["Use checkpoint-epoch-40"], ["memorizes"]),  # it may be chance
        ({"after_best": None}, ["Use checkpoint-epoch-40"], ["memorizes"]),
        ({"last": at(100, 0.9, 0.75)}, ["Use checkpoint-epoch-40"], ["memorizes"]),  # it has forgotten both
        ({"best": at(40, 0.8, 0.7)}, ["step 40", "train.best", "not kept"], []),
        (
            {"best": LAST, "last": LAST, "after_best": gained(0, 0)},
            ["last", "-100", "more epochs"],
            ["memorizes"],
        ),
        (
            {"gain": gained(-0.2, 0.11)},
            ["may be chance", "checkpoint-epoch-40", "0.1100"],
            ["Use checkpoint"],
        ),
        ({"gain": gained(-0.2, 0.0999)}, ["Use checkpoint-epoch-40"], ["may be chance"]),
        ({"best": at(40, 1.01, 0.7, "a"), "gain": gained(0.01, 0.001)}, ["none", "0.0100 higher"], ["Use a"]),
        ({"best": None, "gain": None}, ["none", "finite", "learning rate"], ["Use checkpoint"]),
        ({"songs_held_out": 2, "gain": None}, ["Use checkpoint-epoch-40", "2 songs", "ears"], []),
        ({"gain": None}, ["Use checkpoint-epoch-40", "cannot be said"], ["ears"]),
    ],
)
def test_what_is_said(changes: dict[str, Any], said: list[str], unsaid: list[str]) -> None:
    advice = advice_of(found(**changes))
    text = " ".join([advice.headline, *advice.remarks])
    assert [fact for fact in said if fact not in text] == []
    assert [fact for fact in unsaid if fact in text] == []


@pytest.mark.parametrize(
    ("step", "said"),
    [(40, "adapter/ has it"), (100, "--checkpoint checkpoint-epoch-40.g2"), (None, "sidestep publish")],
)
def test_where_the_best_is(step: int | None, said: str) -> None:
    published = None if step is None else Published(folder="checkpoints/any", step=step)
    assert said in " ".join(advice_of(found(), published).remarks)
