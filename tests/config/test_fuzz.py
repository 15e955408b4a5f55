"""Whatever a spec's sources say: a spec, or one clear refusal; no other error, and no hang."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep.config.fields import spec_fields, variable
from sidestep.config.job import resolve
from sidestep.config.yaml12 import dump_yaml
from sidestep.runtime.errors import BadSpecError, MissingInputError
from sidestep.runtime.words import nested

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)
PATHS = sorted(spec_fields())
QUICK = settings(max_examples=150, deadline=None)


def resolved(config: Path | None = None, **sources: Any) -> None:
    """A spec that is written and read again is the same; BadSpecError is the only other end."""
    try:
        spec, _ = resolve(config=config, **{"environ": {}, **sources})
    except BadSpecError:
        return
    again = Path("again.yaml")
    again.write_bytes(dump_yaml(spec.model_dump(mode="json")))
    assert resolve(config=again, environ={})[0] == spec


@QUICK
@given(
    data=st.binary(max_size=80) | st.text(alphabet="abz:{}[]-&*!|>#\"'%\n 01.~e", max_size=80).map(str.encode)
)
def test_any_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    config = tmp_path_factory.mktemp("fuzz") / "job.yaml"
    config.write_bytes(data)
    resolved(config)


@QUICK
@given(values=st.dictionaries(st.sampled_from(PATHS), VALUES, max_size=5))
def test_any_value_of_any_field(values: dict[tuple[str, ...], Any]) -> None:
    resolved(arguments=nested({("output_dir",): "out", ("audio_dir",): "songs", **values}))


@QUICK
@given(
    environ=st.dictionaries(
        st.sampled_from([variable(path) for path in PATHS]) | st.text(max_size=8).map("SIDESTEP_".__add__),
        st.text(max_size=12) | st.sampled_from(["null", "1e999", "-0", "١", "true", "q_proj=8", "a=b=c"]),
        max_size=5,
    )
)
def test_any_variables(environ: dict[str, str]) -> None:
    with contextlib.suppress(MissingInputError):  # of SIDESTEP_CONFIG, which names a file
        resolved(environ=environ)
