"""Alignments against enumeration written without them: every path of frames, collapsed by hand."""

import itertools
from functools import cache

import pytest
import torch
from scipy.stats import chi2
from torch.distributions import kl_divergence

from latentia.distributions.alignment import Collapsed, LatentAlignment, Lattice, MonotoneAlignment, collapsed
from latentia.distributions.semiring import log_sum

SYMBOLS = 3  # and the blank
STRINGS = {"plain": [0, 1, 2], "repeats": [1, 1, 0], "all alike": [2, 2, 2], "one": [1], "empty": []}


def close(left, right, tolerance=1e-9):
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def normal(*size, seed=0, scale=2.0):
    return scale * torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def collapse(path, blank=SYMBOLS):
    return [symbol for symbol, _ in itertools.groupby(path) if symbol != blank]


def fits(string, wanted):
    """Whether a string is the wanted one, None standing for a symbol that is hidden."""
    return len(string) == len(wanted) and all(w is None or s == w for s, w in zip(string, wanted, strict=True))


def paths_of(node, wanted, frames):
    """Every path of frames (t, C) that collapses to the wanted string, with its score, best first."""
    node = node.tolist()
    paths = [path for path, string in every_path(frames) if fits(string, wanted)]
    scored = [(sum(node[t][s] for t, s in enumerate(path)), path) for path in paths]
    return sorted(scored, key=lambda pair: -pair[0])


@cache
def every_path(frames):
    paths = itertools.product(range(SYMBOLS + 1), repeat=frames)
    return [(path, collapse(path)) for path in paths]


def one_hot(path, frames, columns=SYMBOLS + 1):
    z = torch.zeros(frames, columns, dtype=torch.float64)
    for t, symbol in enumerate(path):
        z[t, symbol] = 1
    return z


def alignment(node, strings, lengths):
    """The alignments of strings, None being a hidden symbol, in one batch."""
    room = max(map(len, strings)) or 1
    target = torch.tensor([[s or 0 for s in string] + [0] * (room - len(string)) for string in strings])
    seen = torch.tensor([[s is not None for s in string] + [True] * (room - len(string)) for string in strings])
    ends = torch.tensor([len(string) for string in strings])
    return MonotoneAlignment({"node": node}, Lattice.ctc(target, ends, SYMBOLS, seen), torch.tensor(lengths))


def brute(q, strings):
    """log Z (B,), marginals (B, T, C), entropy (B,), for strings that are possible."""
    node, frames = q.log_potentials["node"].detach(), q.event_shape[0]
    found = []
    for b, string in enumerate(strings):
        scores, paths = zip(*paths_of(node[b], string, int(q.lengths[b])), strict=True)
        scores = torch.tensor(scores, dtype=torch.float64)
        p = scores.softmax(0)
        marginal = sum(w * one_hot(path, frames) for w, path in zip(p, paths, strict=True))
        found.append((torch.logsumexp(scores, 0), marginal, -torch.special.xlogy(p, p).sum()))
    return [torch.stack(part) for part in zip(*found, strict=True)]


HIDDEN = [[0, None, 1], [None, None, 2], [1, 1, None], [None], []]


@pytest.mark.parametrize("strings", [list(STRINGS.values()), HIDDEN], ids=["seen", "hidden"])
def test_ctc_equals_enumeration(strings):
    """Up to six frames: sums, marginals, the best path and the entropy; one kernel or the recursion serves each."""
    q = alignment(normal(5, 6, SYMBOLS + 1), strings, [6, 5, 5, 3, 4])
    total, marginals, entropy = brute(q, strings)
    close(q.log_partition, total)
    close(q.marginals, marginals)
    close(q.entropy(), entropy)
    log_probs, best = q.top_k(3)
    for b, string in enumerate(strings):
        ranked = paths_of(q.log_potentials["node"][b], string, int(q.lengths[b]))
        close(q.mode[b], one_hot(ranked[0][1], 6))
        for j, (score, path) in enumerate(ranked[:3]):
            close(log_probs[j, b], score - total[b])
            close(best[j, b], one_hot(path, 6))
            z = best[:1].clone()
            z[0, b] = one_hot(path, 6)
            close(q.score(z)[0, b], torch.tensor(score, dtype=torch.float64))
            close(q.log_prob(z)[0, b], score - total[b])


def test_a_path_of_another_string_has_no_probability():
    q = alignment(normal(1, 4, SYMBOLS + 1), [[1, 1]], [3])
    for path in ((1, 1, 1), (1, 3, 2), (1, 3, 1, 3), (1, 3)):
        assert q.score(one_hot(path, 4).unsqueeze(0).unsqueeze(0)) == -torch.inf
    assert q.score(one_hot((1, 3, 1), 4).unsqueeze(0).unsqueeze(0)).isfinite()


def test_draws_have_the_frequencies_of_enumeration():
    torch.manual_seed(0)
    q, draws = alignment(normal(2, 5, SYMBOLS + 1, scale=0.7), [[1, 1], [0]], [5, 3]), 20_000
    z = q.sample((draws,))
    for b, string in enumerate([[1, 1], [0]]):
        ranked = paths_of(q.log_potentials["node"][b], string, int(q.lengths[b]))
        p = torch.tensor([score for score, _ in ranked], dtype=torch.float64).softmax(0)
        counts = torch.stack([(z[:, b] == one_hot(path, 5)).flatten(1).all(1).sum() for _, path in ranked]).double()
        assert counts.sum() == draws
        statistic = float(((counts - draws * p) ** 2 / (draws * p)).sum())
        assert chi2.sf(statistic, len(p) - 1) > 1e-6


def test_places_without_blanks_equal_enumeration():
    """Frames that go through places in order: as many paths as there are ways to cut frames into pieces."""
    ends, lengths = torch.tensor([3, 1, 2, 0]), torch.tensor([5, 5, 2, 0])
    node = normal(4, 5, 3)
    q = MonotoneAlignment({"node": node}, Lattice.monotone(3, ends), lengths)
    for b in range(4):
        frames, places = int(lengths[b]), int(ends[b])
        cuts = itertools.combinations(range(1, frames), places - 1) if places else [()]
        paths = []
        for cut in cuts:
            edges = [0, *cut, frames]
            paths.append([i for i in range(places) for _ in range(edges[i], edges[i + 1])])
        scores = torch.tensor([sum(float(node[b, t, i]) for t, i in enumerate(path)) for path in paths])
        close(q.log_partition[b], torch.logsumexp(scores.double(), 0), 1e-6)
    assert bool((q.marginals.sum(-1).sum(-1) - lengths).abs().max() < 1e-9)


def test_marginals_entropy_and_divergence_have_gradients():
    node, other = normal(2, 3, SYMBOLS + 1), normal(2, 3, SYMBOLS + 1, seed=1)
    strings, lengths = [[0, 1], [1, 1]], [3, 3]

    def all_of(node):
        q, p = alignment(node, strings, lengths), alignment(other, strings, lengths)
        return q.log_partition, q.marginals, q.entropy(), kl_divergence(q, p)

    assert torch.autograd.gradcheck(all_of, (node.requires_grad_(),))


def test_what_cannot_be_aligned_is_minus_infinity_with_no_gradient():
    """A string that is longer than its frames, or that needs one more for a blank: by both ways."""
    node = normal(4, 3, SYMBOLS + 1).requires_grad_()
    strings = [[0, 1, 2, 0], [1, 1, 0], [1, 1], [0]]
    q = alignment(node, strings, [3, 3, 3, 0])
    assert (q.log_partition == -torch.inf).tolist() == [True, True, False, True]
    assert q.impossible.tolist() == [True, True, False, True]
    for value in (q.log_partition, q.recursion(q.log_potentials, log_sum)):
        (slope,) = torch.autograd.grad(value.where(value > -1e29, 0.0).sum(), node, retain_graph=True)
        assert bool((slope[[0, 1, 3]] == 0).all())
        assert bool((slope[2] != 0).any())
    assert q.marginals.isfinite().all()


def test_collapsing_is_what_the_definition_says():
    paths = [p for n in range(1, 5) for p in itertools.product(range(SYMBOLS + 1), repeat=n)]
    z = torch.stack([one_hot(path, 4) for path in paths])
    symbols, count = collapsed(z, SYMBOLS)
    for path, row, length in zip(paths, symbols.tolist(), count.tolist(), strict=True):
        assert row == collapse(path) + [0] * (4 - length)


def test_a_collapsed_string_is_certain():
    z = torch.stack([one_hot((1, 1, 3, 1), 4), one_hot((3, 2, 0, 0), 4)]).unsqueeze(0)
    p = Collapsed(z, 2, torch.tensor([2, 2]))
    assert p.sample().tolist() == [[[1, 1], [2, 0]]]
    assert p.log_prob(torch.tensor([[1, 1], [2, 1]])).tolist() == [[0.0, -torch.inf]]
    assert Collapsed(z, 2, torch.tensor([1, 2])).log_prob(torch.tensor([[1, 1], [2, 0]])).tolist() == [[-torch.inf, 0]]


# ------------------------------------------------------------------------------------------------- source positions


def every(steps, positions):
    return list(itertools.product(range(positions), repeat=steps))


@pytest.mark.parametrize("seed", [0, 1])
def test_latent_alignment_equals_enumeration(seed):
    lengths, positions = torch.tensor([3, 2, 0]), 3
    q = LatentAlignment({"node": normal(3, 3, positions, seed=seed)}, lengths)
    p = LatentAlignment({"node": normal(3, 3, positions, seed=seed + 7)}, lengths)
    log_probs, best = q.top_k(4)
    for b in range(3):
        paths = every(int(lengths[b]), positions)
        node, others = q.log_potentials["node"][b], p.log_potentials["node"][b]
        scores, theirs = (
            torch.tensor([sum(float(phi[t, k]) for t, k in enumerate(path)) for path in paths], dtype=torch.float64)
            for phi in (node, others)
        )
        chance = scores.softmax(0)
        close(q.log_partition[b], torch.logsumexp(scores, 0))
        close(q.marginals[b], sum(w * one_hot(path, 3, positions) for w, path in zip(chance, paths, strict=True)))
        close(q.entropy()[b], -(chance * scores.log_softmax(0)).sum())
        close(kl_divergence(q, p)[b], (chance * (scores.log_softmax(0) - theirs.log_softmax(0))).sum())
        order = scores.argsort(descending=True)
        close(q.mode[b], one_hot(paths[int(order[0])], 3, positions))
        for j, place in enumerate(order[:4].tolist()):
            close(log_probs[j, b], scores.log_softmax(0)[place])
            close(best[j, b], one_hot(paths[place], 3, positions))
        z = torch.stack([one_hot(path, 3, positions) for path in paths])
        whole = q.mode.expand(len(paths), -1, -1, -1).clone()
        whole[:, b] = z
        close(q.score(whole)[:, b], scores)
    assert bool((log_probs[1:, 2] == -torch.inf).all())  # of no steps there is one alignment


def test_latent_alignments_have_gradients_and_frequencies():
    lengths = torch.tensor([3, 2])
    node = normal(2, 3, 2).requires_grad_()

    def all_of(node):
        q = LatentAlignment({"node": node}, lengths)
        return q.log_partition, q.marginals, q.entropy()

    assert torch.autograd.gradcheck(all_of, (node,))
    torch.manual_seed(0)
    q = LatentAlignment({"node": node.detach()}, lengths)
    z = q.sample((20_000,))
    error = (q.marginals * (1 - q.marginals) / 20_000).sqrt()
    assert bool(((z.mean(0) - q.marginals).abs() <= 5 * error).all())
    outside = q.mode.clone()
    outside[1, 2, 0] = 1
    assert q.score(outside.unsqueeze(0))[0, 1] == -torch.inf
