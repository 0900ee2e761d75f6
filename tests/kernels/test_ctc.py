"""CTC's kernel against the recursion, and against torch's own loss, values and gradients."""

import pytest
import torch

from latentia.distributions.alignment import Lattice, MonotoneAlignment
from latentia.distributions.semiring import log_sum
from latentia.errors import DataError
from latentia.kernels import ctc as kernel


@pytest.fixture(autouse=True, params=[1, 3], ids=["one thread", "three threads"], scope="module")
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def made(batch, frames, columns, room, seed, scale=1.0, alphabet=None):
    """Logits, strings with repeats, and ragged lengths of both; every string fits its frames."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(batch, frames, columns, generator=generator, dtype=torch.float64)
    target = torch.randint(alphabet or columns - 1, (batch, room), generator=generator)
    ends = torch.randint(room + 1, (batch,), generator=generator)
    repeats = torch.stack([(row[1:end] == row[: max(end - 1, 0)]).sum() for row, end in zip(target, ends, strict=True)])
    least = ends + repeats
    extra = (torch.rand(batch, generator=generator) * (frames - least + 1)).long()
    return logits, target, least + extra, ends


def value_and_slope(logits, target, lengths, ends, softmax, fused=True):
    leaf = logits.clone().requires_grad_()
    lattice = Lattice.ctc(target, ends, logits.shape[-1] - 1)
    if fused:
        value, safe = kernel.log_partition(leaf, lengths, target, ends, logits.shape[-1] - 1, softmax)
        assert bool(safe.all())
    else:
        node = leaf.log_softmax(-1) if softmax else leaf + 0.0
        q = MonotoneAlignment({"node": node}, lattice, lengths)
        value = q.recursion(q.log_potentials, log_sum)
    weight = torch.linspace(0.5, 2, len(value), dtype=value.dtype)
    return value.detach(), torch.autograd.grad(value, leaf, weight)[0]


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_kernel_equals_the_recursion(softmax, seed):
    given = made(7, 12, 4, 5, seed, scale=3.0)
    found, expected = (value_and_slope(*given, softmax, fused) for fused in (True, False))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def torchs(logits, target, lengths, ends):
    leaf = logits.clone().requires_grad_()
    blank = logits.shape[-1] - 1
    log_probs = leaf.log_softmax(-1).transpose(0, 1)
    loss = torch.nn.CTCLoss(blank=blank, reduction="none")(log_probs, target, lengths, ends)
    return -loss.detach(), -torch.autograd.grad(loss.sum(), leaf)[0]


def test_it_equals_torch_and_is_a_hundred_times_closer_in_single_precision():
    given = made(4, 200, 20, 25, 0, alphabet=6)
    value, slope = torchs(*given)
    single = (given[0].float(), *given[1:])

    def ours(logits, target, lengths, ends):
        leaf = logits.clone().requires_grad_()
        q = MonotoneAlignment.of_logits(leaf, Lattice.ctc(target, ends, logits.shape[-1] - 1), lengths)
        found = q.log_partition
        return found.detach(), torch.autograd.grad(found.sum(), leaf)[0]

    exact = ours(*given)
    torch.testing.assert_close(exact[0], value, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(exact[1], slope, rtol=1e-9, atol=1e-9)
    # the same numbers in float64 are the truth of what float32 was given
    truth = torchs(given[0].float().double(), *given[1:])
    here, there = ours(*single), torchs(*single)
    assert here[0].dtype == torch.float32
    torch.testing.assert_close(here[0].double(), truth[0], rtol=1e-6, atol=1e-4)
    error, theirs = (float((found[1].double() - truth[1]).abs().max()) for found in (here, there))
    assert error < 2e-6
    assert 100 * error < theirs


def test_far_apart_logits_fall_back_on_the_recursion():
    """Frames of which each is sure of a blank, and a string that needs symbols there: sums that share nothing."""
    logits = torch.zeros(3, 60, 4, dtype=torch.float64)
    logits[..., 3] = 60.0
    logits[1, :, 3] = 0.0
    target = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]]).expand(3, -1)
    lengths, ends = torch.tensor([60, 60, 20]), torch.tensor([15, 15, 15])
    lattice = Lattice.ctc(target, ends, 3)
    for dtype, exact in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        leaf = logits.to(dtype).requires_grad_()
        _, safe = kernel.log_partition(leaf, lengths, target, ends, 3, True)
        assert safe[:2].tolist() == [False, True]
        q = MonotoneAlignment.of_logits(leaf, lattice, lengths)
        plain = MonotoneAlignment({"node": logits.log_softmax(-1).requires_grad_()}, lattice, lengths)
        value = plain.recursion(plain.log_potentials, log_sum)
        torch.testing.assert_close(q.log_partition.double(), value, rtol=exact, atol=exact)
        (slope,) = torch.autograd.grad(q.log_partition.sum(), leaf)
        (wanted,) = torch.autograd.grad(value.sum(), plain.log_potentials["node"])
        wanted = wanted - logits.softmax(-1) * wanted.sum(-1, keepdim=True)
        torch.testing.assert_close(slope.double(), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_strings_and_strings_that_do_not_fit(dtype):
    logits = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    target = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0]])
    lengths, ends = torch.tensor([5, 0, 4, 0]), torch.tensor([0, 2, 3, 0])
    q = MonotoneAlignment.of_logits(logits, Lattice.ctc(target, ends, 2), lengths)
    blanks = logits[0].log_softmax(-1)[:, 2].sum()
    value = q.log_partition
    torch.testing.assert_close(value[[0, 3]], torch.stack([blanks, blanks.new_zeros(())]))
    assert value[[1, 2]].tolist() == [-torch.inf, -torch.inf]
    (slope,) = torch.autograd.grad(value[value > -torch.inf].sum(), logits)
    assert bool(slope.isfinite().all())
    assert not bool(slope[1:].any())


def test_half_precision_and_no_data():
    logits = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    q = MonotoneAlignment.of_logits(logits, Lattice.ctc(torch.tensor([[0, 1]]), torch.tensor([2]), 2))
    (slope,) = torch.autograd.grad(q.log_partition.sum(), logits)
    assert slope.dtype == torch.bfloat16
    assert bool((slope != 0).any())
    none = MonotoneAlignment.of_logits(logits[:0], Lattice.ctc(torch.zeros(0, 2).long(), torch.zeros(0).long(), 2))
    assert none.log_partition.shape == (0,)


@pytest.mark.parametrize(("name", "bad"), [("lengths", 7), ("lengths", -1), ("ends", 3), ("target", 3), ("target", -1)])
def test_what_lies_beyond_an_array_is_refused(name, bad):
    given = {"lengths": torch.tensor([6]), "target": torch.tensor([[0, 1]]), "ends": torch.tensor([2])}
    given[name] = torch.full_like(given[name], bad)
    with pytest.raises(DataError, match=str(bad)):
        kernel.log_partition(torch.zeros(1, 6, 3), given["lengths"], given["target"], given["ends"], 2, False)
