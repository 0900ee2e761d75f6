"""Whatever the data: a result without NaN, or an error that is meant for the person at the keyboard.

Data that are constant, repeated, huge, tiny, far away, missing, of weight 0, or fewer than the components: none may
end in an error of torch's, or in a likelihood that falls.
"""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from latentia.errors import LatentiaError, LikelihoodFell, NonFiniteError
from latentia.learners import EM
from latentia.model import Batch, Frame, TractableModel
from latentia.models import HMM, FactorialHMM, GaussianMixture, KMeans, MixtureOfBernoullis, MixtureOfCategoricals
from latentia.models.topics.lda import LDA
from latentia.testing import one_thread

FEW = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

VALUES = st.sampled_from([0.0, 0.0, 1.0, 1.0, -1.0, 0.5, 1 / 3]) | st.floats(-5, 5, allow_subnormal=False)
SCALES = st.sampled_from([1.0, 1.0, 1e-3, 1e3, 1e150, 1e-150])
OFFSETS = st.sampled_from([0.0, 0.0, 0.0, 1.0, -1e6])
COUNT = st.integers(1, 5)


def masks(shape):
    """True = observed: everything, or each by chance, or rows and columns of nothing."""
    everything = st.just(np.ones(shape, dtype=bool))
    return (
        everything
        | hnp.arrays(bool, shape)
        | hnp.arrays(bool, (shape[0], *(1,) * (len(shape) - 1))).map(lambda rows: np.broadcast_to(rows, shape).copy())
    )


def weights(count):
    numbers = st.sampled_from([0.0, 0.0, 1.0, 1.0, 2.0, 1e-3, 1e6])
    return st.none() | hnp.arrays(np.float64, count, elements=numbers)


def batch_of(draw, x):
    mask, weight = draw(masks(x.shape)), draw(weights(len(x)))
    x = torch.from_numpy(x)
    return Batch.of(x, torch.from_numpy(mask), weight=None if weight is None else torch.from_numpy(weight))


@st.composite
def reals(draw, dimensions=2):
    """(B, D), or sequences (B, T, D)."""
    shape = draw(st.tuples(st.integers(1, 8), *[st.integers(1, 4)] * (dimensions - 1)))
    x = draw(hnp.arrays(np.float64, shape, elements=VALUES))
    if draw(st.booleans()):
        x[..., draw(st.integers(0, shape[-1] - 1))] = draw(VALUES)  # a column that does not vary
    if draw(st.booleans()):
        x[draw(st.integers(0, shape[0] - 1))] = x[0]  # a row twice
    return batch_of(draw, draw(SCALES) * x + draw(OFFSETS))


@st.composite
def symbols(draw, count=3):
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 6)))
    return batch_of(draw, draw(hnp.arrays(np.int64, shape, elements=st.integers(0, count - 1))))


@st.composite
def bits(draw):
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 6)))
    return batch_of(draw, draw(hnp.arrays(np.float64, shape, elements=st.sampled_from([0.0, 1.0]))))


def features(batch):
    return batch.x.shape[-1]


def gaussian_mixture(kind, batch, count):
    return GaussianMixture(features(batch), count, kind)


def gaussian_hmm(kind, batch, count):
    return HMM(features=features(batch), states=count, covariance=kind)


# what each takes, how it is made, and whether its best z alone can count
CASES = {
    **{
        f"mixture, {kind}": (reals(), partial(gaussian_mixture, kind), True)
        for kind in ("full", "tied", "diagonal", "spherical", "common")
    },
    "k-means": (reals(), lambda batch, count: KMeans(features(batch), count), True),
    "mixture of Bernoullis": (bits(), lambda batch, count: MixtureOfBernoullis(batch.x.shape[1:], count), True),
    "mixture of Bernoullis, unsmoothed": (
        bits(),
        lambda batch, count: MixtureOfBernoullis(batch.x.shape[1:], count, 0.0),
        True,
    ),
    "mixture of categoricals": (symbols(), lambda batch, count: MixtureOfCategoricals(3, None, count), True),
    "mixture of categoricals, rows": (
        symbols(),
        lambda batch, count: MixtureOfCategoricals(3, features(batch), count, 0.0),
        True,
    ),
    "hmm, diagonal": (reals(3), partial(gaussian_hmm, "diagonal"), True),
    "hmm, full": (reals(3), partial(gaussian_hmm, "full"), True),
    "hmm, categorical": (symbols(), lambda batch, count: HMM(symbols=3, states=count), True),
    "hmm, unsmoothed": (symbols(), lambda batch, count: HMM(symbols=3, states=count, smoothing=0.0), True),
    "factorial hmm": (reals(3), lambda batch, count: FactorialHMM(features(batch), 2, min(count, 3)), True),
    "factorial hmm, diagonal": (
        reals(3),
        lambda batch, count: FactorialHMM(features(batch), 2, min(count, 3), "diagonal"),
        False,
    ),
    "lda": (symbols(), lambda batch, count: LDA(3, count), False),
    "lda, given concentration": (symbols(), lambda batch, count: LDA(3, count, learn_concentration=False), False),
}


def finite(what, value):
    assert not bool(value.isnan().any()), f"{what} has NaN: {value}"
    assert not bool((value == torch.inf).any()), f"{what} is infinite: {value}"


def survives(make, batch, count, hard, steps, restarts):
    """Fit and ask everything: no error but a `LatentiaError`, no NaN."""
    model = make(batch, count).double()
    try:
        history = EM(steps=steps, restarts=restarts, hard=hard, progress=False).fit(model, batch, seed=0)
    except (LikelihoodFell, NonFiniteError):
        raise  # they say that the model is wrong
    except LatentiaError:
        return
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            finite(name, value)
    for record in history.records:
        finite("log p(x)", torch.tensor(record["log_marginal"]))
    with torch.no_grad():
        posterior = model.posterior(batch)
        finite("the posterior", posterior.mean)
        value = posterior.log_partition if isinstance(model, TractableModel) else model.expect(batch)[1]
        finite("log p(x) again", value)
        (x, *_), z = model.generate(Frame(3))
        finite("generated x", x)
        finite("generated z", z)


@pytest.fixture(autouse=True)
def _quiet():
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def examples(case, profile):
    data, make, may_be_hard = CASES[case]

    @profile
    @given(
        batch=data,
        count=COUNT,
        hard=st.booleans() if may_be_hard else st.just(False),
        steps=st.integers(1, 6),
        restarts=st.integers(1, 2),
    )
    def test(batch, count, hard, steps, restarts):
        survives(make, batch, count, hard, steps, restarts)

    return test


@pytest.mark.parametrize("case", CASES)
def test_whatever_the_data(case):
    examples(case, FEW)()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_whatever_the_data_at_length(case):
    """10,000 examples in all, others each time."""
    examples(case, settings(FEW, max_examples=10_000 // len(CASES) + 1, derandomize=False))()
