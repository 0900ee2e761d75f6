"""The nearest words by Hamming distance, against counting."""

import pytest
import torch

from latentia.errors import OptionError
from latentia.tasks.hamming import hamming_neighbours


def test_the_nearest_words_are_those_with_the_fewest_places_that_differ():
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(3, (40, 7), generator=generator)
    queries = torch.randint(3, (9, 7), generator=generator)
    rows, distances = hamming_neighbours(words, queries, 6)
    for query, near, far in zip(queries, rows, distances, strict=True):
        counted = (words != query).sum(-1)
        assert far.tolist() == sorted(counted.tolist())[:6]
        assert counted[near].tolist() == far.tolist()
        assert len(set(near.tolist())) == 6


def test_bits_find_themselves_and_the_first_of_equals():
    words = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 1, 1]], dtype=torch.bool)
    rows, distances = hamming_neighbours(words, words[2:], 3)
    assert rows.tolist() == [[0, 2, 1]]
    assert distances.tolist() == [[0, 0, 1]]
    with pytest.raises(OptionError, match="4"):
        hamming_neighbours(words, words, 4)
    with pytest.raises(OptionError, match="places"):
        hamming_neighbours(words, words[:, :2])
