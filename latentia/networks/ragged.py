"""Recurrent networks over sequences of different lengths."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence


def states_of(network: nn.GRU | nn.LSTM, inputs: Tensor, lengths: Tensor) -> Tensor:
    """What a recurrent network (`batch_first`) has at each step, inputs (B, T, F) and lengths (B,) of 1 to T each to
    (B, T, hidden), of both directions one behind the other; zeros behind the ends.

    It is `pad_packed_sequence` of what the network makes of a packed sequence, with another gradient: torch's copies
    that of all (B, T, hidden) once for each length that there is, this one picks each step's once.
    """
    rows, steps = inputs.shape[:2]
    if not rows:
        return inputs.new_zeros(rows, steps, network.hidden_size * (1 + network.bidirectional))
    packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
    order = packed.sorted_indices
    assert order is not None  # of sequences that need not be sorted
    inside = torch.arange(steps, device=order.device).unsqueeze(1) < lengths.to(order.device)[order]
    step, row = inside.nonzero(as_tuple=True)
    found = network(packed)[0].data
    places = found.new_zeros(rows * steps, found.shape[-1])
    return places.index_copy(0, order[row] * steps + step, found).unflatten(0, (rows, steps))
