"""Inference for one datum at a time, where the posterior that a model gives is not enough: importance weights,
annealing, refinement, mean fields."""
