"""The ACE-Step 1.5 model: checkpoint layout and keys, loading, attention, conditioning, latents."""

from sidestep.acestep.loading import AceStepModel, TextEncoder, load_model, load_text_encoder, load_vae

__all__ = ["AceStepModel", "TextEncoder", "load_model", "load_text_encoder", "load_vae"]
