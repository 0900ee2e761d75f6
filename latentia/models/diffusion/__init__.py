"""Diffusion models: noise that a network undoes, over the latents of another model, or over symbols."""
