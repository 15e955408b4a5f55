"""YAML that the platforms' own readers, of YAML 1.1 and of 1.2, understand alike."""

import io
import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

# Text that no reader takes for anything else. All other text is quoted: `1e-4`, `on`, `12:30`, `{{ x }}`.
_PLAIN = re.compile(r"[A-Za-z/.][A-Za-z0-9/._-]*( [A-Za-z0-9/._-]+)*")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", ".nan", ".inf"}


class _Representer(RoundTripRepresenter):
    def ignore_aliases(self, data: Any) -> bool:
        return True  # what is there twice is written twice

    def represent_text(self, text: str) -> ScalarNode:
        plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
        style = "|" if "\n" in text else None if plain else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Representer.add_representer(str, _Representer.represent_text)


def dump(*documents: Any, comment: str = "") -> str:
    """The documents as YAML, in their order, below `comment`, whose lines become comment lines."""
    yaml = YAML(typ="rt", pure=True)
    yaml.Representer = _Representer
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 1000
    stream = io.StringIO()
    yaml.dump_all(documents, stream)
    return commented(comment) + stream.getvalue()


def commented(text: str) -> str:
    """`text` as comment lines, in YAML and shell alike."""
    return "".join(f"# {line}".rstrip() + "\n" for line in text.strip().splitlines())
