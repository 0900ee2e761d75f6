"""Measuring: log p(x), its bound, what the latents carry, and what that says in words."""
