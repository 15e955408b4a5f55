"""The same content is the same bytes, whatever the process that writes it."""

import io
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load, save

from sidestep.runtime.canonical import SAFETENSORS_KINDS, json_bytes, safetensors_bytes, torch_bytes

# Prints one digest per kind of file. Sets are the usual way for a hash seed to get into an order.
WRITE_ALL = """
import hashlib, torch
from matplotlib.figure import Figure
from sidestep.runtime import canonical

words = {"lokr", "algo", "format", "q_proj", "k_proj", "v_proj", "o_proj"}
tensors = {word: torch.arange(6.0).reshape(2, 3) * len(word) for word in words}
tensors |= {"half": torch.ones(3, dtype=torch.float16), "scalar": torch.tensor(2.0)}
figure = Figure()
figure.subplots().plot([1, 2, 3])
content = {word: [word, {"again": "".join(word)}, tensors[word][0]] for word in words}
files = {
    "json": canonical.json_bytes({word: word.upper() for word in words}),
    "safetensors": canonical.safetensors_bytes(tensors, {word: word.upper() for word in words}),
    "torch": canonical.torch_bytes(content),
    "png": canonical.png_bytes(figure),
}
print({name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
"""


def test_processes_with_different_hash_seeds_write_the_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    def start(seed: int) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONHASHSEED": str(seed)}
        return subprocess.Popen(
            [sys.executable, "-c", WRITE_ALL], env=environment, stdout=subprocess.PIPE, text=True
        )

    runs = [start(seed) for seed in (1, 2)]
    exec(WRITE_ALL, {})  # here, a third seed
    outputs = {capsys.readouterr().out, *(run.communicate()[0] for run in runs)}
    assert all(run.returncode == 0 for run in runs)
    assert len(outputs) == 1


def test_json_is_sorted_readable_and_strict() -> None:
    assert json_bytes({"b": 1, "a": "é"}) == '{\n  "a": "é",\n  "b": 1\n}\n'.encode()
    with pytest.raises(ValueError, match="JSON"):
        json_bytes(float("nan"))


def test_safetensors_lays_the_data_out_as_the_library_does() -> None:
    """Another layout would give old checkpoints and adapters, equal in content, new digests."""
    tensors = {name: torch.ones(3, dtype=getattr(torch, name)) for name in SAFETENSORS_KINDS}
    tensors |= {"a": torch.zeros(2, 2), "B": torch.full((1,), 7.0)}
    ours, theirs = safetensors_bytes(tensors), save(tensors)
    starts = [8 + int.from_bytes(data[:8], "little") for data in (ours, theirs)]
    assert json.loads(ours[8 : starts[0]]) == json.loads(theirs[8 : starts[1]])
    assert ours[starts[0] :] == theirs[starts[1] :]


def test_a_kind_without_a_name_in_the_format_is_an_error() -> None:
    with pytest.raises(KeyError):
        safetensors_bytes({"z": torch.zeros(1, dtype=torch.complex64)})


def test_safetensors_reads_back_with_any_dtype_and_layout() -> None:
    tensors = {
        "view": torch.arange(12.0).reshape(3, 4).T,
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 2),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "half": torch.ones(5, dtype=torch.bfloat16),
    }
    data = safetensors_bytes(tensors, {"z": "1", "a": "2"})
    read = load(data)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    header_size = int.from_bytes(data[:8], "little")
    assert header_size % 8 == 0
    header = json.loads(data[8 : 8 + header_size])
    assert list(header) == sorted(header)
    assert list(header["__metadata__"]) == ["a", "z"]


def test_torch_bytes_do_not_depend_on_how_the_content_was_built() -> None:
    whole = torch.arange(1000.0)
    parts = [chr(97 + i) for i in range(3)]
    one = {"b": whole[:3], "a": ["abc", "abc"]}
    other = {"a": ["".join(parts), "".join(parts)], "b": torch.arange(3.0)}
    assert torch_bytes(one) == torch_bytes(other)
    read = torch.load(io.BytesIO(torch_bytes(one)), weights_only=True)
    assert read["a"] == ["abc", "abc"]
    assert torch.equal(read["b"], torch.arange(3.0))


def test_torch_bytes_refuse_what_has_no_canonical_form() -> None:
    with pytest.raises(TypeError, match="set"):
        torch_bytes({"a": {1, 2}})
