"""requires_grad_(False): what is frozen stays, bit for bit, under every learner, and the rest is learned given it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from latentia.data import Dataset, load
from latentia.errors import OptionError
from latentia.learners import EM, Gibbs, Gradient, Online
from latentia.model import EMModel
from latentia.models import (
    HMM,
    LDA,
    VAE,
    ClusteringVAE,
    FactorialHMM,
    KMeans,
    NeuralHMM,
    ProbabilisticPCA,
    SemiSupervisedVAE,
    VampVAE,
)
from latentia.models import GaussianMixture as Mixture
from latentia.objectives import exact
from latentia.testing import all_models

LEARNERS = {
    "em": EM(progress=False, steps=20),
    "em fresh=False": EM(fresh=False, progress=False, steps=20),
    "stepwise": EM(stepwise=0.7, batch_size=10, steps=3, progress=False),
    "gradient": Gradient(exact, epochs=2, progress=False),
    "gradient fresh=False": Gradient(exact, epochs=2, fresh=False, progress=False),
}


def sequences() -> Dataset:
    random = np.random.default_rng(0)
    return load([np.r_[random.normal(0, 1, (8, 1)), random.normal(4, 1, (8, 1))] for _ in range(30)])


def cloud(features: int = 2) -> Dataset:
    random = np.random.default_rng(0)
    return load(random.normal(size=(200, features)) + 4 * random.integers(0, 2, size=(200, 1)))


def states(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters() if not p.requires_grad}


def unchanged(module: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    now = dict(module.named_parameters())
    return bool(before) and all(torch.equal(now[name].detach(), value) for name, value in before.items())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("part", ["emissions", "emissions.means", "transition_logits"])
@pytest.mark.parametrize("learner", list(LEARNERS))
def test_parts_of_a_hidden_markov_model(learner, part):
    model = HMM(features=1, states=2).double()
    model.emissions.means.data = torch.tensor([[6.0], [-1.0]]).double()  # type: ignore[union-attr]
    model.transition_logits.data = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).double().log()
    frozen = model
    for name in part.split("."):
        frozen = getattr(frozen, name)
    frozen.requires_grad_(False)
    before, others = states(model), {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    LEARNERS[learner].fit(model, sequences())
    assert unchanged(model, before)
    assert not any(torch.equal(dict(model.named_parameters())[name], value) for name, value in others.items())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [name for name, tiny in all_models().items() if isinstance(tiny(0)[0], EMModel)])
def test_em_climbs_with_any_parameter_frozen(name):
    """The M-step is then the best one given what is frozen: log p(x) never falls, or EM would say so."""
    for i, _ in enumerate(list(all_models()[name](0)[0].named_parameters())):
        model, batch = all_models()[name](0)
        parameters = dict(model.named_parameters())
        which = list(parameters)[i]
        covariance = which.rsplit(".", 1)[-1] in ("log_scale", "below")
        for other, parameter in parameters.items():
            same = covariance and other.rsplit(".", 1)[-1] in ("log_scale", "below")
            parameter.requires_grad_(not (other == which or same))
        if not any(parameter.requires_grad for parameter in parameters.values()):
            continue
        before = states(model)
        EM(fresh=False, steps=4, progress=False).fit(model, batch)  # type: ignore[arg-type]
        assert unchanged(model, before), which
        online = Online(model, passes=2)
        online.partial_fit(batch)  # type: ignore[arg-type]
        assert unchanged(model, before), which


@pytest.mark.parametrize("kind", ["full", "tied", "diagonal", "spherical", "common"])
def test_a_covariance_is_that_around_frozen_means(kind):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 2)) @ np.array([[2.0, 0.5], [0.0, 1.0]]))
    model = Mixture(2, 1, kind, floor=0).double()
    model.emissions.means.data = torch.tensor([[1.0, -2.0]]).double()
    model.emissions.means.requires_grad_(False)
    EM(progress=False).fit(model, load(x))
    away = x - model.means
    around = away.T @ away / len(x)
    expected = {
        "full": around,
        "tied": around,
        "diagonal": around.diag().diag(),
    }.get(kind, torch.eye(2).double() * around.trace() / 2)
    assert torch.allclose(model.covariances[0].detach(), expected, rtol=1e-8)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("frozen", ["weight", "mean", "log_noise"])
def test_principal_components_given_a_part(frozen):
    data = cloud(3)
    model = ProbabilisticPCA((3,), latent=1).double()
    getattr(model, frozen).data += 0.3
    getattr(model, frozen).requires_grad_(False)
    before = states(model)
    EM(progress=False, tol=1e-9, steps=2000).fit(model, data)
    assert unchanged(model, before)
    # at the optimum given the rest the slope is zero
    loss = -model.posterior(data.batch()).log_partition.mean()
    for p in (p for p in model.parameters() if p.requires_grad):
        assert torch.autograd.grad(loss, p, retain_graph=True)[0].abs().max() < 1e-3


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: VAE((4,), latent=2, hidden=(8,)), "decoder"),
        (lambda: VAE((4,), latent=2, hidden=(8,)), "encoder"),
        (lambda: VampVAE((4,), pseudo_inputs=3, latent=2, hidden=(8,)), "pseudo_inputs"),
        (lambda: ClusteringVAE((4,), components=2, latent=2, hidden=(8,), pretrain=1), "decoder"),
        (lambda: SemiSupervisedVAE((4,), classes=2, latent=2, hidden=(8,)), "classifier"),
    ],
)
def test_parts_of_deep_models_under_a_fresh_start(make, part):
    data = load(np.random.default_rng(0).integers(2, size=(60, 4)).astype(float))
    model = make()
    getattr(model, part).requires_grad_(False)
    before = states(model)
    Gradient(epochs=1, progress=False).fit(model, data)
    assert unchanged(model, before)


def test_a_part_of_a_neural_hidden_markov_model():
    model = NeuralHMM(symbols=3, states=2, hidden=4)
    model.words.requires_grad_(False)
    before = states(model)
    Gradient(exact, epochs=1, progress=False).fit(model, load([[0, 1, 2], [2, 1]], values="symbols"))
    assert unchanged(model, before)


def documents() -> Dataset:
    random = np.random.default_rng(0)
    return load(
        [random.integers(0, 3, 20).tolist() if i % 2 else random.integers(3, 6, 20).tolist() for i in range(30)]
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("learner", [EM(steps=5, progress=False), Gibbs(sweeps=20, progress=False)])
def test_a_frozen_concentration_of_topics(learner):
    model = LDA(symbols=6, topics=2).double()
    model.log_concentration.data = torch.tensor([-1.0, -2.0]).double()
    model.log_concentration.requires_grad_(False)
    before = states(model)
    learner.fit(model, documents())
    assert unchanged(model, before)
    assert float(model.topics.detach().amax()) > 1 / 6 + 0.05


def test_gibbs_refuses_frozen_topics_which_it_would_sum_out():
    model = LDA(symbols=6, topics=2).double()
    model.emissions.requires_grad_(False)
    with pytest.raises(OptionError, match="frozen"):
        Gibbs(sweeps=20, progress=False).fit(model, documents())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_centers_of_k_means_stay():
    model = KMeans(2, 2).double()
    model.emissions.means.data = torch.tensor([[5.0, 5.0], [0.0, 0.0]]).double()
    model.emissions.means.requires_grad_(False)
    EM(hard=True, progress=False).fit(model, cloud())
    assert model.means.tolist() == [[5.0, 5.0], [0.0, 0.0]]


def test_what_cannot_be_is_refused():
    model = Mixture(2, 2).double()
    model.emissions.below.requires_grad_(False)
    with pytest.raises(OptionError, match="freeze both"):
        EM(progress=False).fit(model, cloud())
    chains = FactorialHMM(features=1).double().requires_grad_(False)
    with pytest.raises(OptionError, match="every parameter is frozen"):
        EM(progress=False).fit(chains, sequences())
