"""The YAML reader: 1.2's values, the line of every key, one clear refusal for all that is no plain spec."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep.config.yaml12 import MAX_BYTES, dump_yaml, read_yaml
from sidestep.runtime.errors import BadDataError, BadSpecError, MissingInputError


def read(text: str | bytes) -> dict[str, Any]:
    file = Path("job.yaml")
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_yaml(file)[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.0e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("+3", 3),
        ("0o17", 15),
        ("017", 17),
        ("0x1F", 31),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2026-08-01", "2026-08-01"),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1e-4'", "1e-4"),
        ('"null"', "null"),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        ("[1, a, {b: 1e2}]", [1, "a", {"b": 100.0}]),
    ],
)
def test_values_of_the_core_schema(text: str, value: object) -> None:
    found = read(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_every_key_has_its_line() -> None:
    Path("job.yaml").write_text(
        "# a comment\nname: x\ntrain:\n  lr: 1\n  adapter: {rank: 4,\n    alpha: 8}\n"
    )
    _, lines = read_yaml("job.yaml")
    assert lines == {
        ("name",): 2,
        ("train",): 3,
        ("train", "lr"): 4,
        ("train", "adapter"): 5,
        ("train", "adapter", "rank"): 5,
        ("train", "adapter", "alpha"): 6,
    }


@pytest.mark.parametrize("text", ["", "# only a comment\n", "null", "{}", "---\n...\n", "\ufeff{}"])
def test_an_empty_file_is_an_empty_spec(text: str) -> None:
    assert read(text) == {}


@pytest.mark.parametrize(
    ("text", "where", "fact"),
    [
        ("a: 1\nb: 2\na: 3\n", "job.yaml:3", "line 1"),
        ("t:\n  a: 1\n  a: 2\n", "job.yaml:3", "line 2"),
        ("a: 1\nb: !!python/object/apply:os.system [id]\n", "job.yaml:2", "tags"),
        ("!!map\na: 1\n", "job.yaml:1", "tags"),
        ("a: &x 1\n", "job.yaml:1", "aliases"),
        ("a: 1\nb: *x\n", "job.yaml:2", "aliases"),
        ("a: &l [x, x]\nb: [*l, *l]\n", "job.yaml:1", "aliases"),
        ("- a\n- b\n", "job.yaml:1", "mapping"),
        ("hello\n", "job.yaml:1", "mapping"),
        ("a: 1\n---\nb: 2\n", "job.yaml:2", "second document"),
        ("%YAML 1.1\n---\na: yes\n", "job.yaml:2", "%YAML"),
        ("a: 'open\n", "job.yaml:2", "end of stream"),
        ("a: [1, 2\nb: 3\n", "job.yaml:2", "YAML"),
        ("a: b: c\n", "job.yaml:1", "mapping values"),
        ("\ta: 1\n", "job.yaml:1", "YAML"),
        ("a: \x01\n", "job.yaml", "character"),
        ("[1]: 2\n", "job.yaml:1", "key"),
        ("[" * 3000, "job.yaml:1", "deep"),
        ("a: " + "9" * 5000, "job.yaml:1", "digits"),
        (b"a: 1\nb: caf\xe9\n", "job.yaml:2", "0xe9"),
        (b"#" * (MAX_BYTES + 1), "job.yaml", "1,000,000"),
    ],
)
def test_what_is_refused(text: str | bytes, where: str, fact: str) -> None:
    with pytest.raises(BadSpecError) as refused:
        read(text)
    place, _, message = str(refused.value).partition(" ")
    assert (place.removesuffix(":"), "\n" in message) == (where, False)
    assert fact in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="empty"):
        read_yaml("")
    with pytest.raises(MissingInputError, match=r"nowhere\.yaml"):
        read_yaml("nowhere.yaml")
    with pytest.raises(BadDataError, match="folder"):
        read_yaml(tmp_path)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("aeno0137.-+: #'\"~\nü"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab1 :", min_size=1), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["name", "no", "1e-4", "~", "true", "a b"]), plain, max_size=4))
def test_what_is_written_reads_back(values: dict[str, Any]) -> None:
    assert read(dump_yaml(values)) == values
