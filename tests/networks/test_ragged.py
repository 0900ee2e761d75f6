"""States of sequences of different lengths: those of each sequence read alone, and their gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from latentia.networks.ragged import states_of


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=0, max_size=6),
    more=st.integers(0, 2),
    kind=st.sampled_from([nn.GRU, nn.LSTM]),
    both=st.booleans(),
    layers=st.integers(1, 2),
)
def test_each_sequence_is_read_as_if_it_were_alone(lengths, more, kind, both, layers):
    torch.manual_seed(0)
    network = kind(3, 4, layers, batch_first=True, bidirectional=both).double()
    steps = max(lengths, default=1) + more
    inputs = torch.randn(len(lengths), steps, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(len(lengths), steps, 4 * (1 + both), dtype=torch.float64)
    found = states_of(network, inputs, torch.tensor(lengths, dtype=torch.long))
    alone = torch.zeros_like(weights)
    for row, length in enumerate(lengths):
        alone[row, :length] = network(inputs[row : row + 1, :length])[0][0]
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-12)
    if not lengths:
        return
    wanted = torch.autograd.grad((alone * weights).sum(), [inputs, *network.parameters()])
    slopes = torch.autograd.grad((found * weights).sum(), [inputs, *network.parameters()])
    for one, other in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_what_lies_behind_the_end_changes_nothing():
    network = nn.GRU(2, 3, batch_first=True, bidirectional=True)
    inputs = torch.randn(2, 4, 2)
    lengths = torch.tensor([4, 2])
    first = states_of(network, inputs, lengths)
    inputs[1, 2:] = torch.nan
    assert torch.equal(states_of(network, inputs, lengths), first)
    assert (first[1, 2:] == 0).all()


def test_a_sequence_of_no_step_is_refused():
    with pytest.raises(RuntimeError, match=r"[Ll]ength"):
        states_of(nn.GRU(2, 3, batch_first=True), torch.zeros(2, 4, 2), torch.tensor([4, 0]))
