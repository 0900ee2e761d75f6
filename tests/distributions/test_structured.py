"""Chain and OneHot against enumeration written without them, and the fused kernel against the recursion."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch.distributions import kl_divergence

from latentia.distributions import Chain, OneHot
from latentia.distributions.factorial import Chains, CoupledChains
from latentia.distributions.semiring import k_best
from latentia.kernels import chain as kernel

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))  # B, T, K
SEEDS = st.integers(0, 10_000)
KINDS = st.sampled_from(["shared", "by step", "by datum and step"])
quick = settings(max_examples=25, deadline=None)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_chain(shape, seed, kind="shared", ragged=True, impossible=False, scale=2.0):
    batch, steps, states = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return scale * torch.randn(size, generator=generator, dtype=torch.float64)

    leading = {"shared": (1,), "by step": (steps - 1,), "by datum and step": (batch, steps - 1)}[kind]
    initial = normal(batch, states) if kind == "by datum and step" else normal(states)
    potentials = {"initial": initial, "transition": normal(*leading, states, states)}
    potentials["node"] = normal(batch, steps, states)
    if impossible and states > 1:
        gone = torch.rand(potentials["node"].shape, generator=generator) < 0.3
        potentials["node"][gone] = -torch.inf
        potentials["transition"][..., 0, 1] = -torch.inf
    lengths = torch.randint(steps + 1, (batch,), generator=generator) if ragged else None
    return Chain(potentials, lengths)


def paths_of(chain, b):
    """Every path of one datum with its score, by plain loops: [(score, path)], best first."""
    states = chain.event_shape[-1]
    length = int(chain.lengths.expand(chain.batch_shape[0])[b])
    initial, transition, node = (chain.log_potentials[name].double() for name in ("initial", "transition", "node"))
    initial = initial[b] if initial.ndim == 2 else initial
    transition = transition[b] if transition.ndim == 4 else transition
    scored = []
    for path in itertools.product(range(states), repeat=length):
        score = float(initial[path[0]]) if length else 0.0
        score += sum(float(node[b, t, k]) for t, k in enumerate(path))
        for t in range(1, length):
            step = transition[0 if transition.shape[0] == 1 else t - 1]
            score += float(step[path[t - 1], path[t]])
        scored.append((score if score > -1e29 else -float("inf"), path))
    return sorted(scored, key=lambda pair: -pair[0])


def one_hot(chain, path):
    z = torch.zeros(chain.event_shape, dtype=torch.float64)
    for t, k in enumerate(path):
        z[t, k] = 1
    return z


def brute(chain):
    """log Z (B,), marginals (B, T, K), entropy (B,)."""
    totals, marginals, entropies = [], [], []
    for b in range(chain.batch_shape[0]):
        scores, paths = zip(*paths_of(chain, b), strict=True)
        scores = torch.tensor(scores, dtype=torch.float64)
        total = torch.logsumexp(scores, 0)
        p = (scores - total).exp()
        totals.append(total)
        marginals.append(sum(w * one_hot(chain, path) for w, path in zip(p, paths, strict=True)))
        entropies.append(-torch.special.xlogy(p, p).sum())
    return torch.stack(totals), torch.stack(marginals), torch.stack(entropies)


def close(left, right, tolerance=1e-9):
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


@quick
@given(SHAPES, SEEDS, KINDS, st.booleans())
def test_chain_equals_enumeration(shape, seed, kind, ragged):
    chain = make_chain(shape, seed, kind, ragged)
    total, marginals, entropy = brute(chain)
    close(chain.log_partition, total)
    close(chain.marginals, marginals)
    close(chain.mean, marginals)
    close(chain.entropy(), entropy)


@quick
@given(SHAPES, SEEDS, KINDS)
def test_mode_and_top_k_equal_enumeration(shape, seed, kind):
    chain, k = make_chain(shape, seed, kind), 4
    log_probs, best = chain.top_k(k)
    assert bool((log_probs[:-1] >= log_probs[1:]).all())
    for b in range(shape[0]):
        ranked = paths_of(chain, b)
        total = torch.logsumexp(torch.tensor([s for s, _ in ranked], dtype=torch.float64), 0)
        close(chain.mode[b], one_hot(chain, ranked[0][1]))
        for j in range(k):
            if j < len(ranked):
                close(log_probs[j, b], torch.tensor(ranked[j][0], dtype=torch.float64) - total)
                close(best[j, b], one_hot(chain, ranked[j][1]))
            else:
                assert log_probs[j, b] == -torch.inf


@quick
@given(SHAPES, SEEDS, KINDS)
def test_score_and_log_prob_equal_enumeration(shape, seed, kind):
    chain = make_chain(shape, seed, kind)
    total = brute(chain)[0]
    for b in range(shape[0]):
        for score, path in paths_of(chain, b)[:5]:
            z = chain.mode.clone()
            z[b] = one_hot(chain, path)
            close(chain.score(z.unsqueeze(0))[0, b], torch.tensor(score, dtype=torch.float64))
            close(chain.log_prob(z.unsqueeze(0))[0, b], score - total[b])


@quick
@given(SHAPES, SEEDS, KINDS)
def test_kl_equals_enumeration(shape, seed, kind):
    q = make_chain(shape, seed, kind)
    p = Chain(make_chain(shape, seed + 1, kind).log_potentials, q.lengths)
    divergence = kl_divergence(q, p)
    assert bool((divergence >= -1e-12).all())
    for b in range(shape[0]):
        left, right = ({path: s for s, path in paths_of(side, b)} for side in (q, p))
        log_q, log_p = (torch.tensor([side[path] for path in left], dtype=torch.float64) for side in (left, right))
        log_q, log_p = log_q.log_softmax(0), log_p.log_softmax(0)
        close(divergence[b], (log_q.exp() * (log_q - log_p)).sum())


@quick
@given(SHAPES, SEEDS)
def test_impossible_paths_have_no_probability(shape, seed):
    chain = make_chain(shape, seed, impossible=True)
    total, _, _ = brute(chain)
    there = total > -torch.inf
    assert torch.equal(chain.log_partition > -torch.inf, there)
    close(chain.log_partition[there], total[there])
    assert bool(chain.marginals.isfinite().all())
    gone = (chain.log_potentials["node"] < -1e29) & there[:, None, None]
    assert not bool((chain.marginals[gone] > 1e-12).any())


@pytest.mark.parametrize("kind", ["shared", "by step", "by datum and step"])
def test_draws_have_the_frequencies_of_enumeration(kind):
    torch.manual_seed(0)
    chain, draws = make_chain((4, 3, 2), 3, kind, scale=1.0), 20_000
    z = chain.sample((draws,))
    assert z.shape == (draws, 4, 3, 2)
    for b in range(4):
        ranked = paths_of(chain, b)
        p = torch.tensor([s for s, _ in ranked], dtype=torch.float64).softmax(0)
        counts = torch.stack([(z[:, b] == one_hot(chain, path)).all(-1).all(-1).sum() for _, path in ranked]).double()
        assert counts.sum() == draws
        statistic = float(((counts - draws * p) ** 2 / (draws * p)).sum())
        assert chi2.sf(statistic, max(len(p) - 1, 1)) > 1e-6 or len(p) == 1


def test_marginals_have_a_gradient():
    """The derivative of a marginal is a covariance: a second derivative of log Z, past the kernel."""
    chain = make_chain((2, 3, 2), 0)
    node = chain.log_potentials["node"]

    def marginals(node):
        return Chain({**chain.log_potentials, "node": node}, chain.lengths).marginals

    assert torch.autograd.gradcheck(marginals, (node.requires_grad_(),))


def test_entropy_and_kl_have_gradients():
    chain, other = make_chain((2, 3, 2), 0), make_chain((2, 3, 2), 1)
    p = Chain(other.log_potentials, chain.lengths)

    def both(*values):
        q = Chain(dict(zip(chain.log_potentials, values, strict=True)), chain.lengths)
        return q.entropy(), kl_divergence(q, p)

    values = tuple(phi.clone().requires_grad_() for phi in chain.log_potentials.values())
    assert torch.autograd.gradcheck(both, values)


def long_pair(family, steps, dtype):
    """Posterior and prior of chains of so many steps, whose scores are large next to their differences."""
    generator = torch.Generator().manual_seed(0)
    move = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()
    chains = (2,) if family in (Chains, CoupledChains) else ()
    node = torch.randn(2, steps, *chains, 2, generator=generator) - 20
    shared = {"initial": torch.zeros(*chains, 2).log_softmax(-1), "transition": move.expand(*(chains or (1,)), 2, 2)}
    if family == "moving":
        shared["transition"] = move.expand(steps - 1, 2, 2)
    others = {"joint": torch.randn(2, steps, 4, generator=generator) - 20} if family is CoupledChains else {}
    q, p = ({**shared, "node": phi} for phi in (node, torch.zeros_like(node)))
    q, p = ({name: phi.to(dtype) for name, phi in one.items()} for one in ({**q, **others}, p))
    kind = family if isinstance(family, type) else Chain
    return kind(q), (Chains if kind is CoupledChains else kind)(p)


@pytest.mark.parametrize(("family", "steps"), [(Chain, 5000), ("moving", 300), (Chains, 2000), (CoupledChains, 2000)])
def test_float32_loses_nothing_of_long_chains(family, steps):
    """To float32's own digits, although log Z is some 20 nats a step."""
    (q, p), (q_exact, p_exact) = (long_pair(family, steps, dtype) for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(kl_divergence(q, p).double(), kl_divergence(q_exact, p_exact), rtol=1e-6, atol=0)
    torch.testing.assert_close(q.entropy().double(), q_exact.entropy(), rtol=1e-6, atol=0)
    z = torch.zeros_like(q_exact.log_potentials["node"]).unsqueeze(0)
    z[..., 0] = 1
    torch.testing.assert_close(q.log_prob(z.float()).double(), q_exact.log_prob(z), rtol=1e-6, atol=0)
    leaves = {name: phi.clone().requires_grad_() for name, phi in q.log_potentials.items()}
    marginals = type(q)(leaves).marginals
    torch.testing.assert_close(marginals.sum(-1), torch.ones_like(marginals.sum(-1)), rtol=0, atol=1e-6)
    torch.testing.assert_close(marginals.double(), q_exact.marginals, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", [Chain, "moving", Chains, CoupledChains])
def test_what_all_states_of_a_step_share_changes_nothing(family):
    """However large it is: an outlier takes 1e10 nats off every state's log p(x_t | z_t)."""
    q, p = long_pair(family, 40, torch.float64)
    entropy, divergence, marginals = q.entropy(), kl_divergence(q, p), q.marginals
    for name in set(q.log_potentials) & {"node", "joint"}:
        moved = {key: phi.clone() for key, phi in q.log_potentials.items()}
        moved[name][:, 7] -= 2.0**33
        far = type(q)({key: phi.requires_grad_() for key, phi in moved.items()})
        # 2**33 rounds the potentials themselves to 2e-6
        close(far.entropy(), entropy, 1e-4)
        close(kl_divergence(far, p), divergence, 1e-4)
        close(far.marginals, marginals, 1e-5)


def test_a_state_outside_the_length_is_impossible():
    chain = make_chain((1, 3, 2), 0, ragged=False)
    chain = Chain(chain.log_potentials, torch.tensor([2]))
    z = torch.zeros(1, 1, 3, 2, dtype=torch.float64)
    z[..., 0] = 1
    assert chain.score(z) == -torch.inf  # a state where there is none
    z[:, :, 2] = 0
    assert chain.score(z).isfinite()
    z[:, :, 1] = 0
    assert chain.score(z) == -torch.inf  # no state where there is one


def test_uniform_chain_counts_its_paths():
    potentials = {"initial": torch.zeros(3), "transition": torch.zeros(1, 3, 3), "node": torch.zeros(1, 6, 3)}
    assert Chain(potentials).log_partition.exp().round() == 3**6
    assert len(Chain(potentials).recursion(potentials, k_best(7))) == 7


# ------------------------------------------------------------------------------------------------ the kernel


@quick
@given(SHAPES, SEEDS, st.sampled_from(["(K,)", "(1, K)", "(B, K)"]))
def test_the_kernel_equals_the_recursion(shape, seed, initial):
    chain = make_chain(shape, seed)
    batch, _, states = shape
    leaves = {name: phi.clone() for name, phi in chain.log_potentials.items()}
    if initial == "(1, K)":
        leaves["initial"] = leaves["initial"].unsqueeze(0)
    if initial == "(B, K)":
        leaves["initial"] = torch.randn(batch, states, dtype=torch.float64)
    leaves = {name: phi.requires_grad_() for name, phi in leaves.items()}
    assert kernel.applies(leaves)
    value, safe = kernel.log_partition(leaves, chain.lengths)
    expected = chain.recursion(leaves, chain.sum)
    assert bool(safe.all())
    close(value, expected, 1e-10)
    weight = torch.rand(batch, dtype=torch.float64)
    found = torch.autograd.grad(value, list(leaves.values()), weight)
    wanted = torch.autograd.grad(expected, list(leaves.values()), weight, allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        close(one, torch.zeros_like(one) if other is None else other, 1e-10)


def extreme():
    """Every next state is e^1000 times less likely than what the transitions know."""
    node = torch.zeros(2, 4, 2, dtype=torch.float64)
    node[..., 1] = 1000.0
    transition = torch.tensor([[[0.0, -1e3], [-1e3, -2e3]]], dtype=torch.float64)
    return Chain({"initial": torch.tensor([0.0, -2e3], dtype=torch.float64), "transition": transition, "node": node})


def test_extreme_potentials_fall_back_on_the_recursion():
    chain = extreme()
    _, safe = kernel.log_partition(chain.log_potentials, chain.lengths)
    assert not bool(safe.any())
    total, marginals, _ = brute(chain)
    close(chain.log_partition, total)
    close(chain.marginals, marginals)


@quick
@given(SEEDS, st.sampled_from([30.0, 100.0]))
def test_far_apart_potentials_equal_enumeration(seed, scale):
    chain = make_chain((2, 4, 3), seed, scale=scale)
    total, marginals, _ = brute(chain)
    close(chain.log_partition, total)
    close(chain.marginals, marginals, 1e-7)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("initial", 3),
        ("transition", 3),
        ("initial", 1),
        ("transition", 2),
    ],
)
def test_large_positive_potentials_fall_back_on_the_recursion(name, steps):
    chain = make_chain((2, steps, 2), 0, ragged=False)
    chain = Chain({**chain.log_potentials, name: chain.log_potentials[name] + 1000})
    close(chain.log_partition, brute(chain)[0])


def test_single_precision_follows():
    chain = make_chain((3, 5, 3), 0)
    single = Chain({name: phi.float() for name, phi in chain.log_potentials.items()}, chain.lengths)
    assert single.log_partition.dtype == single.marginals.dtype == torch.float32
    close(single.log_partition.double(), chain.log_partition, 1e-5)


def test_long_chains_do_not_underflow():
    chain = Chain(
        {"initial": torch.zeros(2), "transition": torch.zeros(1, 2, 2), "node": torch.full((1, 5000, 2), -50.0)}
    )
    close(chain.log_partition.double(), torch.tensor([5000 * (0.6931471805599453 - 50)]).double(), 1e-6)


# ------------------------------------------------------------------------------------------------ OneHot


@quick
@given(st.integers(1, 4), st.integers(1, 5), SEEDS)
def test_one_hot_equals_torch(batch, values, seed):
    generator = torch.Generator().manual_seed(seed)
    node, other = (torch.randn(batch, values, generator=generator, dtype=torch.float64) for _ in range(2))
    q, p = OneHot({"node": node}), OneHot({"node": other})
    ours, theirs = (
        torch.distributions.OneHotCategorical(logits=node),
        torch.distributions.OneHotCategorical(logits=other),
    )
    z = q.enumerate_support()
    assert z.shape == (values, batch, values)
    close(q.log_partition, torch.logsumexp(node, -1))
    close(q.log_prob(z), ours.log_prob(z))
    close(q.score(z), (z * node).sum(-1))
    close(q.marginals, ours.probs)
    close(q.entropy(), ours.entropy())
    close(kl_divergence(q, p), kl_divergence(ours, theirs))
    close(q.mode, torch.eye(values, dtype=torch.float64)[node.argmax(-1)])
    log_probs, best = q.top_k(values)
    ranked = node.log_softmax(-1).sort(-1, descending=True)
    close(log_probs, ranked.values.T)
    close(best.argmax(-1), ranked.indices.T)


def test_one_hot_draws_have_its_frequencies():
    torch.manual_seed(0)
    q, draws = OneHot({"node": torch.tensor([[0.0, 1.0, -torch.inf], [2.0, 0.0, 0.0]])}), 20_000
    counts = q.sample((draws,)).sum(0)
    assert counts[0, 2] == 0
    close(counts / draws, q.marginals, 0.02)


def test_hard_gives_the_best_structures_counts():
    chain = make_chain((3, 4, 2), 1)
    close(chain.hard().expectations()["node"], chain.mode)
    close(chain.hard().log_partition, chain.score(chain.mode.unsqueeze(0))[0])


def test_expectations_weigh_each_datum():
    chain = make_chain((3, 4, 2), 1)
    weight = torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64)
    close(chain.expectations(weight)["node"], chain.marginals * weight[:, None, None])
    whole = chain.expectations(weight)["transition"].sum()
    close(whole, (weight * (chain.lengths - 1).clamp(min=0)).sum())


def test_families_do_not_mix():
    with pytest.raises(NotImplementedError, match="Chain and OneHot"):
        kl_divergence(make_chain((1, 2, 2), 0), OneHot({"node": torch.zeros(1, 2)}))
