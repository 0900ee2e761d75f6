"""What is particular to the neural models of bags of words."""

import math

import pytest
import torch
from torch.distributions import Categorical

from latentia.batch import Batch, Frame
from latentia.distributions.bag import Bag
from latentia.errors import DataError, OptionError
from latentia.learners import Gradient
from latentia.models import NVDM, ContinuousNaiveBayes, ProdLDA
from latentia.models.topics import prodlda
from latentia.networks.bags import counts
from latentia.tasks import document_completion


def test_a_bag_is_its_words_one_by_one():
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64).log_softmax(-1)
    x = torch.randint(5, (3, 4), generator=generator)
    p = Bag(log_probs, 4)
    each = Categorical(logits=log_probs.unsqueeze(-2)).log_prob(x)
    torch.testing.assert_close(p.log_prob(x), each.sum(-1))
    assert p.sample().shape == (2, 3, 4)
    torch.testing.assert_close(p.mean[..., 0], log_probs.exp() @ torch.arange(5).double())


def test_counts_leave_out_what_is_hidden():
    x, seen = torch.tensor([[0, 2, 2], [1, 9, 0]]), torch.tensor([[True, True, True], [True, False, True]])
    assert counts(x, seen, 3, torch.zeros(1)).tolist() == [[1, 0, 2], [1, 1, 0]]


def test_the_prior_of_prodlda_is_the_laplace_approximation_of_its_dirichlet():
    """Hennig et al. (2012): mu_k = log a_k - mean log a, var_k = (1 - 2 / K) / a_k + sum_j 1 / (K^2 a_j)."""
    topics, a = 5, 0.3
    model = ProdLDA(4, topics=topics, concentration=a)
    prior = model.prior(Frame(2))
    variance = (1 - 2 / topics) / a + topics / (topics**2 * a)
    assert torch.allclose(prior.mean, torch.zeros(2, topics))
    assert torch.allclose(prior.stddev, torch.full((2, topics), math.sqrt(variance)))


def test_a_topic_of_prodlda_is_what_a_document_of_it_alone_has():
    model, _ = prodlda.tiny(0)
    h = torch.tensor([[[1e4, 0.0], [0.0, 1e4]]]).double()
    with torch.no_grad():
        torch.testing.assert_close(model.likelihood(h, Frame(2)).log_probs[0].exp(), model.topics)


def documents(count, seed):
    """Two kinds of documents over six words: the first three, or the last three."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(2, (count, 1), generator=generator)
    return Batch(3 * kind + torch.randint(3, (count, 12), generator=generator))


MODELS = {
    "naive Bayes": lambda: ContinuousNaiveBayes(6, latent=2),
    "NVDM": lambda: NVDM(6, latent=2, hidden=(16,)),
    "ProdLDA": lambda: ProdLDA(6, topics=2, hidden=(16, 16)),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_first_half_of_a_document_foretells_the_second(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    Gradient(epochs=30, lr=0.02, batch_size=100, progress=False).fit(model, documents(400, 0))
    # of six words alike it is 6, of three 3; dropout and a wide prior keep ProdLDA from being sure
    assert document_completion(model, documents(400, 1)).perplexity < 4.2


def test_what_makes_no_sense_is_refused():
    for options in ({"topics": 1}, {"concentration": 0.0}, {"dropout": 1.0}):
        with pytest.raises(OptionError, match="topics must be at least 2"):
            ProdLDA(4, **options)
    with pytest.raises(DataError, match="documents of words"):
        NVDM(4).check(Batch(torch.zeros(2, 3, 1)))
    with pytest.raises(DataError, match="7"):
        NVDM(4).check(Batch(torch.tensor([[7, 0]])))
