"""What an adapter's card says that only its maker knows."""

from typing import Annotated

from pydantic import AfterValidator

from sidestep.config.section import Section, setting
from sidestep.runtime.words import did_you_mean

_NAMES = """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m
    bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0
    c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0
    cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m
    deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gemma gfdl gpl gpl-2.0 gpl-3.0
    intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
    lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 other pddl postgresql
    unknown unlicense wtfpl zlib
"""
LICENSES = frozenset(_NAMES.split())
"""The names that the Hugging Face Hub knows, from its documentation. It refuses a card with any other."""


def check_license(name: str) -> str:
    """The name in lower case. Raises ValueError where the Hub does not know it."""
    if name.lower() not in LICENSES:
        raise ValueError(
            f"is no license that the Hugging Face Hub knows: {did_you_mean(name, sorted(LICENSES))} "
            "`other` stands for any that it does not list"
        )
    return name.lower()


License = Annotated[str, AfterValidator(check_license)]


class CardSpec(Section):
    """What the adapter's card says that nothing else tells."""

    license: License | None = setting(
        None,
        "License of the adapter, by its name on the Hugging Face Hub, such as cc-by-4.0; other for one that "
        "the Hub does not list. By default, the card says that none is specified.",
    )
