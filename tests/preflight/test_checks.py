"""plan --check-only: each check in a line, all problems at once, without torch, and leaving no trace."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sidestep.cli import main
from sidestep.preflight import machine
from sidestep.preflight.checks import Check, raise_problems, run_checks
from sidestep.preflight.machine import Torch
from sidestep.runtime import driver
from sidestep.runtime.errors import BadSpecError
from tests.facts import tells
from tests.s3 import S3Server
from tests.songs import song, write_songs

WITHOUT_TORCH = """
import sys
from sidestep.cli import main
code = main(sys.argv[1:])
assert not {"torch", "av", "transformers", "diffusers"} & set(sys.modules), "something heavy was imported"
sys.exit(code)
"""
DRIVER = """
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) {{ return {code}; }}
int cuDriverGetVersion(int *version) {{ *version = {cuda}; return 0; }}
int cuDeviceGetCount(int *count) {{ *count = {count}; return 0; }}
int cuDeviceGet(int *device, int index) {{ *device = index; return 0; }}
int cuDeviceGetName(char *name, int size, int device) {{
    strncpy(name, device ? "{name}" : "NVIDIA T4", size);
    return 0;
}}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {{
    *bytes = device ? {memory}UL : {memory}UL / 2;
    return 0;
}}
"""


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this machine one with so many GPUs, by a stand-in for the driver's library."""
    torch = Torch("2.13.0", "13.0")
    monkeypatch.setattr(machine, "installed_torch", lambda: torch)

    def install(count: int, cuda: int = 13000, code: int = 0) -> None:
        source = DRIVER.format(code=code, cuda=cuda, count=count, name="NVIDIA L4", memory=24 * 2**30)
        library = tmp_path / f"libcuda-{count}-{cuda}-{code}.so"
        compile_it = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
        subprocess.run(compile_it, input=source, text=True, check=True)
        monkeypatch.setattr(driver, "LIBRARY", str(library))

    return install


@pytest.fixture
def places(tiny_checkpoints: Path, tmp_path: Path) -> list[str]:
    """Flags of a train job whose places are all in order."""
    tensors = write_songs(tmp_path / "tensors", [song(n) for n in range(3)])
    words = ["--task", "train", "--checkpoint-dir", str(tiny_checkpoints), "--dataset-dir", str(tensors)]
    return [*words, "--output-dir", str(tmp_path / "out")]


def check(*words: str) -> int:
    return main(["plan", "--check-only", *words])


def by_name(capsys: Any) -> dict[str, str]:
    """What plan printed: each check's line (with those that go on) by its name."""
    found: dict[str, str] = {}
    for line in capsys.readouterr().out.partition("\n\n")[0].splitlines():
        mark, rest = line[:4].strip(), line[6:].split(maxsplit=1)
        if mark:
            name = rest[0]
            found[name] = f"{mark} {rest[1]}"
        else:
            found[name] += f" {line.strip()}"
    return found


def test_a_sound_job_is_a_line_for_each_check(places: list[str], tmp_path: Path, capsys: Any) -> None:
    assert check(*places) == 0
    found = by_name(capsys)
    assert list(found) == [
        *("spec", "dataset_dir", "checkpoint_dir", "train.adapter", "output_dir"),
        *("workspace", "device", "packages"),
    ]
    assert all(said.startswith("ok ") for said in found.values())
    assert tells(found["dataset_dir"], "3 tensors", str(tmp_path))
    assert check(*places) == 0
    assert "All 8 checks are ok" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_nothing_heavy_is_imported(places: list[str], s3_server: S3Server) -> None:
    """Neither for local places nor for a bucket."""
    command = [sys.executable, "-c", WITHOUT_TORCH, "plan", "--check-only", *places]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    s3_server.store("songs").write_bytes("a.mp3", b"a song")
    remote = ["--audio-dir", s3_server.place("songs"), "--output-dir", s3_server.place("out")]
    remote += ["--task", "pipeline", "--endpoint-url", s3_server.endpoint]
    done = subprocess.run([*command, *remote], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "for S3, from environment variables" in done.stdout
    assert s3_server.store("").list_files("out") == []


def test_all_problems_at_once_and_the_first_one_s_code(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("")
    places = ["--audio-dir", "nowhere", "--checkpoint-dir", "no models", "--output-dir", "file/run"]
    assert check(*places, "--device", "cuda:1", "--optimizer-type", "adamw8bit") == 66
    captured = capsys.readouterr()
    assert tells(captured.err, "4 of 8", "audio_dir, checkpoint_dir, output_dir, device")
    assert captured.out.count("FAIL") == 4
    assert "3 of 8 checks ok, 4 failed, 1 skipped" in captured.out
    broken = [line for line in captured.out.splitlines() if max(map(len, line.split()), default=0) < 40]
    assert all(len(line) <= 80 for line in broken)


def test_the_spec_s_problems_end_it(capsys: Any) -> None:
    assert check("--epochs", "0", "--rnak", "3") == 64
    said = capsys.readouterr()
    assert "--rnak" in said.err and "train.epochs" in said.err and not said.out


def test_a_file_is_named_with_or_without_a_flag(places: list[str], capsys: Any) -> None:
    keys = ("task", "checkpoint_dir", "dataset_dir", "output_dir")
    Path("job.yaml").write_text("".join(f"{k}: {v}\n" for k, v in zip(keys, places[1::2], strict=True)))
    assert check("job.yaml") == check("--config", "job.yaml") == 0
    assert main(["plan", "job.yaml", "--check-only"]) == 0


def test_json_is_for_scripts(places: list[str], capsys: Any) -> None:
    assert check(*places, "--json", "--checkpoint-dir", "nowhere") == 66
    checks = {entry.pop("name"): entry for entry in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["dataset_dir"]["ok"] and "exit_code" not in checks["dataset_dir"]
    assert checks["checkpoint_dir"]["exit_code"] == 66
    assert "nowhere" in checks["checkpoint_dir"]["said"]


def test_credentials_that_are_not_there(
    places: list[str], s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    remote = ["--output-dir", s3_server.place("out"), "--endpoint-url", s3_server.endpoint]
    assert check(*places, *remote) == 77
    found = by_name(capsys)
    assert found["credentials"].startswith("FAIL ") and "AWS_ACCESS_KEY_ID" in found["credentials"]
    monkeypatch.setenv("AWS_PROFILE", "studio")
    assert check(*places, *remote) == 77
    assert "studio" in by_name(capsys)["credentials"]
    check(*places, *remote, "--anonymous")
    assert tells(by_name(capsys)["credentials"], "ok", "storage.anonymous")


def test_what_may_not_be_read(places: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "1.pt")  # root may read anything
    assert check(*places) == 77
    assert tells(by_name(capsys)["dataset_dir"], "1 of 3", "1.pt")


def test_a_gpu_is_named_and_its_driver_is_new_enough(
    places: list[str], gpus: Callable[..., None], capsys: Any
) -> None:
    gpus(2)
    assert check(*places, "--device", "cuda:1") == 0
    found = by_name(capsys)
    assert found["device"] == "ok NVIDIA L4, 24.0 GiB"
    assert tells(found["driver"], "torch 2.13.0", "CUDA 13.0")
    assert check(*places) == 0
    assert by_name(capsys)["device"] == "ok NVIDIA T4, 12.0 GiB"
    assert check(*places, "--device", "cuda:2") == 72
    assert tells(by_name(capsys)["device"], "runtime.device is cuda:2", "2 NVIDIA GPUs")
    gpus(1, cuda=12080)
    assert check(*places) == 72
    assert "12.8" in by_name(capsys)["driver"]


def test_a_machine_that_does_not_fit(places: list[str], gpus: Callable[..., None], capsys: Any) -> None:
    gpus(1, code=803)
    assert check(*places) == 72
    assert "803" in by_name(capsys)["device"]
    gpus(0, code=100)
    assert check(*places) == 0
    assert by_name(capsys)["device"].startswith("ok the CPU")
    assert check(*places, "--precision", "fp16") == 72
    assert "runtime.precision is fp16" in by_name(capsys)["device"]
    assert check(*places, "--device", "cuda") == 72
    assert "0 NVIDIA GPUs" in by_name(capsys)["device"]
    assert check(*places, "--device", "cuda", "--elsewhere") == 0
    assert "device" not in by_name(capsys)


def test_a_torch_for_cpus_beside_a_gpu(
    places: list[str], gpus: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    gpus(1)
    monkeypatch.setattr(machine, "installed_torch", lambda: Torch("2.13.0+cpu", None))
    assert check(*places) == 72
    assert tells(by_name(capsys)["device"], "NVIDIA T4", "torch 2.13.0+cpu")


def test_what_torch_says_of_itself() -> None:
    import torch

    assert machine.installed_torch() == Torch(torch.__version__, torch.version.cuda)


def test_packages_that_only_this_spec_needs(
    places: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(
        machine, "find_spec", lambda name: None if name == "bitsandbytes" else find_spec(name)
    )
    assert check(*places, "--optimizer-type", "adamw8bit") == 72
    assert tells(by_name(capsys)["packages"], "bitsandbytes", "train.optimizer_type: adamw8bit")
    assert check(*places, "--quantize", "nf4") == 72
    assert tells(by_name(capsys)["packages"], "bitsandbytes", "train.quantize: nf4")
    assert check(*places) == 0


def test_a_package_that_cannot_be_imported(
    places: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    """As flash-attn that was built for another torch, or bitsandbytes without its library."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "bitsandbytes.py").write_text("raise ImportError('x.so: undefined symbol: cat')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    assert check(*places, "--optimizer-type", "adamw8bit") == 72
    assert tells(by_name(capsys)["packages"], "bitsandbytes", "cannot be imported", "undefined symbol: cat")


def test_blocks_without_a_compiler(
    places: list[str], gpus: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A run goes on without, so the check is ok and says that."""
    blocks = [*places, "--compile", "blocks"]
    monkeypatch.setenv("CXX", "/nowhere/g++ -O2")
    assert check(*blocks) == 0
    assert tells(by_name(capsys)["packages"], "ok", "no blocks are compiled", "/nowhere/g++")
    monkeypatch.setenv("CXX", f"{sys.executable} -O2")
    assert check(*blocks) == 0 and "compiled" not in by_name(capsys)["packages"]
    gpus(1)
    monkeypatch.setattr(machine, "installed_torch", lambda: Torch("2.13.0+cu130", "13.0"))
    monkeypatch.setattr(driver, "check_driver", lambda cuda: None)
    monkeypatch.setenv("CC", "/nowhere/gcc")
    assert check(*blocks) == 0
    assert tells(by_name(capsys)["packages"], "no blocks are compiled", "/nowhere/gcc")


def test_a_check_s_name_is_said_once() -> None:
    """Some errors name their setting themselves, as they are said by a training, too."""

    def misfit() -> str:
        raise BadSpecError("train.init_from: it does not fit")

    found = run_checks([Check("train.init_from", misfit)])
    assert found[0].said == "it does not fit"
    with pytest.raises(BadSpecError, match=r"^train.init_from: it does not fit$"):
        raise_problems(found)
