"""Models whose x is linear in a Gaussian z."""
