"""`samples.json`: what was made to be heard, with all that made it.

    {
      "format": 1,
      "variant": "acestep-v15-base",              the model's folder
      "weights": "<sha256>",                      of the model's weights, as the receipt has it
      "prompts": [
        {"caption": "…", "lyrics": "…",           as they were given to the model, with the trigger word
         "source": "training",                    training | held-out | trigger | given
         "song": "night drive.wav",               the song that it is of; "" where it is of none
         "language": "en", "bpm": 120, "keyscale": "C major", "timesignature": "4"}
      ],
      "takes": [
        {"file": "01-warm-summer-base-5f0c3a1e.flac",     beside this file: 48 kHz, stereo, 16 bits
         "prompt": 0,                             its number in `prompts`, from 0
         "strength": 0.0,                         of the adapter; 0 is the base model
         "checkpoint": null,                      adapter, checkpoint-epoch-10, …; null: the base model
         "adapter": null,                         sha256 of the adapter's files; null: the base model
         "seed": 42, "steps": 50, "guidance": 7.0, "shift": 1.0, "seconds": 30.0,
         "loudness": -14.2}                       integrated, in LUFS after BS.1770; -70 is silence
      ]
    }

Takes of one prompt, seed and settings begin with the same noise, so what they differ by is the adapter.
`bpm` is null, `keyscale` and `timesignature` are "" where the model is told nothing of them. Takes are sorted
by prompt, then the base model, then by checkpoint and strength. A file is written before its take is told of,
so every take here has its file. Nothing of time, host or path is in it.

Two takes are the same one where all but `file`, `adapter` and `loudness` is equal. If the adapter is another
by now, as its run has gone on, the new take replaces the old one.
"""

import json
import re
import unicodedata
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sidestep.data.dataset import INSTRUMENTAL, UNKNOWN_LANGUAGE
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadDataError, UsageError
from sidestep.runtime.parsing import parse_as
from sidestep.storage.store import Store

FILE = "samples.json"
FOLDER = "listen"
"""Below an output."""
WHILE_TRAINING = "samples"
"""The same for what a run makes while it trains. There, `adapter` is the sha256 of its weights alone."""
FORMAT = 1

Origin = Literal["training", "held-out", "trigger", "given"]

_SLUG_AT_MOST = 24
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,150}\.(?:flac|wav)")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Prompt(_Frozen):
    """What the model is asked for."""

    caption: str
    lyrics: str = INSTRUMENTAL
    source: Origin = "given"
    song: str = ""
    language: str = UNKNOWN_LANGUAGE
    bpm: int | None = None
    keyscale: str = ""
    timesignature: str = ""

    def says_as(self, other: "Prompt") -> bool:
        """Whether the model is asked for the same, wherever the two are from."""
        return self.asked() == other.asked()

    def asked(self) -> dict[str, Any]:
        """What the model hears of it."""
        return self.model_dump(exclude={"source", "song"})


class Take(_Frozen):
    """One sound, and how it was made."""

    file: Annotated[str, Field(pattern=_NAME.pattern)]
    prompt: Annotated[int, Field(ge=0)]
    strength: float
    checkpoint: str | None
    adapter: str | None
    seed: int
    steps: int
    guidance: float
    shift: float
    seconds: float
    loudness: float

    def place(self) -> tuple[Any, ...]:
        """What makes it this take, and no other."""
        checkpoint = self.checkpoint or ""
        settings = (self.seed, self.steps, self.guidance, self.shift, self.seconds)
        return (self.prompt, checkpoint, self.strength, *settings, self.file.rpartition(".")[2])

    def order(self) -> tuple[Any, ...]:
        """Sorts checkpoint-epoch-9 before checkpoint-epoch-10."""
        prompt, checkpoint, *others = self.place()
        parts = re.split(r"(\d+)", checkpoint)
        return (prompt, [int(part) if part.isdecimal() else part for part in parts], *others)


class Samples(BaseModel):
    """The content of samples.json."""

    model_config = ConfigDict(allow_inf_nan=False)

    format: Literal[1] = 1
    variant: str
    weights: str
    prompts: list[Prompt] = []
    takes: list[Take] = []

    @model_validator(mode="after")
    def _prompts_exist(self) -> "Samples":
        if any(take.prompt >= len(self.prompts) for take in self.takes):
            raise ValueError("a take is of a prompt that is not there")
        return self

    def number_of(self, prompt: Prompt) -> int:
        """The number of a prompt, which is added where it is new."""
        for number, known in enumerate(self.prompts):
            if known.says_as(prompt):
                return number
        self.prompts.append(prompt)
        return len(self.prompts) - 1

    def find(self, take: Take) -> Take | None:
        """The take in its place, of this adapter or an earlier one."""
        return next((known for known in self.takes if known.place() == take.place()), None)

    def put(self, take: Take) -> None:
        """Add a take, or put it in the place of an earlier one."""
        others = [known for known in self.takes if known.place() != take.place()]
        self.takes = sorted([*others, take], key=Take.order)

    def content(self) -> bytes:
        return json_bytes(self.model_dump(mode="json"))


def read_samples(store: Store) -> Samples | None:
    """The samples in a place; None where there are none. Raises BadDataError where the file is damaged."""
    if store.stat(FILE) is None:
        return None
    return parse_as(Samples, store.read_small(FILE), f"{store.place}/{FILE}")


def begin_samples(store: Store, variant: str, weights: str) -> Samples:
    """The samples in a place that are of this model, without takes whose file is gone; or new ones.

    Raises UsageError where there are those of another model, BadDataError where the file is damaged.
    """
    try:
        samples = read_samples(store)
    except BadDataError as error:
        raise BadDataError(
            f"{error}\n  delete it to make all samples anew, or name another --output"
        ) from error
    if samples is None:
        return Samples(variant=variant, weights=weights)
    if samples.weights != weights:
        raise UsageError(
            f"{store.place} holds samples of another model ({samples.variant}; now it is {variant}): they "
            "cannot be compared\n  name another place with --output"
        )
    there = {file.path for file in store.list_files()}
    samples.takes = [take for take in samples.takes if take.file in there]
    return samples


def file_name(prompt: Prompt, take: dict[str, Any], weights: str, kind: str) -> str:
    """`01-warm-summer-adapter-x0.5-5f0c3a1e.flac`: last comes a digest of all that the sound depends on.

    `take` holds the fields of a `Take` but file and loudness.
    """
    label = f"{_slug(take['checkpoint'])}-x{take['strength']:g}" if take["adapter"] else "base"
    depends_on = {**prompt.asked(), **take, "weights": weights, "kind": kind}
    del depends_on["prompt"], depends_on["checkpoint"]
    digest = sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:8]
    return f"{title_of(take['prompt'], prompt)}-{label}-{digest}.{kind}"


def title_of(number: int, prompt: Prompt) -> str:
    """`01-warm-summer`: what the takes of a prompt have in common."""
    slug = _slug(prompt.caption)[:_SLUG_AT_MOST].strip("-")
    return f"{number + 1:02}-{slug}" if slug else f"{number + 1:02}"


def picture_of(file: str) -> str:
    """What the mel spectrogram of a take's file is called, where there is one beside it."""
    return f"{file.rpartition('.')[0]}.png"


def _slug(text: str) -> str:
    """Plain letters, digits and hyphens of a text, for a file's name anywhere."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9.]+", "-", plain).strip("-.")
