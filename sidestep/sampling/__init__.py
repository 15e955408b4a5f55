"""Sound from a model with an adapter: latents by diffusers' pipeline, audio by the VAE, and what was made."""
