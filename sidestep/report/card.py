"""card.json and README.md: what an adapter is, and how to use it, for a program and for a person.

Both are made from the facts in the adapter's header, from what the run's receipt adds, and from nothing else:
the same facts are the same bytes. No setting gets into them that is not named here.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sidestep.config.adapter import title_of
from sidestep.data.card import Facts, Generating, Trigger
from sidestep.report.readers import Readers
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.words import as_typed, counted, some

CARD, README = "card.json", "README.md"
FILES = (CARD, README)
UNSPECIFIED = "unspecified"
REPOSITORIES = {
    "turbo": "ACE-Step/Ace-Step1.5",
    **{name: f"ACE-Step/acestep-v15-{name}" for name in ("base", "sft", "xl-turbo", "xl-base", "xl-sft")},
}
"""Where the released models are on the Hugging Face Hub."""

_XL = frozenset(name for name in REPOSITORIES if name.startswith("xl-"))
_NO_TIMBRE = "# of XL, diffusers leaves out a token of timbre: the music is another one than the app's"

_SHOWN = 3  # trigger words that are spelt out in a sentence
EXAMPLE = "a caption of your own"


@dataclass(frozen=True)
class Card:
    """All that a card says.

    Attributes:
        name: of the run; "" where it is not known.
        files: the names of the adapter's own files, beside the card.
        readers: which programs can load it.
        samples: paths of sound that it has made, beside the card.
    """

    name: str
    facts: Facts
    files: Collection[str]
    readers: Readers
    samples: Sequence[str] = ()

    @property
    def base(self) -> str | None:
        """The released model that it is for, or that its model was made from."""
        known = (self.facts.variant, self.facts.base_model)
        return next((name for name in known if name in REPOSITORIES), None)


def card_bytes(card: Card) -> bytes:
    """The content of card.json. What is not known is null."""
    facts = card.facts.model_dump(mode="json")
    return json_bytes(
        {
            **{
                key: value
                for key, value in facts.items()
                if key not in ("generating", "variant", "base_model")
            },
            "name": card.name or None,
            "base": {
                "variant": card.facts.variant,
                "made_from": card.facts.base_model,
                "repository": REPOSITORIES[card.base] if card.base else None,
            },
            "suggested": facts["generating"],
            "thinking": "off" if card.facts.triggers else None,
            "license": card.facts.license or UNSPECIFIED,
            "files": sorted(card.files),
            "samples": list(card.samples),
            "use": dict(_uses(card)),
        }
    )


def readme_bytes(card: Card) -> bytes:
    """The content of README.md: front matter for the Hugging Face Hub, then the page."""
    lines = ["---", *_yaml(front_matter(card)), "---", "", *_page(card)]
    return ("\n".join(lines).rstrip("\n") + "\n").encode()


def front_matter(card: Card) -> dict[str, str | list[str]]:
    """What the Hub reads of a README. It refuses null, so what is not known is not there."""
    facts = card.facts
    found: dict[str, str | list[str]] = {
        "library_name": card.readers.library,
        "pipeline_tag": "text-to-audio",
        "tags": ["ace-step", "ace-step-1.5", facts.kind, "music", "text-to-music"],
    }
    if facts.license:
        found["license"] = facts.license
    if card.base:
        found["base_model"] = REPOSITORIES[card.base]
        found["base_model_relation"] = "adapter"
    if facts.triggers:
        found["instance_prompt"] = _plain(facts.triggers[0].word)
    return found


def _yaml(values: Mapping[str, str | list[str]]) -> Iterator[str]:
    """Quoted as JSON does it, which every YAML reads alike: `no` and `1e-4` are words to some of them."""
    for key, value in values.items():
        yield f"{key}:" if isinstance(value, list) else f"{key}: {json.dumps(value, ensure_ascii=False)}"
        yield from (f"- {json.dumps(item)}" for item in value) if isinstance(value, list) else ()


def _page(card: Card) -> Iterator[str]:
    facts = card.facts
    kind = title_of(facts.kind, weight_decompose=facts.weight_decompose)
    model = f"ACE-Step 1.5 {facts.variant}" if facts.variant in REPOSITORIES else "ACE-Step 1.5"
    yield f"# {card.name or f'A {kind} for {model}'}"
    yield ""
    yield f"A {kind} adapter for [{model}](https://github.com/ace-step/ACE-Step-1.5), trained with Side-Step."
    yield ""
    yield "| | |"
    yield "|---|---|"
    for name, value in _rows(card):
        yield f"| {name} | {value} |"
    yield ""
    yield from _prompting(facts)
    for name, uses in _uses(card).items():
        yield f"## {_TITLES[name]}"
        yield ""
        if name == "diffusers" and card.readers.diffusers:
            yield from ["```python", "from diffusers import AceStepPipeline", "", *uses, "```"]
        else:
            yield from (f"{number}. {line}" for number, line in enumerate(uses, 1))
        yield ""
    if card.samples:
        yield "## Samples"
        yield ""
        yield from (f"- [{path.rpartition('/')[2]}]({path})" for path in card.samples)


_TITLES = {"app": "In the ACE-Step app", "comfyui": "In ComfyUI", "diffusers": "In diffusers"}


def _rows(card: Card) -> Iterator[tuple[str, str]]:
    facts = card.facts
    if facts.variant:
        made_from = f", made from {_code(facts.base_model)}" if facts.base_model else ""
        yield "base model", f"{_code(facts.variant)}{made_from}"
    if facts.triggers:
        yield (
            "trigger word",
            "; ".join(map(_trigger, facts.triggers[:_SHOWN]))
            + (
                f" and {len(facts.triggers) - _SHOWN} more, see {CARD}"
                if len(facts.triggers) > _SHOWN
                else ""
            ),
        )
    ranks = [facts.rank, *facts.rank_pattern.values()]
    yield "rank", str(facts.rank) if len(set(ranks)) == 1 else f"{min(ranks)} to {max(ranks)}"
    yield "modules", f"{', '.join(map(_code, facts.modules))} ({facts.module_count} in all)"
    if facts.steps is not None:
        yield "trained", counted(facts.steps, "steps")
    if facts.songs is not None:
        out = f"; {facts.songs_held_out} held out" if facts.songs_held_out else ""
        hours = f", {facts.hours:.2f} hours" if facts.hours is not None else ""
        yield "songs", f"{facts.songs}{hours}{out}"
    if facts.held_out and facts.held_out.loss is not None:
        before = facts.held_out.before
        since = f", {before:.4f} without it" if before is not None else ""
        yield "held-out loss", f"{facts.held_out.loss:.4f} after step {facts.held_out.step}{since}"
    yield "generate with", _settings(facts.generating)
    if facts.made_of:
        parts = [f"{as_typed(part.weight)} × {_code(part.sha256[:12])}" for part in facts.made_of]
        yield "made of", some(parts)
    yield "license", facts.license or UNSPECIFIED


def _trigger(trigger: Trigger) -> str:
    places = {
        "prepend": "first in the caption",
        "append": "last in the caption",
        "replace": "in place of the caption",
        None: "in the caption",
    }
    return f"{_code(trigger.word)}, {places[trigger.position]} ({counted(trigger.songs, 'songs')})"


def _settings(generating: Generating) -> str:
    known = {
        "steps": generating.steps,
        "guidance": "none" if generating.guidance == 1 else generating.guidance,
        "shift": generating.shift,
        "strength": generating.strength,
    }
    return ", ".join(f"{name} {as_typed(value)}" for name, value in known.items() if value is not None)


def _prompting(facts: Facts) -> Iterator[str]:
    if facts.triggers:
        first = facts.triggers[0]
        yield f"Begin with a caption such as {_code(_caption(first))}. Keep the planner's **thinking off**:"
        yield "with it on, the app rewrites the caption, and the trigger word may be lost."
        yield ""


def _caption(trigger: Trigger | None) -> str:
    if trigger is None:
        return EXAMPLE
    word = _plain(trigger.word)
    return {"replace": word, "append": f"{EXAMPLE}, {word}"}.get(
        trigger.position or "prepend", f"{word}, {EXAMPLE}"
    )


def _uses(card: Card) -> dict[str, list[str]]:
    """By reader, three lines on how to use it there, or one on why not."""
    facts, readers = card.facts, card.readers
    settings = _settings(facts.generating)
    caption = _caption(facts.triggers[0] if facts.triggers else None)
    thinking = ", with thinking off" if facts.triggers else ""
    return {
        "app": [
            f"Put {' and '.join(map(_code, readers.app))} into a folder whose name has no dot.",
            f"Load {_code(facts.variant or 'the model')}, then the folder as its LoRA.",
            f"Generate{thinking}: {settings}.",
        ]
        if readers.app
        else ["The app needs another form: `sidestep export ADAPTER --format app` makes it."],
        "comfyui": [
            f"Copy {_code(readers.comfyui)} to `models/loras/`, under a name of its own.",
            "Add a LoraLoaderModelOnly node behind the model's loader.",
            f"Generate: {settings}; caption {_code(caption)}.",
        ]
        if readers.comfyui
        else ["ComfyUI computes this kind (weight_decompose) otherwise: it would be another adapter."],
        "diffusers": _diffusers(card, caption)
        if readers.diffusers
        else ["diffusers reads no LoKR of this form. `sidestep resize` makes a LoRA of most."],
    }


def _diffusers(card: Card, caption: str) -> list[str]:
    """Lines of Python, behind the import of AceStepPipeline."""
    generating, place = card.facts.generating, "path/to/this/folder"
    load = "pipe.load_lora_weights" if card.facts.kind == "lora" else "pipe.transformer.load_lora_adapter"
    named = "" if generating.strength == 1 else ', adapter_name="it"'
    strength = f'pipe.transformer.set_adapters("it", {as_typed(generating.strength)})'
    how: Mapping[str, float | None] = {
        "num_inference_steps": generating.steps,
        "guidance_scale": generating.guidance,
        "shift": generating.shift,
    }
    said = "".join(f", {name}={as_typed(value)}" for name, value in how.items() if value is not None)
    model = f"acestep-v15-{card.base}-diffusers" if card.base else "the-model-in-diffusers-layout"
    return [
        f'pipe = AceStepPipeline.from_pretrained("path/to/{model}")',
        f'{load}("{place}", weight_name="{card.readers.diffusers}"{named})',
        *([strength] if named else []),
        *([_NO_TIMBRE] if card.base in _XL else []),
        f"audio = pipe({json.dumps(caption, ensure_ascii=False)}{said}).audios",
    ]


def _plain(text: str) -> str:
    """On one line, whatever is in it."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _code(text: str) -> str:
    """As code in Markdown, in a table's cell too: nothing in it is read as anything else."""
    plain = _plain(text).replace("|", "\\|")
    return f"`` {plain} ``" if "`" in plain else f"`{plain}`"
