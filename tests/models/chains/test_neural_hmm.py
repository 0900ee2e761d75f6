"""The neural hidden Markov model: its tables, its likelihood, and what it learns."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentia.data import load
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.evaluate import evaluate
from latentia.learners import EM, Gradient
from latentia.model import Batch, ExactModel, Frame, TractableModel
from latentia.models import HMM, NeuralHMM
from latentia.models.chains import neural_hmm
from latentia.objectives import exact
from latentia.tasks import decode_path
from latentia.testing import one_thread


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def close(left, right, tolerance=1e-9):
    np.testing.assert_allclose(left.detach().numpy(), torch.as_tensor(right).detach().numpy(), tolerance, tolerance)


def as_hmm(model):
    """The hidden Markov model of the same tables."""
    states, symbols = model.emission_log_probs.shape
    peer = HMM(symbols=symbols, states=states, smoothing=0.0).double()
    peer.initial_logits.data = model.initial_log_probs.detach()
    peer.transition_logits.data = model.transition_log_probs.detach()
    peer.emissions.logits.data = model.emission_log_probs.detach()
    return peer


def test_log_marginal_and_paths_are_those_of_an_hmm_of_the_same_tables():
    model, batch = neural_hmm.tiny(0)
    peer = as_hmm(model)
    found, expected = model.posterior(batch), peer.posterior(batch)
    close(found.log_partition, expected.log_partition)
    close(found.marginals, expected.marginals)
    close(found.mode, expected.mode)


def test_log_marginal_by_enumeration():
    model, _ = neural_hmm.tiny(1)
    x = [0, 2, 2, 1]
    initial, transition, emission = (
        table.detach().exp().numpy()
        for table in (model.initial_log_probs, model.transition_log_probs, model.emission_log_probs)
    )
    total = 0.0
    for path in itertools.product(range(2), repeat=4):
        moves = math.prod(transition[i, j] for i, j in itertools.pairwise(path))
        total += initial[path[0]] * moves * math.prod(emission[k, v] for k, v in zip(path, x, strict=True))
    close(exact(model, Batch(torch.tensor([x]))).value, torch.tensor([math.log(total)], dtype=torch.float64))


def test_the_gradient_is_that_of_the_expected_log_joint():
    """Fisher's identity: d log p(x) = E[d log p(x, z)] under the posterior."""
    model, batch = neural_hmm.tiny(2)
    expected = model.posterior(batch).expectations()
    initial, transition, emission = model.initial_log_probs, model.transition_log_probs, model.emission_log_probs
    symbol = torch.zeros(*batch.x.shape, 3, dtype=torch.float64).scatter_(-1, batch.x.unsqueeze(-1), 1.0)
    counts = torch.einsum("btk,btv->kv", expected["node"] * batch.observed.unsqueeze(-1), symbol)
    joint = (
        (expected["initial"] * initial).sum()
        + (expected["transition"][0] * transition).sum()
        + (counts * emission).sum()
    )
    parameters = list(model.parameters())
    left = torch.autograd.grad(exact(model, batch).value.sum(), parameters)
    right = torch.autograd.grad(joint, parameters)
    for a, b in zip(left, right, strict=True):
        close(a, b)


def test_it_is_tractable_without_an_m_step():
    model, batch = neural_hmm.tiny(0)
    assert isinstance(model, TractableModel)
    assert not isinstance(model, ExactModel)
    with pytest.raises(CapabilityError, match="M-step"):
        EM().fit(model, batch.x)
    assert evaluate(model, batch.x).method == "exact"


def sequences(seed, n=300, length=12):
    """Three states that follow each other in a ring, each with two symbols of its own."""
    generator = torch.Generator().manual_seed(seed)
    truth = HMM(symbols=6, states=3, length=length).double()
    truth.transition_logits.data = (0.8 * torch.eye(3).roll(1, 1) + 0.2 / 3).double().log()
    truth.emissions.logits.data = (torch.eye(3).repeat_interleave(2, 1) * 0.45 + 0.1 / 6).double().log()
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        (x, *_), z = truth.generate(Frame(n))
    return truth, x, z


def test_gradient_ascent_finds_the_ring():
    truth, x, _ = sequences(0)
    _, fresh, z = sequences(1)
    best = None
    for seed in range(3):
        model = NeuralHMM(6, states=3, hidden=16)
        history = Gradient(exact, epochs=60, batch_size=50, lr=1e-2, progress=False).fit(model, x, seed=seed)
        if best is None or history.records[-1]["bound"] > best[0]:
            best = history.records[-1]["bound"], model
    model = best[1].double()
    with torch.no_grad():
        loss = (truth.posterior(Batch(fresh)).log_partition - model.posterior(Batch(fresh)).log_partition).mean()
    assert float(loss) < 0.15
    path, _ = decode_path(model, load(fresh.tolist(), kind="sequence"))
    true = z.argmax(-1)
    agreement = max(
        float((torch.tensor(order)[path] == true).float().mean()) for order in itertools.permutations(range(3))
    )
    expected = float((truth.posterior(Batch(fresh)).mode.argmax(-1) == true).float().mean())
    assert agreement > expected - 0.02


def test_start_gives_each_state_nearly_the_words_of_the_data():
    model = NeuralHMM(4, states=3, hidden=8).double()
    x, mask = torch.tensor([[0, 0, 0, 1], [0, 2, 0, 3]]), torch.tensor([[True] * 4, [True, True, True, False]])
    model.start(Batch(x, mask, weight=torch.tensor([1.0, 2.0])), torch.Generator().manual_seed(0))
    # add-one counts, 0 is seen 3 + 2 * 2 times, and 3 never
    close(model.word_bias.exp(), torch.tensor([8, 2, 3, 1]).double() / 14)


def test_dropout_acts_in_learning_only():
    model, batch = NeuralHMM(5, states=4, hidden=16, dropout=0.5), Batch(torch.tensor([[0, 1, 4]]))
    model.eval()
    still = [exact(model, batch).value for _ in range(2)]
    assert torch.equal(*still)
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(exact(model, batch).value, exact(model, batch).value)


def test_networks_that_add_nothing_leave_the_embeddings_as_they_are():
    model, _ = neural_hmm.tiny(3)
    for block in (model.move[0], model.speak[0]):
        block.outer.weight.data.zero_()
        block.outer.bias.data.zero_()
    close(model.transition_log_probs, (model.states @ model.following.mT).log_softmax(-1))
    close(model.emission_log_probs, (model.states @ model.words.mT + model.word_bias).log_softmax(-1))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2), st.integers(1, 5), st.integers(0, 10**6))
def test_any_shape_gives_probabilities(symbols, states, layers, steps, seed):
    model, generator = NeuralHMM(symbols, states, 4, layers).double(), torch.Generator().manual_seed(seed)
    x = torch.randint(symbols, (3, steps), generator=generator)
    model.start(Batch(x), generator)
    mask = torch.rand(x.shape, generator=generator) > 0.4
    value = exact(model, Batch.of(x, mask)).value
    assert bool((value <= 1e-12).all())
    assert bool(value.isfinite().all())
    close(value[~mask.any(1)], torch.zeros(int((~mask.any(1)).sum())))
    for table in (model.initial_log_probs, model.transition_log_probs, model.emission_log_probs):
        close(table.exp().sum(-1), torch.ones(table.shape[:-1]).double())


def test_what_cannot_be_is_refused():
    model = NeuralHMM(3)
    with pytest.raises(DataError, match=r"symbol 3 is outside 0\.\.2"):
        model.check(Batch(torch.tensor([[0, 3]])))
    with pytest.raises(DataError, match="whole"):
        model.check(Batch(torch.tensor([[0.5, 1.0]])))
    with pytest.raises(DataError, match=r"\(B, T\)"):
        model.check(Batch(torch.zeros(2, 3, 4)))
    with pytest.raises(OptionError, match="dropout"):
        NeuralHMM(3, dropout=1.0)
    with pytest.raises(OptionError, match="at least 1"):
        NeuralHMM(3, states=0)
