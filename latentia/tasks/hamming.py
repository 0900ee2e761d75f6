"""Codes of bits or symbols as an index: the nearest words."""

from __future__ import annotations

import torch
from torch import Tensor

from latentia.errors import OptionError

ROWS = 1024


def hamming_neighbours(words: Tensor, queries: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """The words nearest to each query by Hamming distance, the number of places that differ.

    Args:
        words: (N, D), bits or symbols, such as `encode` gives, rounded. queries: (M, D).
        count: how many for each query; equally near ones come in the order of `words`.

    Returns:
        The rows of the words (M, count), and their distances (M, count), nearest first.

    Raises:
        OptionError: more are asked for than there are, or queries of another length.
    """
    if not 1 <= count <= len(words):
        raise OptionError(f"count={count}: there are {len(words)} words")
    if words.flatten(1).shape[1] != queries.flatten(1).shape[1]:
        raise OptionError(f"queries of {tuple(queries.shape[1:])} places, words of {tuple(words.shape[1:])}")
    rows, distances = [], []
    for part in queries.flatten(1).split(ROWS):
        apart = torch.cdist(part.double(), words.flatten(1).double(), p=0.0)
        found = apart.sort(dim=1, stable=True)
        rows.append(found.indices[:, :count])
        distances.append(found.values[:, :count].long())
    return torch.cat(rows), torch.cat(distances)
