"""What an adapter says of itself in the headers of its files: what it is, what for, and how it was trained.

A run settles all of it but its progress before the first step, and keeps it in its checkpoints. So whoever
goes on with it says the same, and the adapter's bytes are those of an uninterrupted run. It holds nothing of
the time, the machine, or a place.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sidestep.runtime.parsing import Amount, Count, Number, parse_as

HEADER = "sidestep_card"
"""What an adapter's files call it in their headers."""

_LAYER = re.compile(r"^.*?layers[._]\d+[._]")
_TEXT_AT_MOST = 2000  # characters of a name or a trigger word
_Text = Annotated[str, Field(max_length=_TEXT_AT_MOST)]

Position = Literal["prepend", "append", "replace"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Trigger(_Frozen):
    """A trigger word, where it stands in the captions (None: not known), and in how many songs' captions."""

    word: _Text
    position: Position | None
    songs: Count


class HeldOutLoss(_Frozen):
    """The loss on held-out songs before the first step, and after the one that is named."""

    step: Count
    before: Number | None
    loss: Number | None


class Generating(_Frozen):
    """What to generate with. None is not known."""

    steps: Count | None = None
    guidance: Amount | None = None
    shift: Amount | None = None
    strength: Amount = 1.0


class Part(_Frozen):
    """An adapter that this one was made of, by its digest."""

    sha256: _Text
    weight: Number


class Facts(_Frozen):
    """What is known of an adapter. None is not known."""

    format: Literal[1] = 1
    kind: Literal["lora", "lokr"]
    weight_decompose: bool = False  # of a LoRA: it is a DoRA
    variant: _Text | None = None  # such as base; of a fine-tune the name of its folder
    base_model: _Text | None = None  # what a fine-tune was made from
    rank: Annotated[int, Field(ge=1)]
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = {}  # of modules that have another one
    modules: tuple[_Text, ...]  # such as self_attn.q_proj
    module_count: Count  # in all layers
    triggers: tuple[Trigger, ...] = ()
    steps: Count | None = None
    songs: Count | None = None  # that it was trained on
    songs_held_out: Count | None = None
    hours: Amount | None = None  # of the songs that it was trained on
    held_out: HeldOutLoss | None = None
    generating: Generating = Generating()
    license: _Text | None = None  # None: unspecified
    made_of: tuple[Part, ...] = ()  # where it was not trained, but made of others

    def as_metadata(self) -> dict[str, str]:
        """For the header of an adapter's file; see `facts_in`."""
        content = self.model_dump(mode="json", exclude_defaults=True) | {"format": self.format}
        return {HEADER: json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)}


def facts_in(metadata: Mapping[str, str], name: str) -> Facts | None:
    """The facts in the header of an adapter's file; None where it has none.

    Raises BadDataError, which names the file, where they cannot be read.
    """
    text = metadata.get(HEADER)
    return None if text is None else parse_as(Facts, text.encode(), f"{name}, {HEADER} in its header")


def triggers_of(songs: Iterable[tuple[str, str]]) -> tuple[Trigger, ...]:
    """The trigger words of songs, each given as its word ("": none) and its caption as prompts have it.

    The commonest is the first.
    """
    found: dict[tuple[str, Position | None], int] = {}
    for word, caption in songs:
        if word:
            text = word.encode(errors="replace").decode()[:_TEXT_AT_MOST]  # of another trainer's files
            key = (text, position_of(word, caption))
            found[key] = found.get(key, 0) + 1
    order = sorted(found.items(), key=lambda item: (-item[1], item[0][0], item[0][1] or ""))
    return tuple(Trigger(word=word, position=position, songs=songs) for (word, position), songs in order)


def position_of(word: str, caption: str) -> Position | None:
    """Where a trigger word stands in a caption; None where the caption does not have it at either end."""
    if caption == word:
        return "replace"
    if caption.startswith(f"{word}, "):
        return "prepend"
    return "append" if caption.endswith(f", {word}") else None


def kinds_of(paths: Iterable[str]) -> tuple[str, ...]:
    """Modules without the numbers of their layers: `layers.3.self_attn.q_proj` → `self_attn.q_proj`."""
    return tuple(sorted({_LAYER.sub("", path) for path in paths}))


def joined(parts: Iterable[tuple[Facts, Part]]) -> dict[str, object]:
    """What is known of an adapter that is made of others, but for its own shape: what they have in common.

    Steps, songs and losses are of a training, and a sum has none.
    """
    all_parts = [(facts, part) for facts, part in parts]
    known = [facts for facts, _ in all_parts]
    first = known[0]
    words: dict[tuple[str, Position | None], int] = {}
    for facts in known:
        for each in facts.triggers:
            words[each.word, each.position] = words.get((each.word, each.position), 0) + each.songs
    alone = len(known) == 1
    same = {
        name: getattr(first, name)
        for name in ("variant", "base_model", "license", "generating")
        if all(getattr(facts, name) == getattr(first, name) for facts in known)
    }
    trained = {name: getattr(first, name) for name in ("steps", "songs", "songs_held_out", "hours")}
    return {
        **same,
        **(trained if alone else {}),
        "triggers": tuple(
            Trigger(word=word, position=position, songs=songs) for (word, position), songs in words.items()
        ),
        "made_of": tuple(part for _, part in all_parts),
    }
