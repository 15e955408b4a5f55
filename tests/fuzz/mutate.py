"""Changes to a file: bytes anywhere, and values where its structure is known."""

import io
import json
import random
import zipfile
from typing import Any

HOSTILE: list[Any] = [
    *(None, True, -1, 0, 0.5, 2**63, -(2**64), 10**30, 1e308, float("nan"), float("inf"), ""),
    *("\x1b[2J\u202e", "\ud800", "x" * 5000),
    *("../../x", "(.+)+!", [], {}, [[]], {"a": {}}, ["a"] * 300),
]
TOKENS = [
    b"[" * 3000,
    b'{"a":' * 3000,
    b"1" * 5000,
    b"1e999",
    b"NaN",
    b"\xff\xfe",
    b"\0",
    b'"',
    b"\\",
    b"\x1b]",
]


SIZES = [b"\xff" * 4, b"\0" * 4, b"\0\0\0\x80", b"\x7f\xff\xff\xff"]


def mutated(data: bytes, dice: random.Random) -> bytes:
    """`data` with one change to what it says, or some to its bytes."""
    if dice.random() < 0.6 and (changed := _structured(data, dice)) is not None:
        return changed
    content = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(content) + 1)
        if dice.random() < 0.5:  # headers come first
            at = min(at, dice.randrange(1, 200))
        match dice.randrange(6):
            case 0:
                content[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                del content[at : at + dice.randint(1, 64)]
            case 2:
                content[at:at] = content[at : at + dice.randint(1, 64)]
            case 3:
                content[at : at + 4] = dice.choice(
                    [b"\xff" * 4, b"\0" * 4, b"\0\0\0\x80", b"\x7f\xff\xff\xff"]
                )
            case 4:
                del content[at:]
            case _:
                content[at:at] = dice.choice(TOKENS)
    return bytes(content)


def _structured(data: bytes, dice: random.Random) -> bytes | None:
    """With another value in its JSON, its header or its pickle; None where it has none of these."""
    try:
        if data[:2] == b"PK":
            return _with_pickle(data, dice)
        if data[8:9] == b"{":
            size = int.from_bytes(data[:8], "little")
            header = json.dumps(_changed(json.loads(data[8 : 8 + size]), dice)).encode()
            return len(header).to_bytes(8, "little") + header + data[8 + size :]
        return json.dumps(_changed(json.loads(data), dice)).encode()
    except (
        ArithmeticError,
        LookupError,
        NotImplementedError,
        RecursionError,
        ValueError,
        zipfile.BadZipFile,
    ):
        return None


def _changed(value: Any, dice: random.Random) -> Any:
    """`value` with a hostile one at a place within it."""
    if value and dice.random() < 0.85:
        if isinstance(value, dict):
            key = dice.choice(sorted(value))
            if dice.random() < 0.1:
                return {name: item for name, item in value.items() if name != key}
            if dice.random() < 0.05:
                return value | {str(dice.choice(HOSTILE)): value[key]}
            return value | {key: _changed(value[key], dice)}
        if isinstance(value, list):
            at = dice.randrange(len(value))
            return [*value[:at], _changed(value[at], dice), *value[at + 1 :]]
        if isinstance(value, str) and value[0] == "{":  # JSON in a header's text
            return json.dumps(_changed(json.loads(value), dice))
    return dice.choice(HOSTILE)


def _with_pickle(data: bytes, dice: random.Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            content = bytearray(old.read(name))
            if name.endswith("data.pkl"):
                at = dice.randrange(len(content))
                content[at : at + dice.randint(0, 4)] = dice.randbytes(dice.randint(0, 4))
            new.writestr(name, bytes(content))
    return file.getvalue()
