"""JSON of any kind is a value that can be worked with, or refused by its name."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel

from sidestep.config.schema import StorageSpec
from sidestep.data.checked import Checked, read_checked, write_checked
from sidestep.data.index import Index, read_index, write_index
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.parsing import (
    JSON_AT_MOST,
    LEVELS_AT_MOST,
    Amount,
    Count,
    Exact,
    Number,
    parse_as,
    parse_json,
    read_small,
)
from sidestep.storage.open import open_store
from tests.facts import facts


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


HOSTILE = {
    "nothing": b"",
    "cut": b'{"a": [1,',
    "not UTF-8": b'"\xff"',
    "a hundred thousand deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "just too deep": nested(LEVELS_AT_MOST + 1),
    "5,000 digits": b"1" * 5000,
    "more than 64 bits": b"[1" + b"0" * 30 + b"]",
    "NaN": b'{"a": NaN}',
    "Infinity": b"[-Infinity]",
    "infinite by its exponent": b'{"a": [1e999]}',
    "half a character": b'["\\ud800"]',
    "a key of half a character": b'{"\\udfff": 1}',
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_what_cannot_be_worked_with_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(BadDataError, match="the place"):
        parse_json(data, "the place")


@pytest.mark.parametrize("name", [name for name in HOSTILE if "deep" in name])
def test_what_is_nested_too_deeply_is_called_so(name: str) -> None:
    with pytest.raises(BadDataError, match=facts("the place", "nested too deeply")) as refused:
        parse_json(HOSTILE[name], "the place")
    assert "recursion" not in str(refused.value)


@pytest.mark.parametrize(
    "value", [None, [], {"a": [1, -0.5, True]}, 2**63, 1e308, "\U0001f3b5 \u0000", {"": ""}], ids=ascii
)
def test_json_is_read(value: object) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert parse_json(json.dumps(value, ensure_ascii=False).encode(encoding), "x") == value
    assert parse_json(nested(LEVELS_AT_MOST), "x")


def test_the_fault_s_place_is_named() -> None:
    with pytest.raises(BadDataError, match=r"songs: 1: seconds: .*finite"):
        parse_json(b'{"songs": [{}, {"seconds": 1e999}]}', "x")


def test_its_size_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").touch()
    with (tmp_path / "a.json").open("r+b") as file:
        file.truncate(JSON_AT_MOST + 1)  # a hole: it takes no space
    store = open_store(str(tmp_path), StorageSpec())
    monkeypatch.setattr(store, "read_bytes", lambda path: pytest.fail("read before its size was known"))
    with pytest.raises(BadDataError, match=r"a\.json"):
        read_small(tmp_path / "a.json")
    with pytest.raises(BadDataError, match=r"a\.json"):
        store.read_small("a.json")
    with pytest.raises(BadDataError, match="the place"):
        parse_json(b" " * (JSON_AT_MOST + 1), "the place")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="gone"):
        read_small(tmp_path / "gone")
    with pytest.raises(BadDataError, match=str(tmp_path)):
        read_small(tmp_path)


class Kind(BaseModel):
    count: Count = 0
    amount: Amount = 0
    number: Number = 0


@dataclass
class Plain:
    names: list[str]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b'{"count": -1}', "count"),
        (b'{"count": 1e3}', "count"),
        (b'{"count": true}', "count"),
        (b'{"count": "1"}', "count"),
        (b'{"count": 10000000000000}', "count"),
        (b'{"amount": -0.1}', "amount"),
        (b'{"amount": 1e300}', "amount"),
        (b'{"number": "1"}', "number"),
        (b'{"number": -1e300}', "number"),
        (b"[]", "it"),
    ],
)
def test_a_wrong_field_is_named(data: bytes, field: str) -> None:
    with pytest.raises(BadDataError, match=rf"the place[\s\S]*\n  {field}: "):
        parse_as(Kind, data, "the place")


@pytest.mark.parametrize("kind", [Kind, Plain])
def test_what_should_be_an_object_is_told_without_the_name_of_a_class(kind: type) -> None:
    with pytest.raises(BadDataError, match="object") as refused:
        parse_as(kind, b"[]", "the place")
    assert kind.__name__ not in str(refused.value)


def test_dataclasses_are_checked_too() -> None:
    assert parse_as(Plain, b'{"names": ["a"]}', "x") == Plain(["a"])
    with pytest.raises(BadDataError, match=r"names\.0: "):
        parse_as(Plain, b'{"names": [1]}', "x")


class Numbers(BaseModel):
    numbers: list[Exact]


def test_a_number_of_a_state_keeps_its_kind() -> None:
    read = parse_as(Numbers, b'{"numbers": [10, 10.0]}', "x").numbers
    assert [repr(number) for number in read] == ["10", "10.0"]


def test_an_index_of_many_songs_may_be_larger_than_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path), StorageSpec())
    write_index(store, Index(tensors={"a": "0" * 64}))
    write_checked(store, {"0" * 64: Checked(1, 1, 1, "0" * 64)})
    for module in ("sidestep.runtime.parsing", "sidestep.storage.store"):
        monkeypatch.setattr(f"{module}.JSON_AT_MOST", 10)
    assert read_index(store) == Index(tensors={"a": "0" * 64}) and len(read_checked(store)) == 1
    with pytest.raises(BadDataError, match="index"):
        store.read_small("index.json")
