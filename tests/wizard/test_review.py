"""A job in a few lines."""

import re
from typing import Any

from sidestep.config.job import JobSpec, resolve
from sidestep.config.sources import Given
from sidestep.wizard.review import review


def spec(*given: Given, **how: Any) -> tuple[JobSpec, dict[str, str]]:
    return resolve(flags=[Given(("output_dir",), "out", "answer"), *given], needs_places=False, **how)


def rows(task: str, made: tuple[JobSpec, dict[str, str]], width: int = 80) -> dict[str, str]:
    lines = review(task, *made, width).split("\n")
    assert max(map(len, lines)) <= width
    return dict(re.split(" {2,}", line.strip(), maxsplit=1) for line in lines[2:])


def test_what_is_asked_is_shown_and_what_is_not_as_usual() -> None:
    shown = rows("train", spec(Given(("train", "checkpoint", "keep"), "5", "answer")), width=90)
    assert set(shown) >= {"Models", "Model", "Output", "Adapter", "Rank", "Epochs", "Optimizer"}
    assert "Tensors" not in shown  # none is named
    assert "Weight decay" not in shown
    assert shown["Checkpoints to keep"] == "5"


def test_what_nobody_typed_says_where_it_is_from() -> None:
    text = review("train", *spec(environ={"SIDESTEP_TRAIN__SEED": "7"}, preset="quick-test"), 100)
    assert "7  (SIDESTEP_TRAIN__SEED)" in text
    assert "16  (preset quick-test)" in text
    assert "(answer)" not in text and "(default)" not in text


def test_yes_and_no_and_long_lists() -> None:
    targets = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
    made = spec(
        Given(("train", "gradient_checkpointing"), "false", "answer"),
        Given(("train", "adapter", "target_modules"), targets, "answer"),
    )
    text = review("train", *made, 60)
    assert "Gradient checkpointing  no" in text
    assert targets in " ".join(text.split())
    assert max(map(len, text.split("\n"))) <= 60
