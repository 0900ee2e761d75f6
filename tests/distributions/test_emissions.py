"""Families of K distributions: against SciPy, scikit-learn and hand-written sums; missing values, weights, priors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.naive_bayes import BernoulliNB, CategoricalNB, MultinomialNB
from torch.autograd import gradcheck, gradgradcheck

from latentia.distributions.emissions import (
    BernoulliEmissions,
    CategoricalEmissions,
    CategoricalVectorEmissions,
    GaussianEmissions,
    MixtureEmissions,
    MultinomialEmissions,
    PoissonEmissions,
)
from latentia.distributions.emissions.gaussian import missing, patterns
from latentia.distributions.emissions.rows import some_rows
from latentia.errors import DataError
from latentia.kernels.bags import spread_rows, sum_rows
from latentia.testing import one_thread

STATES, FEATURES, SYMBOLS, ROWS = 3, 4, 5, 60


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def scattered(family, seed=0):
    generator = torch.Generator().manual_seed(seed)
    family = family.double()
    for parameter in family.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return family, generator


def counts(generator, most=6):
    return torch.randint(most, (ROWS, FEATURES), generator=generator).double()


FAMILIES = {
    "Bernoulli": (lambda s: BernoulliEmissions(STATES, FEATURES, s), lambda g: counts(g, 2)),
    "Poisson": (lambda s: PoissonEmissions(STATES, FEATURES, s), counts),
    "multinomial": (lambda s: MultinomialEmissions(STATES, FEATURES, s), counts),
    "categorical": (
        lambda s: CategoricalEmissions(STATES, SYMBOLS, s),
        lambda g: torch.randint(SYMBOLS, (ROWS,), generator=g),
    ),
    "columns": (
        lambda s: CategoricalVectorEmissions(STATES, SYMBOLS, FEATURES, s),
        lambda g: torch.randint(SYMBOLS, (ROWS, FEATURES), generator=g),
    ),
    "bags": (
        lambda s: CategoricalVectorEmissions(STATES, SYMBOLS, None, s),
        lambda g: torch.randint(SYMBOLS, (ROWS, FEATURES), generator=g),
    ),
    **{
        f"{kind} mixture": (
            lambda s, kind=kind: MixtureEmissions(STATES, FEATURES, 2, kind, floor=1e-2),
            lambda g: torch.randn(ROWS, FEATURES, generator=g, dtype=torch.float64),
        )
        for kind in ("full", "tied", "diagonal", "spherical")
    },
}
VECTORS = [name for name in FAMILIES if name != "categorical"]
# those of which single coordinates may be missing
PARTIAL = [name for name in VECTORS if name != "multinomial"]


def case(name, smoothing=0.3, seed=0):
    make, draw = FAMILIES[name]
    family, generator = scattered(make(smoothing), seed)
    return family, draw(generator), generator


def holes(name, x, generator):
    mask = torch.rand(x.shape, generator=generator) < 0.7
    return mask[:, :1].expand_as(x) if name == "multinomial" else mask


def em_step(family, x, mask, weight):
    """One step of EM with equal weights of the states: what it climbs, before the step."""
    uniform = torch.full((STATES,), 1 / STATES, dtype=torch.float64).log()
    with torch.no_grad():
        total, value = family.mixture_step(x, mask, weight, uniform)
        value = float(value + family.log_prior())
        family.update(total)
    return value


# ----------------------------------------------------------------------------------------------- log-densities


# log p(x_d | z = k) of each coordinate by SciPy and NumPy, (M, D)
TERMS = {
    "Bernoulli": lambda family, x, k: stats.bernoulli.logpmf(x, family.probs[k]),
    "Poisson": lambda family, x, k: stats.poisson.logpmf(x, family.rates[k]),
    "columns": lambda family, x, k: np.log(family.probs[k].numpy()[np.arange(FEATURES), x]),
    "bags": lambda family, x, k: np.log(family.probs[k, 0].numpy()[x]),
}


@pytest.mark.parametrize("name", TERMS)
def test_log_probabilities_are_sums_over_coordinates(name):
    family, x, _ = case(name)
    with torch.no_grad():
        found = family.log_prob(x, None).numpy()
        for k in range(STATES):
            np.testing.assert_allclose(found[:, k], TERMS[name](family, x.numpy(), k).sum(1), rtol=1e-10)


def test_multinomial_log_probabilities_are_those_of_scipy():
    family, x, _ = case("multinomial")
    with torch.no_grad():
        found = family.log_prob(x, None).numpy()
        for k in range(STATES):
            expected = stats.multinomial.logpmf(x.numpy(), x.sum(1).numpy(), family.probs[k].numpy())
            np.testing.assert_allclose(found[:, k], expected, rtol=1e-10)


@pytest.mark.parametrize("kind", ["full", "tied", "diagonal", "spherical"])
def test_a_state_is_a_mixture_of_gaussians(kind):
    family, x, _ = case(f"{kind} mixture")
    with torch.no_grad():
        found = family.log_prob(x, None).numpy()
        for k in range(STATES):
            density = sum(
                float(family.shares[k, c])
                * stats.multivariate_normal.pdf(x.numpy(), family.means[k, c].numpy(), family.covariances[k, c].numpy())
                for c in range(2)
            )
            np.testing.assert_allclose(found[:, k], np.log(density), rtol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_given_is_the_same_distribution(name):
    family, x, _ = case(name)
    z = torch.eye(STATES, dtype=torch.float64).unsqueeze(1).expand(-1, ROWS, -1)
    with torch.no_grad():
        distribution = family.given(z)
        log_prob = distribution.log_prob(x)
        log_prob = log_prob.sum(-1) if not distribution.event_shape and x.ndim > 1 else log_prob
        assert torch.allclose(log_prob.T, family.log_prob(x, None), atol=1e-9)
        torch.manual_seed(0)
        draw = distribution.sample()
    family.check(draw[0], None)
    assert torch.isfinite(family.log_prob(draw[0], None)).all()


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("columns", "bags")])
def test_beyond_the_end_of_a_sequence_there_is_no_state_and_a_draw_is_still_finite(name):
    family, _, _ = case(name)
    with torch.no_grad():
        assert family.given(torch.zeros(2, STATES, dtype=torch.float64)).sample().isfinite().all()


@pytest.mark.parametrize("name", PARTIAL)
def test_a_missing_coordinate_is_left_out(name):
    family, x, generator = case(name)
    mask = holes(name, x, generator)
    garbage = torch.where(mask, x, torch.full_like(x, 10**6))
    with torch.no_grad():
        found = family.log_prob(garbage, mask)
        for m in range(6):
            seen = mask[m]
            for k in range(STATES):
                assert float(found[m, k]) == pytest.approx(marginal(name, family, x[m], seen, k), abs=1e-9)


def marginal(name, family, x, seen, k):
    """log p(x_seen | z = k) from the parameters of what is seen alone."""
    if name.endswith("mixture"):
        if not seen.any():
            return 0.0
        parts = [
            stats.multivariate_normal.logpdf(
                x[seen].numpy(), family.means[k, c][seen].numpy(), family.covariances[k, c][seen][:, seen].numpy()
            )
            for c in range(2)
        ]
        return float(np.logaddexp.reduce(np.array(parts) + family.shares[k].log().numpy()))
    return float(TERMS[name](family, x.unsqueeze(0).numpy(), k)[0][seen.numpy()].sum())


def test_a_multinomial_is_missing_whole_or_refused():
    family, x, _ = case("multinomial")
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[3] = False
    with torch.no_grad():
        found = family.log_prob(x, mask)
        assert torch.equal(found[3], torch.zeros(STATES, dtype=torch.float64))
        assert torch.equal(found[4], family.log_prob(x, None)[4])
    mask[5, 1] = False
    for use in (family.check, family.log_prob):
        with pytest.raises(DataError, match=r"observation 6 lacks some of its counts.*Poisson"):
            use(x, mask)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 6), st.integers(0, 2**16))
def test_a_bag_is_a_product_of_its_words_whatever_the_shapes(states, symbols, length, seed):
    generator = torch.Generator().manual_seed(seed)
    family = scattered(CategoricalVectorEmissions(states, symbols), seed)[0]
    x = torch.randint(symbols, (5, length), generator=generator)
    mask = torch.rand(x.shape, generator=generator) < 0.6
    r = torch.rand(5, states, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        hot = torch.nn.functional.one_hot(x, symbols).double() * mask.unsqueeze(-1)
        expected = torch.einsum("mtv,kv->mk", hot, family.probs[:, 0].log())
        assert torch.allclose(family.log_prob(x, mask), expected, atol=1e-9)
        sums = family.statistics(x, mask, r)["symbol"]
        assert torch.allclose(sums[:, 0], torch.einsum("mtv,mk->kv", hot, r), atol=1e-9)


@pytest.mark.parametrize("holed", [False, True])
def test_rows_of_a_table_are_summed_and_spread_with_their_gradients(holed):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    values = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    index = torch.randint(6, (4, 5), generator=generator)
    mask = torch.rand(index.shape, generator=generator) < 0.6 if holed else None
    hot = torch.nn.functional.one_hot(index, 6).double()
    bags = (hot if mask is None else hot * mask.unsqueeze(-1)).sum(1)
    if mask is not None:
        index = torch.where(mask, index, 10**9)  # never read
    assert torch.allclose(sum_rows(table, index, mask), bags @ table)
    assert torch.allclose(spread_rows(values, index, mask, 6), bags.T @ values)
    assert gradcheck(lambda t: sum_rows(t, index, mask), (table,))
    assert gradcheck(lambda v: spread_rows(v, index, mask, 6), (values,))
    assert gradgradcheck(lambda t: sum_rows(t, index, mask) ** 2, (table,))
    assert gradgradcheck(lambda v: spread_rows(v, index, mask, 6) ** 2, (values,))


@pytest.mark.parametrize("wrong", [-1, 6, 10**12])
def test_a_number_that_is_no_row_is_refused(wrong):
    index = torch.tensor([[0, wrong]])
    with pytest.raises(IndexError, match=f"number {wrong} for a table of 6 rows"):
        sum_rows(torch.zeros(6, 2), index)
    with pytest.raises(IndexError, match=f"number {wrong} for a table of 6 rows"):
        spread_rows(torch.zeros(1, 2), index, None, 6)


# -------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("holed", [False, True])
def test_em_climbs(name, holed):
    family, x, generator = case(name)
    mask = holes(name, x, generator) if holed else None
    weight = torch.rand(ROWS, generator=generator, dtype=torch.float64)
    family.start(x, mask, weight, generator)
    values = [em_step(family, x, mask, weight) for _ in range(15)]
    assert np.diff(values).min() > -1e-8
    assert values[-1] - values[0] > 0.5


# a mixture inside a state has responsibilities of its own, which change with the parameters
@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.endswith("mixture")])
def test_where_the_m_step_stands_still_the_gradient_is_zero(name):
    """Responsibilities that do not change with the parameters: then one M-step is the maximum."""
    family, x, generator = case(name)
    r = torch.rand(ROWS, STATES, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        family.update(family.statistics(x, None, r))
    value = (r * family.log_prob(x, None)).sum() + family.log_prior()
    for slope in torch.autograd.grad(value, list(family.parameters())):
        assert slope.abs().max() < 1e-9


@pytest.mark.parametrize("name", FAMILIES)
def test_weight_two_is_seen_twice_and_weight_zero_is_absent(name):
    family, x, generator = case(name)
    mask = holes(name, x, generator)
    r = torch.rand(ROWS, STATES, generator=generator, dtype=torch.float64)
    times = torch.randint(3, (ROWS,), generator=generator)
    with torch.no_grad():
        weighted = family.statistics(x, mask, r * times.unsqueeze(-1))
        rows = torch.arange(ROWS).repeat_interleave(times)
        repeated = family.statistics(x[rows], mask[rows], r[rows])
        halves = [family.statistics(x[part], mask[part], r[part]) for part in (slice(20), slice(20, None))]
        whole = family.statistics(x, mask, r)
    for key, value in whole.items():
        assert torch.allclose(weighted[key], repeated[key], atol=1e-9)
        assert torch.allclose(halves[0][key] + halves[1][key], value, atol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_state_that_nothing_visits_keeps_finite_parameters(name):
    family, x, generator = case(name, smoothing=0.0)
    before = {key: value.clone() for key, value in family.named_parameters()}
    r = torch.rand(ROWS, STATES, generator=generator, dtype=torch.float64)
    r[:, 1] = 0
    with torch.no_grad():
        family.update(family.statistics(x, None, r))
        assert family.log_prob(x, None).isfinite().all()
    for key, value in family.named_parameters():
        assert value.isfinite().all()
        if len(value) == STATES:
            assert torch.allclose(value[1], before[key][1])
            assert not torch.allclose(value[0], before[key][0])


@pytest.mark.parametrize("name", FAMILIES)
def test_states_may_be_renamed(name):
    family, x, _ = case(name)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        before = family.log_prob(x, None)
        family.reorder(order)
        assert torch.allclose(family.log_prob(x, None), before[:, order], atol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_start_depends_on_its_seed_alone_and_gives_each_state_its_own(name):
    starts = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        family, x, _ = case(name)
        family.start(x, None, torch.ones(ROWS, dtype=torch.float64), torch.Generator().manual_seed(7))
        with torch.no_grad():
            starts.append(family.log_prob(x, None))
    assert torch.equal(*starts)
    assert all((starts[0][:, i] - starts[0][:, j]).abs().max() > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))


AVERAGED = ("Bernoulli", "Poisson", "multinomial", "columns", "bags")


@pytest.mark.parametrize("name", AVERAGED)
def test_states_start_apart_even_from_equal_data(name):
    """Equal states would stay equal."""
    family, x, generator = case(name)
    same = x[:1].expand_as(x)
    family.start(same, None, torch.ones(ROWS, dtype=torch.float64), generator)
    with torch.no_grad():
        start = family.log_prob(x, None)
    assert all((start[:, i] - start[:, j]).abs().max() > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("name", AVERAGED)
def test_each_state_starts_from_a_datum_of_its_own(name):
    family, x, generator = case(name)
    # the only data of any weight: three that are far apart
    bits = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]])
    x[:3] = bits if name == "Bernoulli" else torch.arange(3).unsqueeze(-1).expand(3, FEATURES)
    if name == "multinomial":
        x[:3] = 9 * torch.eye(4)[:3]
    weight = torch.zeros(ROWS, dtype=torch.float64)
    weight[:3] = torch.tensor([1.0, 2.0, 0.5])
    family.start(x, None, weight, generator)
    with torch.no_grad():
        nearest = family.log_prob(x[:3], None).argmax(1)
    assert sorted(nearest.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("name", AVERAGED)
def test_the_average_is_that_of_what_is_observed(name):
    family, x, generator = case(name)
    mask, weight = holes(name, x, generator), torch.rand(ROWS, generator=generator, dtype=torch.float64) * 1e6
    family.start(torch.where(mask, x, 10**6 * torch.ones_like(x)), mask, weight, generator)
    mass = mask * weight.unsqueeze(-1)
    hot = torch.nn.functional.one_hot(x.long(), 6).double()
    expected = {
        "Bernoulli": lambda: (mass * x).sum(0) / mass.sum(0),
        "Poisson": lambda: (mass * x).sum(0) / mass.sum(0),
        "multinomial": lambda: (mass * x).sum(0) / (mass * x).sum(),
        "columns": lambda: (torch.einsum("md,mdv->dv", mass, hot) / mass.sum(0).unsqueeze(-1))[:, :SYMBOLS],
        "bags": lambda: (torch.einsum("md,mdv->v", mass, hot) / mass.sum()).unsqueeze(0)[:, :SYMBOLS],
    }[name]()
    assert torch.allclose(family.average, expected, atol=1e-6)


def test_rows_are_drawn_by_their_weight_and_over_again_where_they_are_few():
    weight = torch.tensor([0.0, 1.0, 3.0, 0.0])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([some_rows(weight, 1, generator) for _ in range(2000)])
    assert set(drawn.tolist()) == {1, 2}
    assert float((drawn == 2).double().mean()) == pytest.approx(0.75, abs=0.04)
    assert sorted(some_rows(weight, 5, generator)[:2].tolist()) == [1, 2]
    assert set(some_rows(weight, 5, generator).tolist()) == {1, 2}


def test_gaussians_of_other_states_are_not_seen_from_afar():
    """A state has probability 0 in another's Gaussians, however far away its own are."""
    family, _, _ = case("diagonal mixture")
    x = family.gaussians.means[:1].detach() + 50
    family.gaussians.means.data[2:] = x
    z = torch.eye(STATES, dtype=torch.float64)[:1].unsqueeze(1)
    with torch.no_grad():
        found, expected = float(family.given(z).log_prob(x)[0]), float(family.log_prob(x, None)[0, 0])
    assert found == pytest.approx(expected, rel=1e-12)
    assert expected < -1000


@pytest.mark.parametrize("name", FAMILIES)
def test_single_precision_is_near(name):
    family, x, generator = case(name)
    r = torch.rand(ROWS, STATES, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        exact, sums = family.log_prob(x, None), family.statistics(x, None, r)
        single = family.float()
        x = x.float() if x.is_floating_point() else x
        found = single.log_prob(x, None)
        assert found.dtype == torch.float32
        assert torch.allclose(found.double(), exact, rtol=1e-4, atol=1e-4)
        single.update({key: value.float() for key, value in sums.items()})
        assert all(parameter.dtype == torch.float32 for parameter in single.parameters())


def test_the_prior_pulls_towards_all_data():
    """With a prior that outweighs everything, every state is the average of the data."""
    for name in AVERAGED:
        family, x, generator = case(name, smoothing=1e9)
        weight = torch.rand(ROWS, generator=generator, dtype=torch.float64)
        family.start(x, None, weight, generator)
        em_step(family, x, None, weight)
        found = family.rates if name == "Poisson" else family.probs
        assert torch.allclose(found, family.average.expand_as(found), rtol=1e-5)


# ----------------------------------------------------------------------------------- scikit-learn's naive Bayes


def labelled(x):
    label = torch.arange(len(x)) % STATES
    return label.numpy(), torch.nn.functional.one_hot(label, STATES).double()


def fit(family, x, mask=None):
    label, member = labelled(x)
    with torch.no_grad():
        family.update(family.statistics(x, mask, member))
    return label


@pytest.mark.parametrize("alpha", [1e-9, 0.5, 3.0])
def test_the_m_step_with_known_classes_is_naive_bayes(alpha):
    """Before `start` the prior is uniform, and its pseudo-count is scikit-learn's alpha."""
    family, x, _ = case("Bernoulli", alpha)
    peer = BernoulliNB(alpha=alpha, force_alpha=True).fit(x.numpy(), fit(family, x))
    np.testing.assert_allclose(family.probs.detach().log().numpy(), peer.feature_log_prob_, atol=1e-9)

    family, x, _ = case("multinomial", alpha)
    peer = MultinomialNB(alpha=alpha, force_alpha=True).fit(x.numpy(), fit(family, x))
    np.testing.assert_allclose(family.probs.detach().log().numpy(), peer.feature_log_prob_, atol=1e-9)

    family, x, _ = case("bags", alpha)
    hot = torch.nn.functional.one_hot(x, SYMBOLS).sum(1)
    peer = MultinomialNB(alpha=alpha, force_alpha=True).fit(hot.numpy(), fit(family, x))
    np.testing.assert_allclose(family.probs[:, 0].detach().log().numpy(), peer.feature_log_prob_, atol=1e-9)

    family, x, _ = case("columns", alpha)
    peer = CategoricalNB(alpha=alpha, force_alpha=True, min_categories=SYMBOLS).fit(x.numpy(), fit(family, x))
    expected = np.stack(peer.feature_log_prob_, 1)
    np.testing.assert_allclose(family.probs.detach().log().numpy(), expected, atol=1e-9)


def test_with_holes_the_m_step_is_naive_bayes_on_what_is_seen():
    family, x, generator = case("Bernoulli", 0.5)
    mask = holes("Bernoulli", x, generator)
    fit(family, x, mask)
    for d in range(FEATURES):
        seen = mask[:, d].numpy()
        label, _ = labelled(x)
        peer = BernoulliNB(alpha=0.5).fit(x[seen][:, [d]].numpy(), label[seen])
        np.testing.assert_allclose(family.probs[:, d].detach().log().numpy(), peer.feature_log_prob_[:, 0], atol=1e-9)


# ------------------------------------------------------------------------------------- mixtures inside a state


def test_one_component_a_state_is_a_gaussian():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, FEATURES, generator=generator, dtype=torch.float64)
    mask = torch.rand(x.shape, generator=generator) < 0.8
    r = torch.rand(ROWS, STATES, generator=generator, dtype=torch.float64)
    one, other = MixtureEmissions(STATES, FEATURES, 1).double(), GaussianEmissions(STATES, FEATURES).double()
    with torch.no_grad():
        for family in (one, other):
            family.update(family.statistics(x, mask, r))
        assert torch.allclose(one.log_prob(x, mask), other.log_prob(x, mask), atol=1e-10)


def test_a_mixture_completes_what_is_missing():
    """E[x_hidden | z, x_seen] by integrating the density over a line."""
    family, x, _ = case("full mixture")
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 2] = False
    z = torch.eye(STATES, dtype=torch.float64)[1].expand(1, ROWS, -1)
    line = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    with torch.no_grad():
        found = family.conditional(x, mask, z).mean[0, 0]
        every = x[0].repeat(len(line), 1)
        every[:, 2] = line
        share = family.log_prob(every, None)[:, 1].softmax(0)
    assert float(found[2]) == pytest.approx(float(share @ line), abs=1e-6)
    assert torch.allclose(found[[0, 1, 3]], x[0, [0, 1, 3]], atol=1e-5)


def test_gaussians_of_a_state_are_put_in_order():
    family, _, _ = case("diagonal mixture")
    with torch.no_grad():
        family.reorder(torch.arange(STATES))
    assert (family.shares[:, 0] >= family.shares[:, 1]).all()


def test_two_rings_of_clusters_are_two_states():
    """Each state is two far-away clusters: a single Gaussian a state could not fit them."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.tensor([[-9.0, 0.0], [9.0, 0.0], [0.0, -9.0], [0.0, 9.0]]).double()
    which = torch.randint(4, (400,), generator=generator)
    x = centers[which] + torch.randn(400, 2, generator=generator, dtype=torch.float64)
    member = torch.nn.functional.one_hot(which // 2, 2).double()
    family = MixtureEmissions(2, 2, components=2).double()
    family.start(x, None, torch.ones(400, dtype=torch.float64), generator)
    with torch.no_grad():
        for _ in range(50):
            family.update(family.statistics(x, None, member))
    found = family.means.detach()
    for k in (0, 1):
        assert torch.cdist(found[k], centers[2 * k : 2 * k + 2]).amin(0).max() < 0.5


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("Bernoulli", 2.0, "neither 0 nor 1"),
        ("Bernoulli", 0.5, "neither 0 nor 1"),
        ("Poisson", -1.0, "not a count"),
        ("Poisson", 0.5, "not a count"),
        ("Poisson", torch.inf, "not a count"),
        ("multinomial", -1.0, "not a count"),
        ("categorical", SYMBOLS, "outside 0..4"),
        ("columns", -1, "outside 0..4"),
        ("bags", SYMBOLS, "outside 0..4"),
    ],
)
def test_what_a_family_cannot_give_is_refused(name, value, message):
    family, x, _ = case(name)
    family.check(x, None)
    x[3] = value
    with pytest.raises(DataError, match=message):
        family.check(x, None)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[3] = False
    family.check(x, mask)


@pytest.mark.parametrize("name", [name for name in VECTORS if name != "bags"])
def test_another_number_of_columns_is_refused(name):
    family, x, _ = case(name)
    with pytest.raises(DataError, match="4 features"):
        family.check(x[:, :2], None)


# ------------------------------------------------------------------------------------------- patterns of missing


@pytest.mark.parametrize("kind", ["full", "tied"])
@pytest.mark.parametrize("held", [patterns.HELD, 100])
def test_rows_grouped_by_what_is_missing_are_as_one_by_one(kind, held, monkeypatch):
    """Against the matrices of each pattern in torch, all of them together and a few at a time."""
    monkeypatch.setattr(patterns, "HELD", held)
    generator = torch.Generator().manual_seed(0)
    x = 2 + 3 * torch.randn(80, 4, generator=generator, dtype=torch.float64)
    mask = torch.rand(x.shape, generator=generator) < 0.6
    mask[0] = False
    family = GaussianEmissions(STATES, 4, kind).double()
    with torch.no_grad():
        family.start(x, mask, torch.ones(80).double(), generator)
        family.means.data += torch.randn(STATES, 4, generator=generator, dtype=torch.float64)
        share = torch.rand(80, STATES, generator=generator, dtype=torch.float64)
        # what lies under the mask may be anything
        under = torch.where(mask, x, 1e9)
        assert torch.allclose(patterns.log_prob(family, under, mask), missing.log_prob_missing(family, x, mask))
        found = patterns.statistics(family, under, mask, share)
        expected = missing.statistics_missing(family, x, mask, share)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.allclose(found[name], value, rtol=1e-10, atol=1e-10), name
        prior, weight = torch.randn(STATES, generator=generator).double(), torch.rand(80, generator=generator).double()
        sums, value = patterns.mixture_step(family, under, mask, weight, prior, False)
        log_joint = prior + missing.log_prob_missing(family, x, mask)
        assert float(value) == pytest.approx(float(weight @ log_joint.logsumexp(1)))
        expected = missing.statistics_missing(family, x, mask, weight.unsqueeze(1) * log_joint.softmax(1))
        assert torch.allclose(sums["square"], expected["square"], rtol=1e-10, atol=1e-10)
