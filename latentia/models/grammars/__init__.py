"""Grammars: sentences that trees have written."""
