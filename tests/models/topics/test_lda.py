"""Latent Dirichlet allocation: closed forms, quadrature, scikit-learn, and what a sampler recovers."""

import itertools
import math
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.decomposition import LatentDirichletAllocation
from torch.distributions import kl_divergence

from latentia.data import load
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.kernels import lda as kernel
from latentia.learners import EM, Checkpoint, Gibbs, Online
from latentia.model import Batch, Frame
from latentia.models import HMM, LDA
from latentia.models.topics import lda
from latentia.report.latents import latents
from latentia.tasks import document_completion, top_words
from latentia.testing import brute_force_log_marginal, nodes, one_thread

AP = Path(__file__).parents[4] / "shared" / "data" / "lda_ap" / "ap.tgz"


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def ap(tmp_path_factory):
    """The Associated Press articles, without words seen less than five times."""
    if not AP.exists():
        pytest.skip("lda_ap is not here")
    folder = tmp_path_factory.mktemp("ap")
    with tarfile.open(AP) as archive:
        archive.extractall(folder, filter="data")
    return load(folder / "ap" / "ap.dat", vocabulary=folder / "ap" / "vocab.txt", min_count=5)


def random_documents(seed=0, documents=40, longest=30, symbols=12):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(symbols, (documents, longest), generator=generator)
    return Batch.of(x, lengths=torch.randint(1, longest + 1, (documents,), generator=generator))


def random_model(seed=0, topics=4, symbols=12, **options):
    generator = torch.Generator().manual_seed(seed)
    model = LDA(symbols, topics, **{"tol": 1e-13, "steps": 5000, **options}).double()
    model.emissions.logits.data = torch.randn(topics, symbols, generator=generator, dtype=torch.float64)
    model.log_concentration.data = 0.5 * torch.randn(topics, generator=generator, dtype=torch.float64) - 1
    return model


def planted(documents=400, length=60, topics=3, symbols=30, concentration=(1.0, 0.4, 0.2), seed=0):
    """Documents of topics that share no word, and the topics."""
    generator = np.random.default_rng(seed)
    beta = np.zeros((topics, symbols))
    for k, words in enumerate(np.split(np.arange(symbols), topics)):
        beta[k, words] = generator.dirichlet(np.ones(len(words)))
    theta = generator.dirichlet(concentration, documents)
    x = np.stack([generator.choice(symbols, length, p=share @ beta) for share in theta])
    return load(list(x), kind="sequence"), torch.from_numpy(beta)


def repeated(batch, times):
    return batch.select(torch.arange(batch.size).repeat_interleave(torch.tensor(times)))


# ------------------------------------------------------------------------------------------ the variational E-step


def test_exp_digamma():
    x = np.concatenate([np.geomspace(2e-3, 1e9, 200), [1e-9]])
    out, power = np.empty_like(x), np.empty_like(x)
    kernel.exp_digamma(x, out, power, power.view(np.int64))
    np.testing.assert_allclose(out[:-1], torch.from_numpy(x[:-1]).digamma().exp(), rtol=2e-12)
    assert 0 <= out[-1] < 1e-300


def test_the_posterior_is_a_fixed_point():
    model, batch = random_model(), random_documents()
    gamma = model.posterior(batch).concentration
    beta = model.topics.detach()
    log_theta = gamma.digamma() - gamma.sum(-1, keepdim=True).digamma()
    phi = (log_theta.unsqueeze(1) + beta.T[batch.x].log()).softmax(-1) * batch.observed.unsqueeze(-1)
    torch.testing.assert_close(gamma, model.concentration.detach() + phi.sum(1), rtol=1e-9, atol=1e-9)
    sums, value = model.expect(batch)
    symbols = torch.zeros(12, 4, dtype=torch.float64).index_add_(0, batch.x.flatten(), phi.flatten(0, 1)).T
    torch.testing.assert_close(sums["symbol"], symbols, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sums["log_theta"], log_theta.sum(0), rtol=1e-9, atol=1e-9)
    prior = model.prior(batch.frame)
    entropy = -torch.special.xlogy(phi, phi).sum()
    likelihood = (phi * (log_theta.unsqueeze(1) + beta.T[batch.x].log())).sum()
    expected = likelihood + entropy - kl_divergence(model.posterior(batch), prior).sum()
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)


def test_bounds_are_in_order():
    model, batch = lda.tiny(3)
    q = model.posterior(batch)
    z, log_weight = nodes(q)
    with torch.no_grad():
        likelihood = (log_weight.exp() * model.log_likelihood(batch, z)).sum(0)
        elbo = likelihood - kl_divergence(q, model.prior(batch.frame))
        marginal = brute_force_log_marginal(model, batch)
        values = torch.stack([model.expect(batch.select([b]))[1] for b in range(batch.size)])
    assert bool((values <= elbo + 1e-10).all())
    assert bool((elbo <= marginal + 1e-10).all())
    assert bool((values[batch.observed.sum(1) > 1] < elbo[batch.observed.sum(1) > 1]).all())


def test_one_topic_is_a_unigram_model():
    model, batch = random_model(topics=1), random_documents()
    log_beta = model.topics[0].log().detach()
    expected = torch.where(batch.observed, log_beta[batch.x], 0.0).sum(1)
    for found in (model.left_to_right(batch, 1), model.expect(batch)[1]):
        torch.testing.assert_close(found, expected if found.ndim else expected.sum())


def test_statistics_add_and_weights_count_documents():
    model, batch = random_model(), random_documents()
    whole, value = model.expect(batch)
    parts = [model.expect(batch.select(slice(*ends))) for ends in ((0, 7), (7, None))]
    torch.testing.assert_close(sum(part[1] for part in parts), value)
    for name, total in whole.items():
        torch.testing.assert_close(parts[0][0][name] + parts[1][0][name], total)
    times = [b % 3 for b in range(batch.size)]
    weighted = model.expect(batch._replace(weight=torch.tensor(times, dtype=torch.float64)))
    several = model.expect(repeated(batch, times))
    torch.testing.assert_close(weighted, several)


def test_padding_and_order_change_nothing():
    model, batch = random_model(), random_documents()
    wide = torch.cat([torch.full_like(batch.x, -1), batch.x.flip(1)], 1)
    mask = torch.cat([torch.zeros_like(batch.observed), batch.observed.flip(1)], 1)
    one, other = model.posterior(batch), model.posterior(Batch(wide, mask))
    torch.testing.assert_close(one.concentration, other.concentration)
    theta = one.sample((2,))
    torch.testing.assert_close(model.log_likelihood(batch, theta), model.log_likelihood(Batch(wide, mask), theta))
    nothing = Batch(batch.x, torch.zeros_like(batch.observed))
    torch.testing.assert_close(
        model.posterior(nothing).concentration, model.prior(nothing.frame).concentration.detach()
    )
    assert float(model.expect(nothing)[1]) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("learn", [True, False])
def test_em_raises_its_bound(learn):
    batch = random_documents(documents=60)
    model = LDA(12, 3, learn_concentration=learn, tol=1e-10, steps=3000).double()
    model.start(batch, torch.Generator().manual_seed(0))
    before, values = model.concentration.clone(), []
    with torch.no_grad():
        for _ in range(25):
            sums, value = model.expect(batch)
            values.append(float(value + model.log_prior()))
            model.update(sums)
    assert np.diff(values).min() > -1e-6
    assert values[-1] > values[0] + 10
    assert torch.equal(model.concentration, before) != learn


def test_the_concentration_is_a_maximum():
    truth = torch.tensor([0.05, 3.0, 0.4, 50.0], dtype=torch.float64)
    mean_log = truth.digamma() - truth.sum().digamma()
    for start in (torch.full_like(truth, 1e-3), torch.ones_like(truth), torch.full_like(truth, 1e3)):
        torch.testing.assert_close(lda.dirichlet_maximum(mean_log, start), truth, rtol=1e-6, atol=1e-9)


def test_hard_em_and_odd_options_are_refused():
    model, batch = lda.tiny(0)
    with pytest.raises(CapabilityError, match="no hard EM"):
        model.expect(batch, hard=True)
    with pytest.raises(OptionError, match="concentration=0"):
        LDA(3, concentration=0)
    with pytest.raises(OptionError, match="particles=0"):
        model.left_to_right(batch, 0)
    with pytest.raises(DataError, match=r"x \(B, T\)"):
        model.check(Batch(torch.zeros(3)))
    with pytest.raises(DataError, match=r"outside 0\.\.2"):
        model.check(Batch(torch.tensor([[0, 3]])))


def test_a_canonical_order_changes_nothing_else():
    model, batch = random_model(topics=5), random_documents()
    before = model.left_to_right(batch, 500, seed=0), model.expect(batch)[1]
    model.canonical()
    assert bool((model.concentration.diff() <= 0).all())
    torch.testing.assert_close(model.expect(batch)[1], before[1])
    once = model.topics.clone()
    model.canonical()
    torch.testing.assert_close(model.topics, once, rtol=0, atol=0)


def test_left_to_right_agrees_with_quadrature():
    model, batch = lda.tiny(1)
    expected = brute_force_log_marginal(model, batch)
    torch.testing.assert_close(model.left_to_right(batch, 20_000), expected, rtol=0, atol=0.03)


def test_generated_documents_mix_their_topics():
    model = random_model(length=2000)
    torch.manual_seed(0)
    (x, *_), theta = model.generate(Frame(5))
    frequency = torch.stack([torch.bincount(row, minlength=12) for row in x]) / 2000
    torch.testing.assert_close(frequency.double(), (theta @ model.topics).detach(), rtol=0, atol=0.06)


def test_tiny_concentrations_give_no_nan():
    model, batch = random_model(), random_documents()
    model.log_concentration.data[:] = math.log(1e-4)
    q = model.posterior(batch)
    z = q.sample((50,))
    weight = model.log_joint(batch, z) - q.log_prob(z)
    assert not bool(weight.isnan().any())
    assert bool(torch.isfinite(model.expect(batch)[1]))


# ---------------------------------------------------------------------------------------------------- scikit-learn


def peer_of(topics, counts, components, steps=1000):
    peer = LatentDirichletAllocation(
        topics, doc_topic_prior=0.2, topic_word_prior=0.1, max_doc_update_iter=steps, mean_change_tol=1e-13, n_jobs=1
    )
    peer._init_latent_vars(counts.shape[1], dtype=np.float64)
    peer.components_ = components.copy()
    peer.exp_dirichlet_component_ = exp_log_mean(torch.from_numpy(components)).numpy()
    return peer


def exp_log_mean(components):
    """exp(E log beta) of Dirichlet posteriors of the topics."""
    return (components.digamma() - components.sum(1, keepdim=True).digamma()).exp()


def agree_with_sklearn(batch, symbols, topics=5, steps=3):
    """Variational Bayes with a posterior on the topics too, by scikit-learn and by our E-step."""
    rows = torch.arange(batch.size).unsqueeze(-1).expand_as(batch.x)[batch.observed]
    ones = np.ones(len(rows))
    counts = csr_matrix((ones, (rows.numpy(), batch.x[batch.observed].numpy())), shape=(batch.size, symbols))
    components = np.random.default_rng(0).gamma(100.0, 0.01, (topics, symbols))
    peer, ours = peer_of(topics, counts, components), torch.from_numpy(components)
    prior, weight = torch.full((topics,), 0.2, dtype=torch.float64), torch.ones(batch.size)
    for _ in range(steps):
        theirs, sums = peer._e_step(counts, cal_sstats=True, random_init=False)
        start = torch.ones(batch.size, topics, dtype=torch.float64)
        gamma, _, expected = kernel.posterior(
            batch.x, batch.seen, exp_log_mean(ours), prior, weight, steps=1000, tol=1e-13, start=start
        )
        np.testing.assert_allclose(gamma, theirs, rtol=1e-6, atol=1e-6)
        ours = 0.1 + expected
        peer.components_ = 0.1 + sums
        peer.exp_dirichlet_component_ = exp_log_mean(torch.from_numpy(peer.components_)).numpy()
        np.testing.assert_allclose(ours, peer.components_, rtol=1e-6, atol=1e-6)


def test_sklearn_agrees():
    agree_with_sklearn(random_documents(symbols=12), 12)


def test_sklearn_agrees_on_the_associated_press(ap):
    agree_with_sklearn(ap.subset(slice(0, 150)).batch(), ap.schema.levels)


# ---------------------------------------------------------------------------------------------------------- learners


def matched(found, truth):
    """The least mean total-variation distance over all ways to pair topics."""
    orders = itertools.permutations(range(len(truth)))
    return min(float((found[list(order)] - truth).abs().sum(1).mean() / 2) for order in orders)


@pytest.mark.parametrize(
    "learner", [Gibbs(sweeps=120, burn_in=60), EM(steps=80, restarts=3), EM(steps=20, stepwise=0.7, batch_size=50)]
)
def test_planted_topics_are_recovered(learner):
    data, truth = planted()
    model = LDA(30, 3).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner.fit(model, data)
    assert matched(model.topics.detach(), truth) < 0.05
    if isinstance(learner, Gibbs):
        np.testing.assert_allclose(model.concentration.detach(), [1.0, 0.4, 0.2], rtol=0.25)


def test_online_learning_takes_chunks():
    data, truth = planted()
    found = []
    for seed in range(4):  # the first chunk has local maxima
        online = Online(LDA(30, 3).double(), passes=40, seed=seed)
        bounds = [online.partial_fit(data.subset(slice(start, start + 100))) for start in range(0, 400, 100)]
        found.append((bounds[-1], matched(online.model.topics.detach(), truth)))
    assert max(found)[1] < 0.1


def test_gibbs_is_a_function_of_its_seed_and_goes_on_where_it_stopped(tmp_path):
    data, _ = planted(documents=40)
    learned, records = [], []
    for seed, path in ((0, None), (0, tmp_path / "learner"), (1, None)):
        model = LDA(30, 3).double()
        learner = Gibbs(sweeps=40, burn_in=20, every=4)
        checkpoint = None if path is None else Checkpoint(path, every=0.0)
        if checkpoint:
            with pytest.raises(KeyboardInterrupt):
                learner.fit(model, data, seed=seed, checkpoint=checkpoint, callbacks=[interrupt_at(28)])
        history = learner.fit(model, data, seed=seed, checkpoint=checkpoint)
        learned.append(model.state_dict())
        records.append([record["log_joint"] for record in history.records])
    assert records[1] == records[0][-len(records[1]) :]
    assert len(records[1]) < len(records[0])
    for name, value in learned[0].items():
        assert torch.equal(learned[1][name], value)
    assert not torch.equal(learned[2]["emissions.logits"], learned[0]["emissions.logits"])


def interrupt_at(step):
    def stop(record):
        if record["step"] == step:
            raise KeyboardInterrupt

    return stop


def test_gibbs_takes_weights_as_repetitions():
    data, _ = planted(documents=20)
    batch, times = data.batch(), [b % 3 for b in range(20)]
    learned = []
    for some in (batch._replace(weight=torch.tensor(times, dtype=torch.float64)), repeated(batch, times)):
        model = LDA(30, 3).double()
        Gibbs(sweeps=20, burn_in=0).fit(model, some)
        learned.append(model.topics)
    torch.testing.assert_close(learned[0], learned[1], rtol=0, atol=0)
    with pytest.raises(DataError, match="whole number"):
        Gibbs(sweeps=20, burn_in=0).fit(LDA(30, 3), batch._replace(weight=torch.full((20,), 0.5)))
    with pytest.raises(DataError, match="no data"):
        Gibbs(sweeps=20, burn_in=0).fit(LDA(30, 3), batch._replace(weight=torch.zeros(20)))


def test_gibbs_says_what_it_needs():
    with pytest.raises(CapabilityError, match=r"HMM\.sampler"):
        Gibbs().fit(HMM(symbols=30, states=2), planted(documents=5)[0])
    with pytest.raises(OptionError, match="smoothing=0"):
        Gibbs().fit(LDA(30, 2, smoothing=0.0), planted(documents=5)[0])
    with pytest.raises(OptionError, match="no sweep is left"):
        Gibbs(sweeps=100, burn_in=100)
    with pytest.raises(OptionError, match="sweeps=0"):
        Gibbs(sweeps=0)


def test_the_report_shows_the_words_of_each_topic():
    data, _ = planted(documents=60)
    model = LDA(30, 3).double()
    Gibbs(sweeps=60, burn_in=30).fit(model, data)
    (panel,) = latents(model, data, {}, 0)
    assert panel.title == "The words of each topic"
    groups = [{int(word) // 10 for word, _ in topic["common"][:5]} for topic in panel.content]
    assert sorted(map(tuple, groups)) == [(0,), (1,), (2,)]


# --------------------------------------------------------------------------------------------------------- real text


@pytest.mark.slow
def test_gibbs_predicts_held_out_articles_better_than_variational_em(ap):
    train, test = ap.split(0.1)
    found = {}
    for learner in (Gibbs(sweeps=300, burn_in=150), EM(steps=60)):
        model = LDA(ap.schema.levels, 30).double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            learner.fit(model, train)
        found[type(learner)] = (
            document_completion(model, test).perplexity,
            float(model.left_to_right(test.subset(slice(0, 40)).batch(), 5).sum()),
        )
        words = top_words(model.topics, ap.schema.vocabulary)
        assert any({"soviet", "union"} <= set(best) for best in words)
    assert found[Gibbs][0] < found[EM][0]
    assert found[Gibbs][1] > found[EM][1]
