"""The schema as a flat list of fields: each one's name, flags and variable, and what it allows, in words.

Flags, sources and the error report all read this one list.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic.fields import FieldInfo

from sidestep.config.schema import JobFields
from sidestep.config.section import Section, mark_of
from sidestep.runtime.words import nearest_word

FieldPath = tuple[str, ...]
"""A field's keys from the top, such as ("train", "adapter", "rank")."""

ENVIRONMENT_PREFIX = "SIDESTEP_"


@dataclass(frozen=True)
class SpecField:
    """One field that has a value (a section has none)."""

    path: FieldPath
    info: FieldInfo
    schema: dict[str, Any]  # its own part of the JSON schema

    @property
    def name(self) -> str:
        """`train.adapter.rank`: its keys from the top, as messages and origins have them."""
        return ".".join(self.path)

    @property
    def flags(self) -> list[str]:
        """`--epochs`, or what `setting` was told instead of it, then the other spellings."""
        own = self.schema.get("flag", f"--{self.path[-1].replace('_', '-')}")
        return [own, *self.schema.get("aliases", [])]

    @property
    def unit(self) -> str:
        """What it counts, such as seconds; empty where the number stands for itself."""
        return str(self.schema.get("unit", ""))

    @property
    def default(self) -> str:
        """As a person writes it. Empty where there is none."""
        default = self.info.get_default(call_default_factory=True)
        if default in (None, {}):
            return ""
        if isinstance(default, tuple):
            return " ".join(default)
        if isinstance(default, bool):
            return "on" if default else "off"
        return f"{default:g}" if isinstance(default, float) else str(default)

    @property
    def limits(self) -> str:
        """What a number may be: "1 to 4096", "more than 0"."""
        found = []
        for kind in self._alternatives:
            both = "minimum" in kind and "maximum" in kind
            found.append(f"{kind['minimum']} to {kind['maximum']}" if both else _limits(kind))
        return " or ".join(filter(None, found))

    @property
    def types(self) -> set[str]:
        """The JSON types that it takes: {"integer", "null"}."""
        return {kind["type"] for kind in self._alternatives if "type" in kind}

    @property
    def is_place(self) -> bool:
        """Whether it says where something is: a path or a URI."""
        return mark_of(self.info).is_place

    @property
    def is_secret(self) -> bool:
        """Whether its value is shown nowhere."""
        return mark_of(self.info).is_secret

    @property
    def adapter_types(self) -> tuple[str, ...]:
        """The types of adapters that it is for; () where it is for all of them, or for none."""
        return mark_of(self.info).adapter_types

    def is_for(self, adapter_type: str) -> bool:
        """Whether it has an effect on an adapter of this type."""
        return not self.adapter_types or adapter_type in self.adapter_types

    @property
    def choices(self) -> list[str]:
        """The words that it takes, where it takes only these."""
        kinds = [kind for kind in self._alternatives if kind.get("type") != "null"]
        return [word for kind in kinds for word in _words(kind)] if all(map(_words, kinds)) else []

    @property
    def allowed(self) -> str:
        """What may stand there: "a number, more than 0, at most 10 or null"."""
        return " or ".join(map(_allowed, self._alternatives))

    @property
    def allowed_but_null(self) -> str:
        """The same without the null of a field that may be left open."""
        return " or ".join(_allowed(kind) for kind in self._alternatives if kind.get("type") != "null")

    @property
    def allowed_inside(self) -> str:
        """What may stand in it, where it is a list or a mapping."""
        return _allowed(self.schema.get("items") or self.schema["additionalProperties"])

    @property
    def _alternatives(self) -> list[dict[str, Any]]:
        """The schemas of the values that it takes, such as that of a number and that of null."""
        alternatives: list[dict[str, Any]] = self.schema.get("anyOf", [self.schema])
        return alternatives


@cache
def spec_fields() -> dict[FieldPath, SpecField]:
    """Every field of the spec by its path, in the schema's order."""
    return {field.path: field for field in _walk(JobFields, ())}


@cache
def spec_sections() -> dict[FieldPath, type[Section]]:
    """Every section of the spec by its path; the spec itself is at ()."""
    found: dict[FieldPath, type[Section]] = {(): JobFields}
    for path in spec_fields():
        for depth in range(1, len(path)):
            section = found[path[: depth - 1]].model_fields[path[depth - 1]].annotation
            assert isinstance(section, type)
            found[path[:depth]] = section
    return found


def variable(path: FieldPath) -> str:
    """A field's environment variable: SIDESTEP_TRAIN__ADAPTER__RANK."""
    return ENVIRONMENT_PREFIX + "__".join(path).upper()


def only(values: Mapping[str, Any], paths: Collection[FieldPath], above: FieldPath = ()) -> dict[str, Any]:
    """Of `values`, nested as the spec is, those at `paths`, in the same order; no empty sections."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        path = (*above, key)
        if path in spec_sections():
            if inside := only(value, paths, path):
                kept[key] = inside
        elif path in paths:
            kept[key] = value
    return kept


CLOSE_ENOUGH = 0.7  # below this, `nearest_word` finds a likeness where nobody would


def nearest_field(path: FieldPath, sections: bool = False) -> FieldPath | None:
    """The field or section that was most likely meant by the unknown `path`; None where none is like it.

    A known name at another depth (`lr` at the top, `tensor_output`) comes first. Then the likeliest
    misspelling: of a name in the same section, of a whole path (`train_lr`), of any name.
    """
    known: list[FieldPath] = [*spec_fields(), *(filter(None, spec_sections()) if sections else ())]
    spelt = [(other[-1], other) for other in known]
    for field in spec_fields().values():
        spelt += [(flag.removeprefix("--").replace("-", "_"), field.path) for flag in field.flags]
    name = path[-1].lower().replace("-", "_").rpartition(".")[2]
    if exact := [other for word, other in spelt if word == name]:
        return max(exact, key=lambda other: len({*other} & {*path}))
    siblings = {other[-1]: other for other in known if other[:-1] == path[:-1]}
    # Within a known section, any whole path would be found alike for that section's sake.
    is_nested = len(path) > 1 and path[:-1] in spec_sections()
    paths = {} if is_nested else {"_".join(other): other for other in spec_fields()}
    written = "_".join(path).lower().replace("-", "_").replace(".", "_")
    for word, candidates in ((name, siblings), (written, paths), (name, dict(spelt))):
        if match := nearest_word(word, candidates, CLOSE_ENOUGH):
            return candidates[match]
    return None


def _walk(section: type[Section], path: FieldPath) -> Iterator[SpecField]:
    schemas = section.model_json_schema()["properties"]
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from _walk(info.annotation, (*path, name))
        else:
            yield SpecField((*path, name), info, schemas[name])


def _words(schema: dict[str, Any]) -> list[str]:
    """What a schema with a choice of words takes. JSON schema calls a choice of one a constant."""
    return [schema["const"]] if "const" in schema else schema.get("enum", [])


def _allowed(schema: dict[str, Any]) -> str:
    if words := _words(schema):
        return "one of " + ", ".join(words) if len(words) > 1 else words[0]
    kind = {
        "null": "null",
        "boolean": "true or false",
        "integer": "a whole number",
        "number": "a number",
        "array": "a list of one or more words",
        "object": "pairs",
        "string": "text",
    }[schema["type"]]
    if schema["type"] == "array" and schema["items"] == {}:
        kind = "a list of values"
    if schema["type"] == "object":  # whose first example is shown as a flag takes it
        kind += " such as " + " ".join(f"{key}={value}" for key, value in schema["examples"][0].items())
    return f"{kind}, {limits}" if (limits := _limits(schema)) else kind


def _limits(schema: dict[str, Any]) -> str:
    return ", ".join(
        f"{words} {schema[key]}"
        for key, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "more than"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "less than"),
        )
        if key in schema
    )
