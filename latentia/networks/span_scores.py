"""A score for every span of a sentence."""

from __future__ import annotations

from torch import Tensor, nn

from latentia.networks.ragged import states_of


class SpanScores(nn.Module):
    """Scores of spans, (B, T, T), from words (B, T, inputs) and how many there are of each sentence, (B,).

    The words from i to j, both counted, are [f_j - f_{i-1}, b_i - b_{j+1}], with the states f and b of an LSTM that
    reads forwards and of one that reads backwards, and their score is a network of one hidden layer of it (Wang and
    Chang 2016; Kim et al. 2019, section 2.2). Spans of one word, and what is below the diagonal, have zeros.

    Args:
        inputs: width of a word's vector; hidden: width of the states in each direction, and of the hidden layer.
    """

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True, bidirectional=True)
        self.inner = nn.Linear(2 * hidden, hidden)
        self.outer = nn.Linear(hidden, 1, bias=False)  # a tree over n words has so many spans, whichever it is

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        steps = words.shape[1]
        if not words.numel():
            return words.new_zeros(len(words), steps, steps)
        forwards, backwards = states_of(self.lstm, words, lengths).chunk(2, -1)
        one, other = self.inner.weight.chunk(2, -1)
        # a linear map of a difference is the difference of two maps: no vector of both ends is made before the sum
        there, back = forwards @ one.mT, backwards @ other.mT
        ends = there - nn.functional.pad(back, (0, 0, 0, 1))[:, 1:]
        starts = back - nn.functional.pad(there, (0, 0, 1, 0))[:, :-1]
        hidden = (starts.unsqueeze(2) + ends.unsqueeze(1) + self.inner.bias).relu()
        return self.outer(hidden).squeeze(-1).triu(1)
