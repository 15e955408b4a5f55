"""How pages are made: templates of this folder, each page one file with nothing outside of it."""

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from sidestep.runtime.words import duration


@cache
def template(name: str) -> Template:
    """The page of that name."""
    environment = Environment(
        loader=PackageLoader("sidestep.report", "."),
        autoescape=True,  # names and captions of songs may hold anything
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    environment.filters["words"] = lambda key: re.sub(r"[_.]", " ", key)
    return environment.get_template(f"{name}.html.jinja")
