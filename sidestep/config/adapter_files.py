"""What the files of an adapter are called, ours and those that others read."""

APP_LORA, APP_LORA_CONFIG = "adapter_model.safetensors", "adapter_config.json"
APP_LOKR = "lokr_weights.safetensors"
DIFFUSERS_LORA = "pytorch_lora_weights.safetensors"
DIFFUSERS_LOKR = "diffusers_lokr_weights.safetensors"

WEIGHTS = (APP_LORA, DIFFUSERS_LORA, APP_LOKR)
"""Of which one is the adapter, in the order in which they are looked for."""
