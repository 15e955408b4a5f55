"""LoRA and LoKR adapters: put one into a model to train it, publish it, load one again.

>>> adapter = adapters.inject(model.transformer, spec.train.adapter, seed=42)
>>> files = adapters.publish(adapter)  # after training adapter.parameters(); {file name: bytes}
>>> adapters.load(other_model, "runs/my-lora/adapter")
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from sidestep.adapters import lora
from sidestep.adapters.adapter import LOKR_FILE, SHOWN, Adapter, check_bare, publish
from sidestep.adapters.targets import target_paths
from sidestep.config.training import AdapterSpec
from sidestep.runtime.errors import BadDataError, MissingInputError

__all__ = ["Adapter", "inject", "load", "publish", "target_paths"]


def _inject_lokr(transformer: nn.Module, spec: AdapterSpec, seed: int) -> Adapter:
    from sidestep.adapters import lokr  # imports LyCORIS

    return lokr.inject(transformer, spec, seed)


def _load_lokr(transformer: nn.Module, folder: Path) -> Adapter:
    from sidestep.adapters import lokr_load  # imports LyCORIS

    return lokr_load.load(transformer, folder)


_INJECT: dict[str, Callable[[nn.Module, AdapterSpec, int], Adapter]] = {
    "lora": lora.inject,
    "lokr": _inject_lokr,
}
_READERS: dict[str, Callable[[nn.Module, Path], Adapter]] = {
    lora.APP_FILE: lora.load_app,
    lora.DIFFUSERS_FILE: lora.load_diffusers,
    LOKR_FILE: _load_lokr,
}


def inject(transformer: nn.Module, spec: AdapterSpec, seed: int) -> Adapter:
    """Put a new adapter into diffusers' transformer and freeze everything else.

    The transformer computes the same as before: every adapter starts as an update of zero. The other
    initial values depend on `seed` and on each tensor's name alone. Raises BadSpecError where the spec
    names modules that the model does not have.
    """
    check_bare(transformer)
    return _INJECT[spec.type](transformer, spec, seed)


def load(model: Any, folder: str | Path) -> Adapter:
    """Attach the adapter in `folder` to `model`, an AceStepModel or its bare transformer.

    Known are the app's PEFT LoRA, diffusers' LoRA, the app's LoKR, and so everything published here.
    Every tensor must have its place: nothing missing, nothing left over, no other shape. Raises
    MissingInputError where no adapter is there, BadDataError where it cannot be read exactly.
    """
    folder = Path(folder)
    transformer = getattr(model, "transformer", model)
    check_bare(transformer)
    found = [name for name in _READERS if (folder / name).is_file()]
    if len(found) == 1:
        return _READERS[found[0]](transformer, folder)
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
