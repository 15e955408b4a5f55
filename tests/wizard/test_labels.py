"""What a person reads is words: every field of the spec has a name of its own that is not its key."""

import pytest

from sidestep.config.fields import SpecField, spec_fields
from sidestep.config.groups import GROUPS
from sidestep.wizard.labels import label, question, word_on
from sidestep.wizard.questions import QUESTIONS


@pytest.mark.parametrize("task", QUESTIONS)
def test_no_two_settings_of_a_task_are_called_the_same(task: str) -> None:
    names = {*QUESTIONS[task], *(".".join(path) for group in GROUPS for path in group.paths)}
    labels = [label(name) for name in names]
    assert sorted(labels) == sorted(set(labels))


@pytest.mark.parametrize("field", spec_fields().values(), ids=lambda field: field.name)
def test_a_label_is_words(field: SpecField) -> None:
    name = label(field.name)
    assert name[0].isupper() and not set("_.:") & set(name)


def test_a_question_says_what_it_is_about_before_its_label() -> None:
    assert (
        question("train.lr", "Peak learning rate.", " (note)")
        == "\nPeak learning rate. (note)\nLearning rate:"
    )
    assert question("preset").endswith("\nPreset:")
    optimizer = spec_fields()["train", "optimizer_type"]
    assert "bitsandbytes" in word_on(optimizer, "adamw8bit")
    assert word_on(optimizer, "adamw") == ""
