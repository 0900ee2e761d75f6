"""The factorial hidden Markov model: exact against enumeration, the mean field against the exact posterior."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from torch.distributions import kl_divergence

from latentia import testing
from latentia.data import as_dataset
from latentia.errors import DataError, OptionError
from latentia.evaluate import evaluate
from latentia.learners import EM
from latentia.model import Batch, Frame
from latentia.models import HMM, ExactFactorialHMM, FactorialHMM
from latentia.models.chains import factorial_hmm
from latentia.tasks import complete, decode_path
from latentia.testing import nodes, one_thread


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def scattered(seed, features=2, chains=2, states=2, scale=1.0, **options):
    generator = torch.Generator().manual_seed(seed)
    model = FactorialHMM(features, chains, states, smoothing=0.0, **options).double()
    for parameter in model.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    model.center.normal_(generator=generator)
    return model, generator


def ragged(generator, features=2, data=6, steps=4):
    """Sequences of different lengths, one of them empty, with single coordinates and a whole step missing."""
    x = torch.randn(data, steps, features, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([steps, 0, 2, *[steps - 1] * (data - 3)])
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 0, 0] = mask[3, 1, features - 1] = False
    mask[4, 1] = False
    return Batch.of(x, mask, lengths)


def close(left, right, tolerance=1e-9):
    np.testing.assert_allclose(
        torch.as_tensor(left).detach().numpy(), torch.as_tensor(right).detach().numpy(), rtol=tolerance, atol=tolerance
    )


# ------------------------------------------------------------------------------------------------ exact inference


def exact(tiny):
    def made(seed):
        model, batch = tiny(seed)
        return model.exact(), batch

    return made


def tiny_full(seed):
    """Correlated noise, in too many coordinates for a grid over x."""
    model, generator = scattered(seed, scale=0.5, length=2)
    x = torch.randn(12, 2, 2, generator=generator, dtype=torch.float64)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 0, 1] = mask[2, 0, 0] = mask[3, 1] = False
    lengths = torch.full((12,), 2)
    lengths[4] = 1
    return model, Batch.of(x, mask, lengths)


def test_the_exact_model_keeps_every_promise():
    assert set(testing.check_model(exact(factorial_hmm.tiny))) == {check.__name__ for check in testing.CHECKS}


QUICK = (
    "log_partition",
    "kl",
    "gradients",
    "batching",
    "padding",
    "weights",
    "additive",
    "expect",
    "canonical",
    "save",
)


@pytest.mark.parametrize("check", [*QUICK, "em_ascends"])
def test_correlated_noise_keeps_the_promises_of_exact_models(check):
    getattr(testing, f"check_{check}")(exact(tiny_full), 0)


@pytest.mark.parametrize("check", ["bounds", "kl", "batching", "padding", "moves"])
def test_correlated_noise_keeps_the_promises_of_the_mean_field(check):
    getattr(testing, f"check_{check}")(tiny_full, 0)


def log_joint_by_hand(model, x, mask, paths):
    """log p(x, z) of one sequence, from scipy's density and products of probabilities."""
    initial, transition = model.initial.detach().numpy(), model.transition.detach().numpy()
    weights, center, noise = (part.detach().numpy() for part in (model.weights, model.center, model.noise))
    value = 0.0
    for m, path in enumerate(paths):
        value += math.log(initial[m, path[0]])
        value += sum(math.log(transition[m, i, j]) for i, j in itertools.pairwise(path))
    for t in range(len(paths[0])):
        mean = center + sum(weights[m, path[t]] for m, path in enumerate(paths))
        seen = mask[t].nonzero()[0]
        if len(seen):
            value += multivariate_normal.logpdf(x[t, seen], mean[seen], noise[np.ix_(seen, seen)])
    return value


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_exact_log_marginal_and_marginals_by_enumeration(covariance):
    model, generator = scattered(0, covariance=covariance)
    batch = ragged(generator, steps=3)
    posterior = model.exact().posterior(batch)
    for b, length in enumerate(batch.lengths.tolist()):
        if length == 0:
            assert posterior.log_partition[b] == 0
            continue
        every = list(itertools.product(itertools.product(range(2), repeat=length), repeat=2))
        x, mask = batch.x[b].numpy(), batch.observed[b].numpy()
        values = np.array([log_joint_by_hand(model, x, mask, paths) for paths in every])
        close(posterior.log_partition[b], np.logaddexp.reduce(values))
        probability = np.exp(values - np.logaddexp.reduce(values))
        states = np.eye(2)[np.array(every)].transpose(0, 2, 1, 3)
        close(posterior.marginals[b, :length], np.einsum("s,stmk->tmk", probability, states))
        assert posterior.marginals[b, length:].abs().sum() == 0
        close(model.log_joint(batch, torch.as_tensor(_padded(states, 3)).unsqueeze(1).expand(-1, 6, -1, -1, -1))[:, b],
              values)  # fmt: skip


def _padded(states, steps):
    return np.pad(states, [(0, 0), (0, steps - states.shape[1]), (0, 0), (0, 0)])


def test_best_structures_of_coupled_and_of_separate_chains():
    model, generator = scattered(3)
    batch = Batch(torch.randn(2, 3, 2, generator=generator, dtype=torch.float64))
    for q in (model.exact().posterior(batch), model.posterior(batch)):
        values, log_weight = nodes(q)
        scores, best = q.top_k(5)
        expected, order = log_weight.topk(5, 0)
        close(scores, expected)
        for b in range(2):
            close(best[:, b], values[order[:, b], b])
        close(q.mode, best[0])


# ----------------------------------------------------------------------------------------------- the mean field


@pytest.mark.parametrize("seed", range(3))
def test_the_gap_is_the_divergence_from_the_exact_posterior(seed):
    model, generator = scattered(seed)
    batch = ragged(generator, steps=3)
    q, posterior = model.posterior(batch), model.exact().posterior(batch)
    gap = model.gap(batch)
    assert bool((gap >= -1e-9).all())
    assert float(gap.max()) > 1e-4
    close(model.bound(batch) + gap, posterior.log_partition)
    z, log_weight = nodes(q)
    ratio = (q.log_prob(z) - posterior.log_prob(z)).where(log_weight > -torch.inf, 0.0)
    close((log_weight.exp() * ratio).sum(0), gap, 1e-8)


def test_the_bound_is_reconstruction_less_divergence():
    model, generator = scattered(1)
    batch = ragged(generator, steps=3)
    q = model.posterior(batch)
    z, log_weight = nodes(q)
    likelihood = model.log_likelihood(batch, z).where(log_weight > -torch.inf, 0.0)
    expected = (log_weight.exp() * likelihood).sum(0) - kl_divergence(q, model.prior(batch.frame))
    close(model.bound(batch), expected, 1e-8)


def test_coordinate_ascent_never_descends_and_settles():
    model, generator = scattered(5, chains=3, states=3, tol=0.0)
    batch = ragged(generator, steps=4)
    bounds = []
    for model.sweeps in (1, 2, 3, 5, 10, 50, 500):
        bounds.append(model.bound(batch))
    rises = torch.stack(bounds).diff(dim=0)
    assert float(rises.min()) > -1e-10
    assert float(rises[0].max()) > 1e-3
    # at the optimum each chain's potentials follow from the others' marginals
    q, given_x = model.posterior(batch), model._quadratic(batch)
    pressed = (q.marginals.flatten(-2).unsqueeze(-2) @ given_x.coupling[given_x.which]).squeeze(-2)
    inside = (torch.arange(4) < batch.lengths.unsqueeze(-1))[..., None, None]
    expected = torch.where(inside, given_x.linear - pressed.view_as(given_x.linear), 0.0)
    close(torch.where(inside, q.log_potentials["node"], 0.0), expected, 1e-5)


def test_chains_that_touch_different_coordinates_are_independent():
    model, generator = scattered(2, features=2, chains=2, states=3, covariance="diagonal")
    model.weights.data[0, :, 1] = model.weights.data[1, :, 0] = 0.0
    batch = ragged(generator)
    close(model.gap(batch), torch.zeros(6))


def test_one_chain_is_a_hidden_markov_model():
    model, generator = scattered(4, chains=1, states=3, features=2)
    batch = ragged(generator)
    peer = HMM(features=2, states=3, covariance="full", smoothing=0.0).double()
    peer.initial_logits.data, peer.transition_logits.data = (
        model.initial_logits.data[0],
        model.transition_logits.data[0],
    )
    peer.emissions.means.data = (model.center + model.weights[0]).detach()
    peer.emissions.log_scale.data = model.log_scale.detach().expand(3, -1).clone()
    peer.emissions.below.data = model.below.detach().expand(3, -1).clone()
    expected = peer.posterior(batch)
    close(model.bound(batch), expected.log_partition)
    close(model.posterior(batch).marginals[:, :, 0], expected.marginals)
    close(model.gap(batch), torch.zeros(6))


def test_hard_inference_is_a_path_that_no_chain_alone_can_better():
    model, generator = scattered(6, features=2, chains=2, states=2)
    batch = Batch(torch.randn(4, 3, 2, generator=generator, dtype=torch.float64))
    q, value = model._mean_field(batch, hard=True)
    best = q.marginals
    close(model.log_joint(batch, best.unsqueeze(0))[0], value)
    every = torch.eye(2, dtype=torch.float64)[torch.cartesian_prod(*[torch.arange(2)] * 3)]
    for m in range(2):
        others = best.expand(8, -1, -1, -1, -1).clone()
        others[:, :, :, m] = every.unsqueeze(1)
        assert bool((model.log_joint(batch, others) <= value + 1e-9).all())


# ------------------------------------------------------------------------------------------------------------- EM


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_statistics_of_the_mean_field_add_and_weights_repeat(covariance, hard):
    model, generator = scattered(7, covariance=covariance)
    batch = ragged(generator)
    with torch.no_grad():
        whole, value = model.expect(batch, hard)
        parts = [model.expect(batch.select(part), hard) for part in (slice(3), slice(3, None))]
        weighted, weighted_value = model.expect(
            batch._replace(weight=torch.tensor([2.0, 1, 0, 1, 1, 1]).double()), hard
        )
        repeated, repeated_value = model.expect(batch.select(torch.tensor([0, 0, 1, 3, 4, 5])), hard)
    close(parts[0][1] + parts[1][1], value)
    close(weighted_value, repeated_value)
    for name, total in whole.items():
        close(parts[0][0][name] + parts[1][0][name], total)
        close(weighted[name], repeated[name])
    if not hard:
        close(value, model.bound(batch).sum())


def test_exact_and_mean_field_statistics_agree_where_the_chains_are_independent():
    model, generator = scattered(2, features=2, chains=2, states=3, covariance="diagonal")
    model.weights.data[0, :, 1] = model.weights.data[1, :, 0] = 0.0
    batch = ragged(generator)
    with torch.no_grad():
        approximate, exactly = model.expect(batch), model.exact().expect(batch)
    close(approximate[1], exactly[1])
    # E[z z'] differs between chains only by rounding, as they are independent a posteriori too
    for name, statistic in exactly[0].items():
        close(approximate[0][name], statistic, 1e-8)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_statistics_are_expectations_over_every_path_and_what_is_missing(covariance):
    model, generator = scattered(9, covariance=covariance)
    batch = ragged(generator, steps=3)
    posterior = model.exact().posterior(batch)
    with torch.no_grad():
        found, _ = model.exact().expect(batch)
    z, log_weight = nodes(posterior)
    flat, probability = z.flatten(3), log_weight.exp()
    inside = (z[:, :, :, 0].sum(-1) > 0).to(z)
    weight = probability.unsqueeze(-1) * inside
    given_z = model.conditional(z, batch)
    x, mask = given_z.mean - model.center, batch.observed
    x = torch.where(mask, batch.x - model.center, x)
    left = torch.diag_embed(given_z.variance) if covariance == "diagonal" else given_z.covariance_matrix
    left = left * ~(mask.unsqueeze(-1) | mask.unsqueeze(-2))
    close(found["cross"], torch.einsum("sbt,sbti,sbtj->ij", weight, flat, flat))
    close(found["pull"], torch.einsum("sbt,sbti,sbtd->id", weight, flat, x))
    square = torch.einsum("sbt,sbtd,sbte->de", weight, x, x) + torch.einsum("sbt,sbtde->de", weight, left)
    close(found["square"], square)
    assert float(found["count"]) == pytest.approx(float(batch.lengths.sum()))


def drawn(seed, n=200, length=20):
    truth = FactorialHMM(3, 2, 2, length=length).double()
    truth.weights.data = torch.tensor([[[2.0, 0, 1], [-2, 0, -1]], [[0, 1.5, 1], [0, -1.5, -1]]]).double()
    truth.transition_logits.data = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.7, 0.3], [0.1, 0.9]]]).double().log()
    truth.log_scale.data.fill_(math.log(0.6))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return truth, truth.generate(Frame(n))[0].x, truth.generate(Frame(n))[0].x


def test_em_recovers_the_truth_by_the_mean_field():
    truth, x, fresh = drawn(0)
    model = FactorialHMM(3, 2, 2).double()
    history = EM(steps=60, restarts=3, tol=1e-4, progress=False).fit(model, x, seed=1)
    values = [record["log_marginal"] for record in history.records if record["restart"] == 0]
    assert values[-1] > values[0] + 1
    with torch.no_grad():
        loss = (truth.exact().posterior(Batch(fresh)).log_partition - model.bound(Batch(fresh))) / 20
    assert float(loss.mean()) < 0.05
    # what the chains contribute is known up to a constant: differences of states are
    found = (model.weights[:, 0] - model.weights[:, 1]).detach().abs()
    close(found, torch.tensor([[4.0, 0, 2], [0, 3, 2]]).double(), 0.15)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_exact_em_never_descends_with_missing_values(covariance):
    _, x, _ = drawn(1, n=40, length=8)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.3
    batch, model = Batch.of(x, mask), ExactFactorialHMM(3, 2, 2, covariance=covariance).double()
    model.start(batch, torch.Generator().manual_seed(0))
    values = []
    with torch.no_grad():
        for _ in range(25):
            sums, value = model.expect(batch)
            values.append(float(value + model.log_prior()))
            model.update(sums)
    assert min(np.diff(values)) > -1e-8
    assert values[-1] > values[0] + 10


def test_a_missing_coordinate_is_completed_from_the_seen_ones_and_the_states():
    model, generator = scattered(8)
    batch = Batch(torch.randn(1, 1, 2, generator=generator, dtype=torch.float64), torch.tensor([[[True, False]]]))
    z = torch.tensor([[[[[1.0, 0], [0, 1]]]]]).double()
    conditional = model.conditional(z, batch)
    mean, noise = (model.center + model.weights[0, 0] + model.weights[1, 1]).detach(), model.noise.detach()
    gain = noise[1, 0] / noise[0, 0]
    close(conditional.mean[0, 0, 0], [batch.x[0, 0, 0], mean[1] + gain * (batch.x[0, 0, 0] - mean[0])])
    close(conditional.covariance_matrix[0, 0, 0], [[0, 0], [0, noise[1, 1] - gain * noise[0, 1]]], 1e-9)


def test_the_verbs_work_on_both():
    _, x, _ = drawn(2, n=12, length=5)
    for kind in (FactorialHMM, ExactFactorialHMM):
        model = kind(3, 2, 2).double()
        model.start(Batch(x), torch.Generator().manual_seed(0))
        found = evaluate(model, x, importance_samples=200)
        assert found.method == ("exact" if kind is ExactFactorialHMM else "importance sampling")
        expected = model.exact().posterior(Batch(x)).log_partition.detach().mean()
        assert found.log_marginal == pytest.approx(float(expected), abs=5 * found.log_marginal_mc_se + 1e-9)
        states, lengths = decode_path(model, as_dataset(x))
        assert states.shape == (12, 5, 2)
        assert lengths.tolist() == [5] * 12
        mask = torch.ones_like(x, dtype=torch.bool)
        mask[:, 2, 1] = False
        filled = complete(model, Batch.of(x, mask), draws=3, sweeps=5).mean
        assert bool(filled.isfinite().all())
        close(filled[mask], x[mask])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.sampled_from(["full", "diagonal"]),
    st.integers(0, 10**6),
)  # fmt: skip
def test_any_shape_gives_finite_numbers_in_the_right_order(features, chains, states, steps, covariance, seed):
    model, generator = scattered(seed, features, chains, states, covariance=covariance)
    x = torch.randn(3, steps, features, generator=generator, dtype=torch.float64)
    mask = torch.rand(x.shape, generator=generator) > 0.3
    batch = Batch.of(x, mask)
    assert float(model.gap(batch).min()) > -1e-9
    with torch.no_grad():
        for some in (model, model.exact()):
            sums, value = some.expect(batch)
            assert bool(value.isfinite())
            some.update(sums)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_constant_columns_and_repeated_data_stay_finite():
    x = torch.ones(4, 3, 2, dtype=torch.float64)
    x[..., 1] = torch.arange(3.0)
    for kind in (FactorialHMM, ExactFactorialHMM):
        for covariance in ("full", "diagonal"):
            model = kind(2, 2, 2, covariance=covariance).double()
            history = EM(steps=30, tol=0.0, progress=False).fit(model, x)
            assert math.isfinite(history.records[-1]["log_marginal"])
            assert bool(model.posterior(Batch(x)).marginals.isfinite().all())


def test_what_cannot_be_is_refused():
    with pytest.raises(OptionError, match="joint states"):
        ExactFactorialHMM(2, chains=13, states=2)
    with pytest.raises(OptionError, match="joint states"):
        FactorialHMM(2, chains=13, states=2).gap(Batch(torch.zeros(1, 1, 2)))
    with pytest.raises(OptionError, match="covariance"):
        FactorialHMM(2, covariance="spherical")
    with pytest.raises(OptionError, match="at least 1"):
        FactorialHMM(2, chains=0)
    with pytest.raises(DataError, match=r"\(B, T, 2\)"):
        FactorialHMM(2).check(Batch(torch.zeros(4, 2)))
