"""LoRA and LoKR adapters: put one into a model to train it, publish it, load one again.

>>> adapter = adapters.inject(model.transformer, spec.train.adapter, seed=42)
>>> files = adapters.publish(adapter)  # after training adapter.parameters(); {file name: bytes}
>>> adapters.load(other_model, "runs/my-lora/adapter")
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from sidestep.adapters import bare_lora, lora, lora_load
from sidestep.adapters.adapter import SHOWN, Adapter, check_bare, publish
from sidestep.adapters.targets import target_paths
from sidestep.config.adapter import AdapterSpec
from sidestep.config.adapter_files import APP_LOKR
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.tensorfiles import read_metadata

__all__ = ["Adapter", "inject", "load", "publish", "target_paths"]


def _inject_lokr(transformer: nn.Module, spec: AdapterSpec, seed: int) -> Adapter:
    from sidestep.adapters import lokr  # imports LyCORIS

    return lokr.inject(transformer, spec, seed)


def _load_lokr(transformer: nn.Module, file: Path) -> Adapter:
    from sidestep.adapters import lokr_load  # imports LyCORIS

    return lokr_load.load(transformer, file)


def _load_other(transformer: nn.Module, file: Path) -> Adapter:
    """A file of any name, as ComfyUI has them: its header says whether it is a LoKR."""
    reader = _load_lokr if "lokr_config" in read_metadata(file) else bare_lora.load
    return reader(transformer, file)


_INJECT: dict[str, Callable[[nn.Module, AdapterSpec, int], Adapter]] = {
    "lora": lora.inject,
    "lokr": _inject_lokr,
}
_READERS: dict[str, Callable[[nn.Module, Path], Adapter]] = {
    lora.APP_FILE: lora_load.load_app,
    lora.DIFFUSERS_FILE: lora_load.load_diffusers,
    APP_LOKR: _load_lokr,
}


def inject(transformer: nn.Module, spec: AdapterSpec, seed: int) -> Adapter:
    """Put a new adapter into diffusers' transformer and freeze everything else.

    The transformer computes the same as before: every adapter starts as an update of zero. The other
    initial values depend on `seed` and on each tensor's name alone. Raises BadSpecError where the spec
    names modules that the model does not have.
    """
    check_bare(transformer)
    return _INJECT[spec.type](transformer, spec, seed)


def load(model: Any, place: str | Path) -> Adapter:
    """Attach the adapter at `place` to `model`, an AceStepModel or its bare transformer.

    The place is its folder or its file. Known are the app's PEFT LoRA, diffusers' LoRA, the app's LoKR, and
    so everything published here; by its file alone also what ComfyUI reads, whatever it is called. Every
    tensor must have its place: nothing missing, nothing left over, no other shape. Raises MissingInputError
    where no adapter is there, BadDataError where it cannot be read exactly.
    """
    folder = Path(place)
    transformer = getattr(model, "transformer", model)
    check_bare(transformer)
    if folder.is_file():
        return _READERS.get(folder.name, _load_other)(transformer, folder)
    found = [name for name in _READERS if (folder / name).is_file()]
    if len(found) == 1:
        return _READERS[found[0]](transformer, folder / found[0])
    if found:
        raise BadDataError(f"{folder} holds {len(found)} adapters ({', '.join(found)}): keep one of them")
    patterns = (f"{above}/{name}" for above in ("*", "*/*") for name in _READERS)
    if below := sorted({str(path.parent) for pattern in patterns for path in folder.glob(pattern)}):
        raise MissingInputError(f"no adapter in {folder} itself: there is one in {', '.join(below[:SHOWN])}")
    if pickles := sorted(path.name for pattern in ("*.bin", "*.pt") for path in folder.glob(pattern)):
        raise BadDataError(
            f"{folder} holds {', '.join(pickles)}: a pickle can run any code and is never read. "
            "Save the adapter as safetensors."
        )
    raise MissingInputError(f"no adapter in {folder}: expected one of {', '.join(_READERS)}")
