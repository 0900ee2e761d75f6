"""The output layer by chunks: the values and gradients of the whole one, in a stated memory."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from latentia.kernels import vocabulary
from latentia.kernels.vocabulary import log_probabilities


def problem(rows, symbols, width, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, width), (symbols, width), (symbols,))
    parts = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    return parts, torch.randint(symbols, (rows,), generator=generator)


def chunked(parts, target):
    features, weight, bias = parts
    return log_probabilities(features, weight, bias, target)


def plain(parts, target):
    features, weight, bias = parts
    return torch.log_softmax(features @ weight.T + bias, -1).gather(1, target.unsqueeze(1)).squeeze(1)


# all rows kept; by chunks of two rows; by chunks of one
@pytest.mark.parametrize(("kept", "chunk"), [(2**20, 2**20), (0, 2 * 8 * 11), (0, 0)])
def test_values_and_gradients_are_those_of_the_whole_layer(monkeypatch, kept, chunk):
    monkeypatch.setattr(vocabulary, "KEPT", kept)
    monkeypatch.setattr(vocabulary, "CHUNK", chunk)
    parts, target = problem(7, 11, 4)
    slope = torch.randn(7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, truth = chunked(parts, target), plain(parts, target)
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(found, parts, slope), torch.autograd.grad(truth, parts, slope), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_gradients_are_finite_differences():
    parts, target = problem(3, 5, 2)
    assert torch.autograd.gradcheck(lambda *given: chunked(given, target), parts)


def test_far_apart_logits_and_no_rows_at_all():
    features, weight = torch.tensor([[1.0], [-1.0]]).double(), torch.tensor([[300.0], [-300.0]]).double()
    found = log_probabilities(features, weight, torch.zeros(2).double(), torch.tensor([1, 1]))
    assert found.tolist() == [-600.0, 0.0]
    assert log_probabilities(features[:0], weight, torch.zeros(2).double(), torch.tensor([]).long()).shape == (0,)


def test_a_symbol_outside_of_the_vocabulary_is_refused():
    (features, weight, bias), _ = problem(2, 5, 2)
    with pytest.raises(IndexError, match="vocabulary of 5"):
        log_probabilities(features, weight, bias, torch.tensor([1, 5]))


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that any operation makes."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(part, torch.Tensor):
                self.found = max(self.found, part.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("rows", [300, 3000])
def test_no_tensor_is_larger_than_the_bound(monkeypatch, rows):
    monkeypatch.setattr(vocabulary, "KEPT", 2**21)
    monkeypatch.setattr(vocabulary, "CHUNK", 2**19)
    parts, target = problem(rows, 1000, 8, torch.float32)
    with Largest() as largest:
        chunked(parts, target).sum().backward()
    whole = rows * 1000 * 4
    assert largest.found <= (2**21 if whole <= 2**21 else 2**19)
    with Largest() as other:
        plain(parts, target).sum().backward()
    assert other.found >= whole
