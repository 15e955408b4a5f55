"""The choice of device and precision, by what the machine can do."""

import logging
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from sidestep.config.schema import RuntimeSpec
from sidestep.runtime.errors import MachineError
from sidestep.training.machine import Machine, choose_machine


def choose(**settings: object) -> Machine:
    return choose_machine(RuntimeSpec.model_validate({"deterministic": False, **settings}))


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "pretended")


def test_without_a_gpu_the_cpu_in_fp32() -> None:
    assert choose() == Machine(torch.device("cpu"), "fp32", deterministic=False)


@pytest.mark.parametrize(("capability", "precision"), [((8, 0), "bf16"), ((7, 5), "fp32"), ((12, 0), "bf16")])
def test_bf16_where_a_gpu_computes_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str
) -> None:
    pretend_gpu(monkeypatch, capability)
    assert choose() == Machine(torch.device("cuda:0"), precision, deterministic=False, kernels="fused")
    assert choose(precision="fp32").precision == "fp32"
    assert choose(device="cpu") == Machine(torch.device("cpu"), "fp32", deterministic=False)


@pytest.fixture
def flash_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))


@pytest.mark.parametrize(
    ("capability", "precision", "attention", "because"),
    [
        ((8, 0), "auto", "flash", "flash-attn, with a window in the sliding layers"),
        ((8, 6), "fp32", "sdpa", "half precision only"),
        ((7, 5), "bf16", "sdpa", "compute capability 8.0"),
    ],
)
@pytest.mark.usefixtures("flash_installed")
def test_flash_where_gpu_and_precision_allow_it(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capability: tuple[int, int],
    precision: str,
    attention: str,
    because: str,
) -> None:
    caplog.set_level(logging.INFO)
    pretend_gpu(monkeypatch, capability)
    assert choose(precision=precision).attention == attention
    assert caplog.text.count("Attention ") == 1
    assert f"Attention {attention}" in caplog.text and because in caplog.text
    assert choose(attention="sdpa").attention == "sdpa"
    if attention == "sdpa":
        with pytest.raises(MachineError, match=because):
            choose(precision=precision, attention="flash")


def test_without_flash_installed_or_with_one_that_does_not_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    pretend_gpu(monkeypatch, (9, 0))
    assert choose().attention == "sdpa"
    with pytest.raises(MachineError, match="flash-attn is not installed"):
        choose(attention="flash")
    (tmp_path / "flash_attn.py").write_text("raise ImportError('undefined symbol: _ZN3c10')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MachineError, match="does not load: undefined symbol"):
        choose(attention="flash")


def test_flash_is_refused_on_a_cpu() -> None:
    with pytest.raises(MachineError, match="flash-attn needs a GPU"):
        choose(attention="flash")


def test_fp16_is_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MachineError, match="fp16 training needs a GPU"):
        choose(precision="fp16")
    pretend_gpu(monkeypatch, (7, 5))
    machine = choose(precision="fp16")
    assert (machine.precision, machine.dtype) == ("fp16", torch.float16)


def test_the_choice_of_precision_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    choose()
    assert "precision fp32 (most CPUs emulate bf16" in caplog.text
    pretend_gpu(monkeypatch, (7, 5))
    choose()
    assert "precision fp32 (this GPU has no native bf16; fp16 would take half the memory)" in caplog.text


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MachineError, match="sees 0 GPUs"):
        choose(device="cuda")
    pretend_gpu(monkeypatch, (8, 0))
    assert choose(device="cuda").device == torch.device("cuda:0")
    with pytest.raises(MachineError, match="cuda:3"):
        choose(device="cuda:3")


def test_deterministic_is_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        choose(deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_later_attempt_computes_as_the_first_one_did() -> None:
    """Sums over other numbers of threads differ in their last bits."""
    before = torch.get_num_threads()
    try:
        first = choose_machine(RuntimeSpec(deterministic=False))
        assert first.threads == before
        then = {**first.chosen(), "threads": before + 2}
        later = choose_machine(RuntimeSpec(deterministic=False), then)
        assert later.threads == torch.get_num_threads() == before + 2
        bf16 = choose_machine(RuntimeSpec(deterministic=False), {**then, "precision": "bf16"})
        assert bf16.precision == "bf16"
    finally:
        torch.set_num_threads(before)
