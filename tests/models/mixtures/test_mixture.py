"""The mixture over columns of their own kind: SciPy's densities, the single-kind mixtures, StepMix, poLCA's table."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import adjusted_rand_score

from latentia.data import as_dataset
from latentia.errors import DataError, OptionError
from latentia.learners import EM
from latentia.model import Batch
from latentia.models import GaussianMixture, Mixture, MixtureOfBernoullis, MixtureOfCategoricals
from latentia.tasks import cluster, complete, generate
from latentia.testing import one_thread

COLUMNS = ("count", "real", 3, "binary", "real", 2)

# Whether each of seven pathologists saw carcinoma in a slide, and how many slides were rated so: 118 slides of Landis
# and Koch (1977), as Agresti (2002, table 13.1) has them.
CARCINOMA = {
    "0000000": 34, "0000100": 2, "0100000": 6, "0100001": 1, "0100100": 4, "0100101": 5, "1000000": 2, "1010101": 1,
    "1100000": 2, "1100001": 1, "1100100": 2, "1100101": 7, "1100111": 1, "1101001": 1, "1101101": 2, "1101111": 3,
    "1110101": 13, "1110111": 5, "1111101": 10, "1111111": 16,
}  # fmt: skip
# maximised log-likelihoods of 2, 3 and 4 classes: Linzer and Lewis (2011), "poLCA", section 5.1
PUBLISHED = {2: -317.2568, 3: -293.705, 4: -289.2858}


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def rows(count=400, seed=0, clusters=2):
    """Rows of all kinds from clusters that lie apart, a tenth of their cells missing."""
    rng = np.random.default_rng(seed)
    z = rng.integers(clusters, size=count)
    parts = [
        rng.poisson(2 + 6 * z),
        rng.normal(3.0 * z),
        (z + (rng.random(count) < 0.2)) % 3,
        rng.random(count) < 0.2 + 0.6 * z / (clusters - 1),
        rng.normal(100 - 8 * z, 2.0),
        rng.integers(2, size=count),
    ]
    x = np.stack(parts, 1).astype(float)
    x[rng.random(x.shape) < 0.1] = np.nan
    return Batch.of(torch.from_numpy(x)), z


def fitted(columns, batch, components=2, **options):
    model = Mixture(columns, components, **options).double()
    EM(steps=100, tol=1e-5, progress=False).fit(model, as_dataset(batch))
    return model


def by_hand(model, x):
    """log p(x) of one row, NaN where it is missing, by SciPy."""
    total = np.log(model.weights.detach().numpy())
    seen = dict.fromkeys(("real", "category", "binary", "count"), 0)
    part = model.emissions.part
    for value, column in zip(x, model.columns, strict=True):
        kind = "category" if isinstance(column, int) else column
        d, seen[kind] = seen[kind], seen[kind] + 1
        if np.isnan(value):
            continue
        if kind == "real":
            spread = part("real").log_scale.detach().exp().numpy()[:, d]
            total = total + stats.norm.logpdf(value, part("real").means.detach().numpy()[:, d], spread)
        elif kind == "category":
            total = total + np.log(part("category").probs.detach().numpy()[:, d, int(value)])
        elif kind == "binary":
            total = total + stats.bernoulli.logpmf(value, part("binary").probs.detach().numpy()[:, d])
        else:
            total = total + stats.poisson.logpmf(value, part("count").rates.detach().numpy()[:, d])
    return np.logaddexp.reduce(total)


def test_log_likelihood_is_that_of_scipy():
    batch, _ = rows(60)
    model = fitted(COLUMNS, batch)
    x = torch.where(batch.observed, batch.x, torch.nan).numpy()
    with torch.no_grad():
        found = model.posterior(batch).log_partition.numpy()
    np.testing.assert_allclose(found, [by_hand(model, row) for row in x], rtol=1e-10)


def test_kernels_say_what_the_parts_say():
    batch, _ = rows(60)
    model = fitted(COLUMNS, batch)
    responsibility = torch.rand(60, 2, generator=torch.Generator().manual_seed(0)).double()
    # what lies under the mask may be anything
    x = torch.where(batch.observed, batch.x, -7.5)
    for mask, values in ((batch.mask, x), (None, batch.x)):
        with torch.no_grad():
            fused = model.emissions.log_prob(values, mask)
            assert torch.allclose(fused, model.emissions.log_prob_of_parts(batch.x, mask), rtol=1e-12, atol=1e-10)
            sums = model.emissions.statistics(values, mask, responsibility)
            parts = model.emissions.statistics_of_parts(batch.x, mask, responsibility)
        assert sums.keys() == parts.keys()
        for name, value in parts.items():
            assert torch.allclose(sums[name], value, rtol=1e-9, atol=1e-9), name


def test_a_zero_is_learned_as_a_zero():
    x = torch.tensor([[0.0, 0.0]] * 5 + [[1.0, 2.0]] * 5).double()
    model = fitted(("binary", 3), Batch.of(x), smoothing=0.0)
    with torch.no_grad():
        value = model.posterior(Batch.of(torch.tensor([[0.0, 1.0], [0.0, 0.0]]).double())).log_partition
    assert float(value[1]) == pytest.approx(np.log(0.5))
    assert float(value[0]) < -1e3


@pytest.mark.parametrize("kind", ["real", "category", "binary"])
def test_columns_of_one_kind_are_the_model_of_that_kind(kind):
    """One step of EM from the same parameters gives the same parameters."""
    generator = torch.Generator().manual_seed(0)
    one: GaussianMixture | MixtureOfCategoricals | MixtureOfBernoullis
    if kind == "real":
        x, columns = torch.randn(50, 3, generator=generator).double(), ("real",) * 3
        one = GaussianMixture(3, 2, "diagonal")
    else:
        levels = 4 if kind == "category" else 2
        x = torch.randint(levels, (50, 3), generator=generator).double()
        columns = (levels if kind == "category" else "binary",) * 3
        one = MixtureOfCategoricals(4, 3, 2) if kind == "category" else MixtureOfBernoullis((3,), 2, 0.01)
    mask = torch.rand(x.shape, generator=generator) < 0.8
    batch = Batch.of(x, mask)
    one, model = one.double(), Mixture(columns, 2).double()
    one.start(batch, torch.Generator().manual_seed(1))
    model.emissions.part(kind).load_state_dict(one.emissions.state_dict())
    with torch.no_grad():
        for some in (one, model):
            some.update(some.expect(batch)[0])
        difference = one.posterior(batch).log_partition - model.posterior(batch).log_partition
    assert float(difference.abs().max()) < 1e-10
    assert one.free_parameters() == model.free_parameters()


def test_clusters_of_mixed_columns_are_found():
    batch, truth = rows(600)
    model = fitted(COLUMNS, batch)
    assert adjusted_rand_score(truth, cluster(model, batch).numpy()) > 0.97


def test_what_is_missing_is_filled_in_by_values_that_exist():
    batch, truth = rows(300)
    model = fitted(COLUMNS, batch)
    hidden = batch._replace(mask=batch.observed & torch.tensor([True, True, False, False, True, True]))
    done = complete(model, hidden, draws=3)
    assert set(done.mean[:, 2:4].flatten().unique().tolist()) <= {0.0, 1.0, 2.0}
    # the most probable category of each cluster is the cluster's own number
    assert (done.mean[:, 2].numpy() == truth)[~batch.observed[:, 2].numpy()].mean() > 0.9
    assert set(done.draws[..., 3].flatten().unique().tolist()) == {0.0, 1.0}
    drawn, _ = generate(model, 500, mean=True)
    assert set(drawn.x[:, 2].unique().tolist()) <= {0.0, 1.0, 2.0}


def test_parameters_are_counted_by_column():
    # of each cluster a rate, two means, two variances, two and one probabilities, and one of yes
    assert Mixture(COLUMNS, 3).free_parameters() == 2 + 3 * (1 + 4 + 2 + 1 + 1)


@pytest.mark.parametrize("levels", [(3, 2, 5), (2, 2, 4)])
def test_a_mixture_of_categoricals_has_its_own_levels_a_column(levels):
    generator = torch.Generator().manual_seed(0)
    x = torch.stack([torch.randint(count, (80,), generator=generator) for count in levels], 1)
    model = MixtureOfCategoricals(symbols=levels, features=3, components=2).double()
    assert model.free_parameters() == 1 + 2 * sum(count - 1 for count in levels)
    EM(steps=200, tol=1e-3, progress=False).fit(model, as_dataset(Batch(x)))
    for d, count in enumerate(levels):
        assert torch.allclose(model.probs[:, d, :count].sum(-1), torch.ones(2).double())
    drawn, _ = generate(model, 2000)
    assert (drawn.x.amax(0) < torch.tensor(levels)).all()
    with pytest.raises(DataError, match="column 2: 2 is none of its values, which are whole numbers from 0 to 1"):
        model.check(Batch(torch.tensor([[0, 2, 0]])))
    with pytest.raises(OptionError, match="one for each of 3"):
        MixtureOfCategoricals(symbols=(2, 3), features=3)


@pytest.mark.parametrize(
    ("columns", "row", "words"),
    [
        (("real", 3), [0.0, 3.0], "column 2: 3 is none of its values, which are whole numbers from 0 to 2"),
        (("binary",), [0.5], "column 1: 0.5 is none"),
        (("count",), [-1.0], "counts 0, 1, 2"),
        (("real",), [1.0, 2.0], "1 columns"),
        (("binary", "real"), [1.0, 1e200], "column 2 has values of size"),
    ],
)
def test_data_of_another_kind_are_refused(columns, row, words):
    with pytest.raises(DataError, match=words):
        Mixture(columns).double().check(Batch.of(torch.tensor([row]).double()))


@pytest.mark.parametrize("columns", [(), ("real", "word"), (0,), (True,)])
def test_columns_of_no_kind_are_refused(columns):
    with pytest.raises(OptionError, match="columns"):
        Mixture(columns)


@pytest.mark.parametrize("classes", PUBLISHED)
def test_carcinoma_has_the_likelihoods_of_polca(classes):
    rated = torch.tensor([[float(digit) for digit in pattern] for pattern in CARCINOMA]).double()
    batch = Batch.of(rated, weight=torch.tensor(list(CARCINOMA.values())).double())
    assert float(batch.weights.sum()) == 118
    model = Mixture((2,) * 7, classes, smoothing=0.0).double()
    data = as_dataset(batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is the second that goes on to the end
        EM(steps=100, tol=1e-6, restarts=8, progress=False).fit(model, data)
    EM(steps=3000, tol=1e-11, fresh=False, progress=False).fit(model, data)
    with torch.no_grad():
        total = float(batch.weights @ model.posterior(batch).log_partition)
    assert total == pytest.approx(PUBLISHED[classes], abs=6e-5)


def test_stepmix_has_the_same_likelihood_and_the_same_steps():
    """10,000 rows of 5 numbers and 5 categories, a tenth missing, five clusters."""
    peer = pytest.importorskip("stepmix.stepmix").StepMix
    import pandas as pd

    rng = np.random.default_rng(0)
    z = rng.integers(5, size=10_000)
    numbers = rng.normal(0, 2, (5, 5))[z] + rng.normal(size=(10_000, 5))
    shares = rng.dirichlet(np.full(4, 0.5), (5, 5)).cumsum(-1)
    categories = (rng.random((10_000, 5, 1)) > shares[z]).sum(-1).clip(max=3)
    x = np.concatenate([numbers, categories], 1)
    x[rng.random(x.shape) < 0.1] = np.nan
    frame = pd.DataFrame(x, columns=[f"x{d}" for d in range(10)])
    parts = {
        "real": {"model": "gaussian_diag_nan", "n_columns": 5},
        "category": {"model": "categorical_nan", "n_columns": 5},
    }
    options = {"measurement": parts, "random_state": 0, "abs_tol": 0, "rel_tol": 0, "verbose": 0, "progress_bar": 0}

    def theirs(steps):
        model = peer(n_components=5, max_iter=steps, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.fit(frame)

    first, later = theirs(1), theirs(4)
    model, batch = Mixture(("real",) * 5 + (4,) * 5, 5, smoothing=0.0).double(), Batch.of(torch.from_numpy(x))
    found = first.get_parameters()
    real, category = model.emissions.part("real"), model.emissions.part("category")
    model.logits.data = torch.tensor(found["weights"]).log()
    real.means.data = torch.tensor(found["measurement"]["real"]["means"])
    real.log_scale.data = 0.5 * torch.tensor(found["measurement"]["real"]["covariances"]).log()
    pis = torch.as_tensor(np.asarray(found["measurement"]["category"]["pis"])).reshape(5, 5, 4)
    category.logits.data = pis.clamp(min=1e-300).log()
    with torch.no_grad():
        assert float(model.posterior(batch).log_partition.mean()) == pytest.approx(first.score(frame), abs=1e-9)
        for _ in range(3):
            model.update(model.expect(batch)[0])
        value = float(model.posterior(batch).log_partition.mean())
    # theirs adds 1e-6 to each variance
    assert value == pytest.approx(later.score(frame), abs=1e-6)
