"""Trees against enumeration written without them: all bracketings, labelings and heads of short sentences."""

import itertools
import math

import pytest
import torch
from scipy.stats import chi2
from torch.distributions import kl_divergence

from latentia.distributions import Brackets, Dependencies, Tree


def bracketings(i, j):
    """Every binary tree over the words from i to j, as lists of spans, by plain recursion."""
    if i == j:
        return [[(i, i)]]
    return [
        [(i, j), *left, *right] for k in range(i, j) for left in bracketings(i, k) for right in bracketings(k + 1, j)
    ]


def normal(seed, *size, scale=1.5):
    return scale * torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_brackets(seed, lengths=(5, 3, 1, 0, 4), size=5):
    return Brackets({"node": normal(seed, len(lengths), size, size)}, torch.tensor(lengths))


def make_dependencies(seed, lengths=(4, 3, 1, 0, 2), size=4):
    return Dependencies({"node": normal(seed, len(lengths), size, size)}, torch.tensor(lengths))


def make_tree(seed, lengths=(5, 2, 3), kinds=(2, 1), own=False, impossible=False):
    """Trees of `kinds` = (nonterminals, preterminals)."""
    batch, size, (some, symbols) = (len(lengths),) if own else (), max(lengths), (kinds[0], sum(kinds))
    potentials = {"root": normal(seed, *batch, some), "rule": normal(seed + 1, *batch, some, symbols, symbols)}
    potentials["word"] = normal(seed + 3, len(lengths), size, kinds[1])
    potentials["node"] = normal(seed + 2, len(lengths), size, size, symbols)
    if impossible:
        potentials["rule"][..., 0, 1, :] = -torch.inf
        potentials["node"][0, 0, 2] = -torch.inf
    return Tree(potentials, torch.tensor(lengths))


def all_brackets(p, b):
    """[(score, z)] of every tree of one datum."""
    node, length = p.log_potentials["node"][b], int(p.lengths[b])
    trees = bracketings(0, length - 1) if length else [[]]
    return [(sum(float(node[span]) for span in spans), chart(node, spans)) for spans in trees]


def chart(like, cells):
    z = torch.zeros_like(like)
    for cell in cells:
        z[cell] = 1
    return z


def all_trees(p, b):
    root, rule, node = p.log_potentials["root"], p.log_potentials["rule"], p.log_potentials["node"][b]
    word = p.log_potentials["word"][b]
    root, rule = (root[b], rule[b]) if root.ndim == 2 else (root, rule)
    length, found = int(p.lengths[b]), []
    for spans in bracketings(0, length - 1) if length > 1 else []:
        kinds = [range(p.nonterminals) if i < j else range(p.nonterminals, node.shape[-1]) for i, j in spans]
        for labels in itertools.product(*kinds):
            label = dict(zip(spans, labels, strict=True))
            score = float(root[label[0, length - 1]]) + sum(float(node[i, j, a]) for (i, j), a in label.items())
            for i, j in spans:
                if i == j:
                    score += float(word[i, label[i, i] - p.nonterminals])
                else:
                    k = next(k for k in range(i, j) if (i, k) in label and (k + 1, j) in label)
                    score += float(rule[label[i, j], label[i, k], label[k + 1, j]])
            z = chart(node, [(i, j, a) for (i, j), a in label.items()])
            found.append((score if score > -1e29 else -math.inf, z))
    return found


def is_projective(heads):
    """No word between a head and its modifier hangs from outside of them, and all hang from the root."""
    for m, h in enumerate(heads):
        for between in range(min(h, m) + 1, max(h, m)):
            up = between
            for _ in heads:
                up = heads[up]
                if up == h:
                    break
            if up != h:
                return False
    tops = set()
    for m in range(len(heads)):
        for _ in heads:
            m = heads[m]
        tops.add(m)
    roots = [m for m, h in enumerate(heads) if m == h]
    return len(roots) == 1 and tops == set(roots)


def all_dependencies(p, b):
    node, length = p.log_potentials["node"][b], int(p.lengths[b])
    trees = [heads for heads in itertools.product(range(length), repeat=length) if not length or is_projective(heads)]
    return [
        (sum(float(node[h, m]) for m, h in enumerate(heads)), chart(node, [(h, m) for m, h in enumerate(heads)]))
        for heads in trees
    ]


FAMILIES = {
    "brackets": (make_brackets, all_brackets),
    "dependencies": (make_dependencies, all_dependencies),
    "tree": (make_tree, all_trees),
    "tree of its own rules": (lambda seed: make_tree(seed, (3, 4, 2), (1, 2), own=True), all_trees),
    "tree with impossible rules": (lambda seed: make_tree(seed, (4, 2, 3), (2, 2), impossible=True), all_trees),
}
every = pytest.mark.parametrize("family", FAMILIES)


def enumerated(family, seed=0):
    make, structures = FAMILIES[family]
    p = make(seed)
    return p, [structures(p, b) for b in range(p.batch_shape[0])]


@every
def test_the_number_of_structures_is_the_known_one(family):
    catalan = [1, 1, 1, 2, 5, 14]
    projective = [1, 1, 2, 7, 30]  # binom(3n - 2, n - 1) / n
    p, structures = enumerated(family)
    for length, found in zip(p.lengths.tolist(), structures, strict=True):
        if family == "brackets":
            assert len(found) == catalan[length]
        elif family == "dependencies":
            assert len(found) == projective[length]
        else:
            k = p.nonterminals
            assert len(found) == catalan[length] * k ** (length - 1) * (p.event_shape[-1] - k) ** length
    zero = p._with({name: torch.zeros_like(phi) for name, phi in p.log_potentials.items()})
    counts = torch.tensor([len(found) for found in structures], dtype=torch.float64)
    assert zero.log_partition.exp().allclose(counts)


@every
@pytest.mark.parametrize("seed", [0, 7])
def test_values_are_those_of_enumeration(family, seed):
    p, structures = enumerated(family, seed)
    for b, found in enumerate(structures):
        scores = torch.tensor([score for score, _ in found], dtype=torch.float64)
        z = torch.stack([z for _, z in found])
        log_z = torch.logsumexp(scores, 0)
        probs = (scores - log_z).exp()
        assert p.log_partition[b].allclose(log_z)
        mean = torch.einsum("s,s...->...", probs, z)
        assert p.marginals[b].allclose(mean, atol=1e-12)
        assert p.mode[b].equal(z[scores.argmax()])
        assert p.hard().log_partition[b].allclose(scores.max())
        entropy = -torch.special.xlogy(probs, probs).sum()
        assert p.entropy()[b].allclose(entropy, atol=1e-10)
        wide = torch.zeros(len(z), *p.batch_shape, *p.event_shape, dtype=torch.float64)
        wide[:, b] = z
        assert p.score(wide)[:, b].allclose(scores)
        assert p.log_prob(wide)[:, b].allclose(scores - log_z)


@every
def test_the_k_best_are_those_of_enumeration(family):
    p, structures = enumerated(family, 3)
    log_probs, z = p.top_k(6)
    for b, found in enumerate(structures):
        best = sorted(found, key=lambda pair: -pair[0])[:6]
        best = [(score, tree) for score, tree in best if score > -math.inf]
        for k in range(6):
            if k < len(best):
                assert log_probs[k, b].allclose(best[k][0] - p.log_partition[b])
                assert z[k, b].equal(best[k][1])
            else:
                assert log_probs[k, b] == -math.inf


@every
def test_draws_have_their_probabilities(family):
    p, structures = enumerated(family, 1)
    draws = 4000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = p.sample((draws,))
    assert drawn.shape == (draws, *p.batch_shape, *p.event_shape)
    for b, found in enumerate(structures):
        scores = torch.tensor([score for score, _ in found], dtype=torch.float64)
        expected = draws * (scores - torch.logsumexp(scores, 0)).exp()
        places = {tuple(z.flatten().tolist()): s for s, (_, z) in enumerate(found)}
        seen = torch.zeros(len(found), dtype=torch.float64)
        for z in drawn[:, b].flatten(1).tolist():
            seen[places[tuple(z)]] += 1
        common = expected >= 5
        cells = torch.cat([seen[common], seen[~common].sum().view(1)])
        wanted = torch.cat([expected[common], expected[~common].sum().view(1)]).clamp(min=1e-9)
        statistic = float(((cells - wanted) ** 2 / wanted)[wanted > 1].sum())
        assert chi2.sf(statistic, max(int((wanted > 1).sum()) - 1, 1)) > 1e-6


@every
def test_kl_is_that_of_enumeration(family):
    make, structures = FAMILIES[family]
    p, q = make(0), make(20)
    for b in range(p.batch_shape[0]):
        one = torch.tensor([score for score, _ in structures(p, b)], dtype=torch.float64).log_softmax(0)
        other = torch.tensor([score for score, _ in structures(q, b)], dtype=torch.float64).log_softmax(0)
        there = one > -math.inf
        truth = (one.exp() * (one - other))[there].sum()
        assert kl_divergence(p, q)[b].allclose(truth, atol=1e-9)


@every
def test_what_is_no_tree_has_no_probability(family):
    p, structures = enumerated(family)
    z = torch.stack([found[0][1] if found else torch.zeros(p.event_shape) for found in structures])
    assert p.log_prob(z).isfinite().all()
    more, less = z.clone(), z.clone()
    more[0].view(-1)[int((z[0].flatten() == 0).nonzero()[0])] = 1
    less[0].view(-1)[int(z[0].flatten().nonzero()[0])] = 0
    assert p.log_prob(more)[0] == p.log_prob(less)[0] == -math.inf
    beyond = z.clone()
    beyond[1, -1, -1] = 1
    assert p.log_prob(beyond)[1] == -math.inf


def test_trees_of_words_alone_do_not_exist():
    p = make_tree(0, lengths=(1, 2, 0))
    assert p.log_partition.isinf().tolist() == [True, False, True]


@every
def test_gradients_of_what_is_derived_are_finite_differences(family):
    make, _ = FAMILIES[family]
    p = make(2)
    direction = {name: normal(5, *phi.shape) for name, phi in p.log_potentials.items()}

    def value(step, what):
        moved = p._with({name: phi + step * direction[name] for name, phi in p.log_potentials.items()})
        return (moved.entropy() if what == "entropy" else (moved.marginals * direction["node"])).sum()

    for what in ("entropy", "marginals"):
        step = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(value(step, what), step)
        numeric = (value(torch.tensor(1e-5), what) - value(torch.tensor(-1e-5), what)) / 2e-5
        assert slope.allclose(numeric, rtol=1e-5, atol=1e-7)


@every
def test_minimum_risk_is_the_tree_of_the_highest_expected_overlap(family):
    p, structures = enumerated(family, 4)
    if family == "tree with impossible rules":
        # it may be one of the trees that have no probability themselves
        structures = [all_trees(make_tree(4, (4, 2, 3), (2, 2)), b) for b in range(3)]
    marginals, found = p.marginals, p.minimum_risk
    for b, trees in enumerate(structures):
        best = max(float((z * marginals[b]).sum()) for _, z in trees)
        assert float((found[b] * marginals[b]).sum()) == pytest.approx(best, abs=1e-9)
