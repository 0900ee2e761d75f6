"""Codes: any model's log-probabilities as bits of a file, and back. `latentia.tasks.compress` is the way in."""
