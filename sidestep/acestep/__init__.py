"""The ACE-Step 1.5 model: checkpoint layout and keys, loading, attention, conditioning, latents.

The names below are loaded on use: a job's places are checked by `layout` before torch is imported.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidestep.acestep.loading import AceStepModel, TextEncoder, load_model, load_text_encoder, load_vae

__all__ = ["AceStepModel", "TextEncoder", "load_model", "load_text_encoder", "load_vae"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from sidestep.acestep import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'sidestep.acestep' has no attribute {name!r}")
