"""The dataset JSON: its three forms, its fields, and every problem in it at once."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from sidestep.config.training import LEAST_WEIGHT, MOST_REPEATS, MOST_WEIGHT
from sidestep.data.aliases import by_field, field_of, known, short
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.parsing import parse_json

TagPosition = Literal["prepend", "append", "replace"]

# Written by the ACE-Step app into its datasets, and of no use here: durations are measured, and an app's
# drafts of the lyrics are not the lyrics.
_OF_THE_APP = {"id", "filename", "duration", "labeled", "raw_lyrics", "formatted_lyrics"}


def _text(value: Any) -> Any:
    return "" if known(value) is None else value


def _utf8(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can write these; neither a tokenizer nor a file name can
        raise ValueError("contains half a surrogate pair, which is not a character") from None
    return value


def _whole_number(value: Any) -> int | None:
    given = known(value)
    if given is None:
        return None
    if not isinstance(given, bool):  # to Python, true is the number 1
        with suppress(TypeError, ValueError, OverflowError):
            return round(float(given))
    raise ValueError("should be a number")


def _bpm(value: Any) -> int | None:
    return _whole_number(value) or None


def _repeats(value: Any) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError("should be a whole number")
    given = known(value)
    if isinstance(given, str):
        try:
            return int(given)
        except ValueError:
            raise ValueError("should be a whole number") from None
    return 1 if given is None else _whole_number(given) or 0


def _weight(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return 1.0 if known(value) is None else value


def _percent(value: Any) -> int:
    if isinstance(value, float) and 0 < value < 1:
        raise ValueError(f"is in percent: write {value * 100:g} for this share")
    return _whole_number(value) or 0


Text = Annotated[str, BeforeValidator(_text), AfterValidator(_utf8)]


class _Fields(BaseModel):
    """Lenient as datasets in the wild need it: numbers as text, text as numbers, fields of other tools."""

    model_config = ConfigDict(extra="ignore", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False)


class Entry(_Fields):
    """One sample of a dataset: a song's path and metadata. 0 bpm means that nobody knows."""

    # Upstream Side-Step reads `filename` where there is no path.
    audio_path: Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$"), AfterValidator(_utf8)] = Field(
        validation_alias=AliasChoices("audio_path", "filename")
    )
    caption: Text = ""
    lyrics: Text = ""
    genre: Text = ""
    bpm: Annotated[int | None, Field(ge=1, le=1000), BeforeValidator(_bpm)] = None
    keyscale: Text = ""
    timesignature: Text = ""
    language: Text = ""
    is_instrumental: Annotated[bool | None, BeforeValidator(known)] = None
    custom_tag: Text = ""
    prompt_override: Annotated[Literal["caption", "genre"] | None, BeforeValidator(known)] = None
    repeats: Annotated[int, Field(ge=1, le=MOST_REPEATS), BeforeValidator(_repeats)] = 1
    weight: Annotated[float, Field(ge=LEAST_WEIGHT, le=MOST_WEIGHT), BeforeValidator(_weight)] = 1.0


class Metadata(_Fields):
    """Settings for all samples. `genre_ratio` percent of them are prompted by genre, not by caption."""

    custom_tag: Text = ""
    tag_position: Annotated[TagPosition, BeforeValidator(lambda value: known(value) or "prepend")] = "prepend"
    genre_ratio: Annotated[int, Field(ge=0, le=100), BeforeValidator(_percent)] = 0
    all_instrumental: bool = False


@dataclass(frozen=True)
class Dataset:
    """A dataset JSON as read: `entries` by their number in the file, counted from 1."""

    metadata: Metadata
    entries: dict[int, Entry]
    problems: list[str]
    unused_fields: set[str]


def read_dataset(content: bytes, place: str) -> Dataset:
    """Parse a dataset JSON: a list of samples, {"samples"}, or {"metadata", "samples"}.

    What is wrong with single fields is in `problems`, for the caller to report with what else he finds.
    Raises BadDataError where it is no dataset at all.
    """
    raw_metadata, samples = _parts(content, place)
    problems: list[str] = []
    metadata = validated(Metadata, raw_metadata, "metadata", problems) or Metadata()
    entries: dict[int, Entry] = {}
    fields: set[str] = set()
    for number, sample in enumerate(samples, start=1):
        if entry := validated(Entry, sample, f"sample {number}", problems):
            entries[number] = entry
        if isinstance(sample, dict):
            fields |= set(map(field_of, sample))
    return Dataset(metadata, entries, problems, fields - _OF_THE_APP - set(Entry.model_fields))


def _parts(content: bytes, place: str) -> tuple[Any, list[Any]]:
    data = parse_json(content, place, only_depth=True)  # single values are named with their sample
    metadata, samples = None, data
    if isinstance(data, dict):
        metadata, samples = data.get("metadata"), data.get("samples")
    if not isinstance(samples, list) or not samples:
        raise BadDataError(
            f"{place} is not a dataset: it has no samples\n"
            '  allowed are a list of samples, {"samples": [...]} and {"metadata": {...}, "samples": [...]},'
            ' each sample an object with an "audio_path"'
        )
    return {} if metadata is None else metadata, samples


Model = TypeVar("Model", bound=_Fields)

_WORDS = {  # pydantic's kind of fault → what to say, where its own words are a programmer's
    "missing": "is missing",
    "string_pattern_mismatch": "holds a null character",
    "string_unicode": "contains half a surrogate pair, which is not a character",
    "string_too_short": "is empty",
}


def validated(model: type[Model], value: Any, where: str, problems: list[str]) -> Model | None:
    """`value` as a `model`; or None, with all that is wrong with it added to `problems`."""
    if not isinstance(value, dict):
        problems.append(f"{where}: should be an object with fields, not {short(value)}")
        return None
    value = by_field(value.items(), where, problems)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            said = _WORDS.get(fault["type"], fault["msg"].removeprefix("Value error, "))
            got = "" if fault["type"] in _WORDS else f", not {short(fault['input'])}"
            problems.append(f"{where}, {fault['loc'][0]}: {said}{got}")
        return None
