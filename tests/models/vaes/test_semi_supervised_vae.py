"""The semi-supervised VAE: the class is summed out exactly, and labels enter as what is known of it."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from latentia import gradients
from latentia.data import load
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.evaluate import log_marginal
from latentia.learners import Gradient
from latentia.model import Batch
from latentia.models import VAE, SemiSupervisedVAE
from latentia.models.vaes.semi_supervised_vae import tiny
from latentia.objectives import elbo, iwae, supervised
from latentia.tasks import generate
from latentia.testing.brute_force import NODES, enumerate_latents, nodes


class Table(nn.Module):
    """A classifier that gives these logits, whatever x is."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits


def unlabelled(seed: int = 0) -> tuple[SemiSupervisedVAE, Batch]:
    model, batch = tiny(seed)
    return model, batch._replace(known=None)


def labelled_bounds(model: SemiSupervisedVAE, batch: Batch) -> torch.Tensor:
    """L(x, y) for each y, by quadrature over z, (B, K)."""
    found = []
    for y in torch.eye(model.classes, dtype=torch.float64):
        drawn = {"y": y.expand(1, batch.size, -1)}
        code = model.posterior(batch).conditional("z", {"y": y.expand(batch.size, -1)})
        z, log_weight = nodes(code)
        value = model.log_joint(batch, {"y": drawn["y"].expand(len(z), -1, -1), "z": z}) - code.log_prob(z)
        found.append((log_weight.exp() * value).sum(0))
    return torch.stack(found, -1)


def joint_with_class(model: SemiSupervisedVAE, batch: Batch) -> torch.Tensor:
    """log p(x, y) for each y, by quadrature over the prior, (B, K)."""
    z, log_weight = enumerate_latents(model, batch)
    terms = (log_weight + model.log_likelihood(batch, z)).unsqueeze(-1) + z["y"].log()
    return terms.logsumexp(0)


def exact_bound(model: SemiSupervisedVAE, batch: Batch) -> torch.Tensor:
    """sum_y q(y | x) [L(x, y) - log q(y | x)] of the classifier's own q, term by term, (B,)."""
    q = model.clusters(batch._replace(known=None))
    return (q * (labelled_bounds(model, batch) - q.log())).sum(-1)


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_the_bound_is_the_explicit_sum_over_classes(seed):
    model, batch = unlabelled(seed)
    torch.manual_seed(0)
    found = elbo(model, batch, samples=40_000)
    assert torch.allclose(found.value, exact_bound(model, batch), atol=0.02)
    assert torch.allclose(found.value, found.reconstruction - found.kl, atol=1e-9)  # type: ignore[operator]
    assert (exact_bound(model, batch) < joint_with_class(model, batch).logsumexp(-1)).all()


@torch.no_grad()
def test_with_the_best_classifier_it_is_the_logarithm_of_a_sum():
    """max_q sum_y q(y) [L(x, y) - log q(y)] = log sum_y exp L(x, y), where q(y) is proportional to exp L(x, y)."""
    model, batch = unlabelled()
    bounds = labelled_bounds(model, batch)
    model.classifier = Table(bounds)
    assert torch.allclose(exact_bound(model, batch), bounds.logsumexp(-1), atol=1e-10)
    torch.manual_seed(0)
    assert torch.allclose(elbo(model, batch, samples=40_000).value, bounds.logsumexp(-1), atol=0.02)
    model.classifier = Table(bounds + torch.tensor([1.0, 0.0]))
    assert (exact_bound(model, batch) < bounds.logsumexp(-1)).all()


@torch.no_grad()
def test_labels_enter_as_what_is_known():
    model, batch = unlabelled()
    model.encoder[1][-1].bias.data[1] = 0.8  # type: ignore[index]  # q wide enough for importance sampling
    joint, bounds, q = joint_with_class(model, batch), labelled_bounds(model, batch), model.clusters(batch)
    for marks, log_p, bound in (
        ([0.0, 1.0], joint[:, 1], bounds[:, 1]),
        ([1.0, 0.0], joint[:, 0], bounds[:, 0]),
        ([0.0, 0.0], joint.logsumexp(-1), exact_bound(model, batch)),
        ([1.0, 1.0], joint.logsumexp(-1), exact_bound(model, batch)),
    ):
        known = batch._replace(known={"y": torch.tensor(marks).double().expand(batch.size, -1)})
        torch.manual_seed(0)
        assert torch.allclose(elbo(model, known, samples=40_000).value, bound, atol=0.02)
        assert torch.allclose(iwae(model, known, samples=40_000).value, log_p, atol=0.03)
        expected = q if sum(marks) != 1 else known.known["y"]
        assert torch.allclose(model.clusters(known), expected)


def test_three_classes_of_which_one_is_ruled_out():
    model = SemiSupervisedVAE((4,), classes=3, latent=2, hidden=(5,)).double()
    model.start(Batch(torch.ones(2, 4).double()), torch.Generator().manual_seed(0))
    x = torch.randint(2, (2, 4), generator=torch.Generator().manual_seed(0)).double()
    free, some = Batch(x), Batch(x, known={"y": torch.tensor([[1.0, 0, 1], [0, 0, 0]]).double()})
    q, given = model.clusters(free), model.clusters(some)
    assert torch.allclose(given[0], q[0] * torch.tensor([1.0, 0, 1]) / (q[0, 0] + q[0, 2]))
    assert torch.allclose(given[1], q[1])
    assert model.class_probabilities(some).tolist()[0][1] == 0
    value = supervised(model, some, samples=3).value.sum()
    slopes = torch.autograd.grad(value, list(model.parameters()))
    assert value.isfinite()
    assert all(slope.isfinite().all() for slope in slopes)


@torch.no_grad()
def test_class_probabilities_come_from_the_decoder():
    model, batch = unlabelled(1)
    model.encoder[1][-1].bias.data[1] = 0.8  # type: ignore[index]
    torch.manual_seed(0)
    found = model.class_probabilities(batch, samples=40_000)
    assert torch.allclose(found, joint_with_class(model, batch).softmax(-1), atol=0.01)


def test_supervised_adds_the_classifiers_share_where_the_class_is_known():
    model, batch = tiny(0)
    marked = batch.known["y"].sum(-1) == 1
    q = model.clusters(batch._replace(known=None))

    def value(alpha):
        torch.manual_seed(0)
        return supervised(model, batch, alpha=alpha).value

    free = value(0.0)
    torch.manual_seed(0)
    assert torch.allclose(free, elbo(model, batch).value)
    added = (value(3.0) - value(0.0)) / 3
    assert torch.allclose(added[marked], (q * batch.known["y"]).sum(-1).log()[marked])
    assert torch.allclose(added[~marked], torch.zeros(4).double())
    weights = list(model.classifier.parameters())
    alone = torch.autograd.grad(value(0.0)[marked].sum(), weights, materialize_grads=True)
    taught = torch.autograd.grad(value(1.0)[marked].sum(), weights)
    assert all(bool((slope == 0).all()) for slope in alone)
    assert any(bool((slope != 0).any()) for slope in taught)


def test_the_classifier_may_learn_from_labels_alone():
    """The same value, and every gradient the same but the classifier's, which is alpha times that of log q(y | x)."""
    model, batch = tiny(0)
    marked, alpha = batch.known["y"].sum(-1) == 1, 3.0

    def slopes(name, teacher):
        torch.manual_seed(0)
        bound = supervised(model, batch, alpha=alpha, beta=0.7, teacher=teacher)
        weights = [weight for key, weight in model.named_parameters() if key.startswith("classifier") == name]
        return bound, torch.autograd.grad(bound.value.sum(), weights)

    (whole, usual), (held, still) = slopes(False, "bound"), slopes(False, "labels")
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(whole, held, strict=True))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(usual, still, strict=True))
    log_q = (model.clusters(batch._replace(known=None)) * batch.known["y"]).sum(-1)[marked].log().sum()
    alone = torch.autograd.grad(alpha * log_q, list(model.classifier.parameters()))
    taught, moved = slopes(True, "labels")[1], slopes(True, "bound")[1]
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(alone, taught, strict=True))
    assert not all(torch.allclose(a, b, atol=1e-3) for a, b in zip(alone, moved, strict=True))


def test_the_mean_is_that_of_all_classes():
    model, batch = tiny(2)
    z, log_weight = nodes(model.posterior(batch))
    assert len(z["z"]) == 2 * NODES
    expected = torch.einsum("sb,sbd->bd", log_weight.exp(), z["z"])
    assert torch.allclose(model.posterior(batch).mean["z"], expected, atol=1e-10)


def test_gradients_through_the_summed_class_have_no_noise_from_it():
    """Where f depends on y alone, one draw gives the exact value and gradient."""
    model, batch = unlabelled()
    q = model.posterior(batch)
    cost = torch.tensor([1.0, 3.0]).double()
    value = gradients.pathwise(q, lambda z: (z["y"] * cost).sum(-1), 1)
    assert torch.allclose(value, model.clusters(batch) @ cost)


def test_labels_travel_with_a_data_set_and_teach():
    """Three pictures, each seen 100 times with some pixels turned; one of each has a name."""
    generator = torch.Generator().manual_seed(0)
    which = torch.arange(3).repeat(100)
    x = torch.randint(2, (3, 24), generator=generator)[which] ^ (torch.rand(300, 24, generator=generator) < 0.1).long()
    z = torch.zeros(300, 3)
    names = torch.tensor([2, 0, 1])
    z[:3] = torch.eye(3)[names]
    data = replace(load(x.float()), known={"y": z})
    model = SemiSupervisedVAE((24,), classes=3, latent=2, hidden=(32,))
    objective = partial(supervised, alpha=30.0)
    Gradient(objective, epochs=30, batch_size=50, lr=3e-3, progress=False).fit(model, data, seed=1)
    test = Batch(x.float())
    with torch.no_grad():
        assert float((model.clusters(test).argmax(-1) == names[which]).float().mean()) > 0.95
        assert float((model.class_probabilities(test, 20).argmax(-1) == names[which]).float().mean()) > 0.95
    # the commands see it as any model: without labels
    assert float(log_marginal(model, load(x.float()), importance_samples=100).value.mean()) > -12


def test_labels_and_options_without_sense():
    model, batch = tiny(0)
    with pytest.raises(DataError, match="one-hot"):
        model.check(batch._replace(known={"y": torch.zeros(5, 3)}))
    with pytest.raises(OptionError, match="classes"):
        SemiSupervisedVAE((2,), classes=0)
    with pytest.raises(OptionError, match="hidden"):
        SemiSupervisedVAE((2,), hidden=())
    with pytest.raises(OptionError, match="teacher"):
        supervised(model, batch, teacher="parents")  # type: ignore[arg-type]
    with pytest.raises(CapabilityError, match="summed out"):
        supervised(VAE((2,), latent=1), Batch(torch.zeros(1, 2)))


def test_draws_given_a_class_have_it_and_the_likelihood_that_it_says():
    """The frequencies of x drawn given y are those of p(x | y), by enumeration of p(x, y) and quadrature over z."""
    model, _ = unlabelled()
    drawn, z = generate(model, 20_000, known=torch.tensor([[0.0, 1.0]]), seed=1)
    assert isinstance(z, dict)
    assert bool((z["y"] == torch.tensor([0.0, 1.0])).all())
    every = torch.cartesian_prod(*[torch.arange(2)] * 3).double()
    events = Batch(every)
    values, log_weight = enumerate_latents(model, events)
    own = values["y"][..., 1] > 0  # type: ignore[call-overload]
    with torch.no_grad():
        joint = (model.log_likelihood(events, values) + log_weight).where(own, -torch.inf)
    log_p = torch.logsumexp(joint, 0) + math.log(2)
    number = torch.bincount((drawn.x @ torch.tensor([4.0, 2.0, 1.0]).double()).long(), minlength=8)
    assert abs(float(log_p.exp().sum()) - 1) < 1e-9
    error = (log_p.exp() * (1 - log_p.exp()) / 20_000).sqrt()
    assert bool(((number / 20_000 - log_p.exp()).abs() < 5 * error).all())
    mixed = torch.eye(2).repeat(3, 1)
    _, z = generate(model, 6, known=mixed)
    assert isinstance(z, dict)
    assert torch.equal(z["y"], mixed.double())
    with pytest.raises(OptionError, match="known of shape"):
        generate(model, 6, known=torch.eye(3))
    with pytest.raises(CapabilityError, match="no class"):
        generate(VAE((3,), latent=1), 2, known=torch.eye(2))
