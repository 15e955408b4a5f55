"""What the wizard was told so far, and what the job's spec is by that."""

from dataclasses import dataclass, field
from functools import reduce

from sidestep.config.fields import FieldPath, SpecField, spec_fields
from sidestep.config.job import JobSpec, problem_with, resolve
from sidestep.config.section import split_names, split_pairs
from sidestep.config.sources import Given, from_text
from sidestep.runtime.words import as_typed

Answers = dict[FieldPath, str]


@dataclass
class WizardState:
    """The answers of one flow.

    Attributes:
        answers: what was said of the spec, by field, as a flag would say it; not what would be so anyway.
        typed: what was typed, by field, also where that would be so anyway.
        words: the answers that are not of the spec, by question.
        preset: the preset to begin with.
        is_advanced: whether every setting is asked for.
        exit_code: of the job, once it was run.
    """

    answers: Answers = field(default_factory=dict)
    typed: Answers = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    preset: str | None = None
    is_advanced: bool = False
    exit_code: int | None = None

    @property
    def adapter_type(self) -> str:
        return self.answers.get(("train", "adapter", "type"), "lora")

    def given(self, but: FieldPath = ()) -> list[Given]:
        """The answers as flags would give them, but for the one about the field `but`."""
        return [
            Given(path, from_text(spec_fields()[path], text), "answer")
            for path, text in self.answers.items()
            if path != but
        ]

    def spec(self, but: FieldPath = ()) -> JobSpec:
        """The spec as far as it is known, without the answer about the field `but`.

        Raises BadSpecError where the environment or the preset spoils it.
        """
        return resolve(flags=self.given(but), preset=self.preset, needs_places=False)[0]

    def otherwise(self, path: FieldPath) -> str:
        """What the field would be if nobody answered, by the other answers, the variables, the preset."""
        if path == ("output_dir",):
            return ""  # always said, as a run is remembered by it
        return as_typed(reduce(getattr, path, self.spec(but=path)))

    def problem(self, field: SpecField, text: str) -> str | None:
        """What is wrong with `text` as an answer; None where it is fine, or empty: then it is left open."""
        if not text:
            return None
        answer = Given(field.path, from_text(field, text), "answer")
        return problem_with([*self.given(but=field.path), answer], field.path)

    def flags(self) -> list[str]:
        """The words that say the same to a command."""
        words = ["--preset", self.preset] if self.preset else []
        for path, text in self.answers.items():
            field = spec_fields()[path]
            flag = field.flags[0]
            if "boolean" in field.types:
                words.append(flag if text == "true" else flag.replace("--", "--no-", 1))
            else:
                words += [flag, *(_words(text) if field.types & {"array", "object"} else [text])]
        return words


def _words(text: str) -> list[str]:
    """A list or mapping, typed as one text, as the words of a flag."""
    pairs = split_pairs(text)
    return (
        [f"{key}={number}" for key, number in pairs.items()] if isinstance(pairs, dict) else split_names(text)
    )
