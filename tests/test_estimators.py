"""Estimators for discrete latents against the exact gradient, and in each a break that the comparison finds."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch import nn

from latentia import gradients
from latentia.batch import Batch
from latentia.bound import Bound
from latentia.distributions import Bernoullis, Categoricals, Joint
from latentia.distributions.discrete import finite
from latentia.errors import CapabilityError, OptionError
from latentia.gradients import score, study
from latentia.gradients.rebar import given_hard

FAR = 4.5
"""Standard errors that the farthest of some forty entries, of some twenty studies, may be off."""


class Toy(nn.Module):
    """A user's own model: no class of the library's, three bits, or two values of three, or two layers of two bits."""

    def __init__(self, kind="bits", seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        inputs, outputs = {"bits": (3, 3), "values": (6, 6), "layers": (2, 4)}[kind]

        def random(*shape):
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.kind, self.encoder, self.decoder = kind, random(4, inputs), random(outputs, 4)
        if kind == "layers":
            self.upper = random(2, 2)

    def posterior(self, batch):
        logits = batch.x @ self.encoder
        if self.kind == "values":
            return Categoricals(logits.unflatten(-1, (2, 3)))
        first = Bernoullis(logits)
        if self.kind == "bits":
            return first
        return Joint({"a": first, "b": lambda z: Bernoullis(z["a"] @ self.upper - 0.3)})

    def log_joint(self, batch, z):
        flat = torch.cat([z["a"], z["b"]], -1) if self.kind == "layers" else z.flatten(2)
        # not linear in z, nor quadratic
        logits = 3 * torch.tanh(flat @ self.decoder)
        return -nn.functional.softplus(-(2 * batch.x - 1) * logits).sum(-1) - 0.5 * flat.sum(-1)


def data(size=3):
    x = torch.randint(2, (size, 4), generator=torch.Generator().manual_seed(1)).double()
    return Batch.of(x)


def network():
    baseline = score.InputDependent((5,))
    baseline.start(data(), torch.Generator().manual_seed(0))
    assert baseline.network is not None
    nn.init.normal_(baseline.network[-1].weight, std=0.5)  # type: ignore[arg-type]
    return score.ScoreFunction(baseline)


UNBIASED = {
    "score": gradients.score_function(),
    "mean": gradients.score_function("mean"),
    "network": network(),
    "rloo": gradients.rloo,
    "disarm": gradients.disarm,
    "rebar": gradients.Rebar(),
}
BIASED = {
    "straight_through": gradients.straight_through,
    "gumbel": gradients.gumbel_softmax(0.5),
    "hard gumbel": gradients.gumbel_softmax(0.5, hard=True),
    "reinmax": gradients.reinmax,
}
OF = {"bits": set(UNBIASED), "values": set(UNBIASED) - {"disarm"}, "layers": set(UNBIASED) - {"rebar"}}


def unbiased(kind, draws, repeat):
    estimators = {name: UNBIASED[name] for name in UNBIASED if name in OF[kind]}
    return study(Toy(kind), data(), estimators, draws, samples=4, repeat=repeat)


@pytest.mark.parametrize("kind", OF)
def test_unbiased_estimators_have_the_exact_gradient(kind):
    for row in unbiased(kind, 20_000, 200).rows:
        assert row.farthest < FAR, row
        assert row.variance > 0


@pytest.mark.parametrize("kind", OF)
def test_biased_estimators_have_a_bias_and_it_is_a_figure(kind):
    found = study(Toy(kind), data(), {**BIASED, "rloo": gradients.rloo}, 20_000, samples=2, repeat=500)
    for row in found.rows:
        if row.name == "rloo":
            assert row.relative_bias < 0.02
        else:
            assert row.bias > 5 * row.bias_se
            assert row.farthest > 10, row
        assert row.name in found.table()
    assert found["straight_through"].variance < found["rloo"].variance


def test_a_cold_relaxation_has_less_bias_and_more_variance():
    found = study(Toy(), data(), {str(t): gradients.binary_concrete(t) for t in (2.0, 0.5, 0.1)}, 40_000, repeat=500)
    bias, variance = ([getattr(found[name], part) for name in ("2.0", "0.5", "0.1")] for part in ("bias", "variance"))
    assert bias[0] > bias[1] > bias[2]
    assert variance[0] < variance[1] < variance[2]


def broken_rloo(q, f, samples):
    """The mean of all draws, the own one among them."""
    drawn = score.draw(q, samples)
    values = gradients.value(f, drawn)
    return (values + score.credited(values - values.detach().mean(0), score.score_of(drawn))).mean(0)


def broken_disarm(q, f, samples):
    """ARM's sigmoid of the logits in the place of that of their size."""
    u = torch.rand(samples // 2, *q.logits.shape, dtype=torch.float64)
    one, other = (u < q.mean).double().detach(), (1 - u < q.mean).double().detach()
    first, second = f(one), f(other)
    slope = (one - other) * q.logits.detach().sigmoid()
    moving = (slope * q.logits).sum(-1)
    return ((first + second) / 2 + score.credited((first - second) / 2, moving)).mean(0)


class BrokenRebar(gradients.Rebar):
    """Its second relaxed draw does not move with the logits."""

    def forward(self, q, f, samples):
        file = gradients.Rebar.forward.__globals__
        kept = file["given_hard"]
        file["given_hard"] = lambda p, hard: kept(p, hard).detach()
        try:
            return super().forward(q, f, samples)
        finally:
            file["given_hard"] = kept


def broken_score(q, f, samples):
    """A draw's score without the gradient of f itself."""
    drawn = score.draw(q, samples)
    values = gradients.value(f, drawn).detach()
    return (values + score.credited(values, score.score_of(drawn))).mean(0)


class BrokenBaseline(score.RunningMean):
    """It knows the draw."""

    def forward(self, f, values):
        return values.detach() / 2


class BrokenNetwork(score.InputDependent):
    """A network of the datum, and of the draw."""

    def forward(self, f, values):
        return super().forward(f, values) + values.detach() / 2


def broken_network():
    broken = BrokenNetwork((5,))
    broken.start(data(), torch.Generator().manual_seed(0))
    return score.ScoreFunction(broken)


BROKEN = {
    "score": broken_score,
    "mean": score.ScoreFunction(BrokenBaseline()),
    "network": broken_network(),
    "rloo": broken_rloo,
    "disarm": broken_disarm,
    "rebar": BrokenRebar(),
}


@pytest.mark.parametrize("name", UNBIASED)
def test_a_broken_estimator_is_found(name):
    row = study(Toy(), data(), {"broken": BROKEN[name]}, 20_000, samples=4, repeat=200)["broken"]
    assert row.farthest > 2 * FAR, row


@pytest.mark.slow
@pytest.mark.parametrize("kind", OF)
def test_each_parameter_is_within_four_standard_errors_over_a_hundred_thousand_draws(kind):
    found = unbiased(kind, 100_000, 100)
    print(found.table())
    for row in found.rows:
        assert row.draws == 100_000
        assert row.farthest < 4, row
    # at as many draws what is broken is farther off than at a fifth of them
    names = [name for name in BROKEN if name in OF[kind]] if kind == "bits" else ["score"]
    for name in names:
        row = study(Toy(kind), data(), {name: BROKEN[name]}, 100_000, samples=4, repeat=100)[name]
        print("broken", row)
        assert row.farthest > 20, row


def multi_sample(toy, batch, samples):
    """E log (1/K) sum_k w_k over all tuples of K values, exactly."""
    q = toy.posterior(batch)
    z = q.enumerate_support()
    log_q = q.log_prob(z)
    log_w = toy.log_joint(batch, z) - log_q
    total = torch.zeros(batch.size, dtype=torch.float64)
    for which in itertools.product(range(len(z)), repeat=samples):
        at = list(which)
        total = total + log_q[at].sum(0).exp() * (log_w[at].logsumexp(0) - math.log(samples))
    return total


def bound_by(toy, batch, *, samples, estimator):
    if estimator is gradients.enumerate:
        return Bound(multi_sample(toy, batch, samples))
    q = toy.posterior(batch)
    f = gradients.OfDraw(q, lambda drawn: toy.log_joint(batch, drawn.z) - drawn.log_q, batch)
    return Bound(estimator.log_mean_exp(q, f, samples))


class BrokenVimco:
    """The others' mean is of the logarithms of all draws, the own one among them."""

    def log_mean_exp(self, q, f, samples):
        drawn = score.draw(q, samples)
        log_weight = gradients.value(f, drawn)
        bound = log_weight.logsumexp(0) - math.log(samples)
        without = log_weight.detach().mean(0)
        return bound + score.credited(bound.detach() - without - log_weight.detach() / 4, score.score_of(drawn)).sum(0)


def test_vimco_has_the_exact_gradient_of_the_bound_by_several_draws():
    estimators = {
        "vimco": gradients.vimco,
        "score": gradients.score_function(),
        "mean": gradients.score_function("mean"),
        "broken": BrokenVimco(),
        "straight_through": gradients.straight_through,
    }
    found = study(Toy(), data(), estimators, 20_000, samples=3, repeat=200, objective=bound_by)
    assert found["broken"].farthest > 2 * FAR
    assert found["straight_through"].farthest > 2 * FAR
    for name in ("vimco", "score", "mean"):
        assert found[name].farthest < FAR, found[name]
    assert found["vimco"].variance < found["mean"].variance < found["score"].variance


@pytest.mark.slow
def test_vimco_is_within_four_standard_errors_over_a_hundred_thousand_draws():
    estimators = {"vimco": gradients.vimco, "broken": BrokenVimco()}
    found = study(Toy(), data(), estimators, 100_000, samples=3, repeat=100, objective=bound_by)
    print(found.table())
    assert found["vimco"].farthest < 4 < 20 < found["broken"].farthest


def quadratic(kind):
    logits = torch.tensor([[0.4, -1.2]], dtype=torch.float64) if kind == "bits" else torch.randn(1, 2, 4).double()
    logits.requires_grad_()
    q = Bernoullis(logits) if kind == "bits" else Categoricals(logits)
    weight = torch.randn(q.event_shape.numel(), 3, generator=torch.Generator().manual_seed(3)).double()
    return logits, q, lambda z: (z.flatten(2) @ weight).square().sum(-1)


@pytest.mark.parametrize("kind", ["bits", "values"])
def test_reinmax_is_exact_for_a_quadratic_function_and_straight_through_is_not(kind):
    torch.manual_seed(0)
    logits, q, f = quadratic(kind)
    exact = torch.autograd.grad(gradients.enumerate(q, f).sum(), logits)[0]
    slopes = {}
    for name in ("reinmax", "straight_through"):
        drawn = []
        for _ in range(40):
            value = getattr(gradients, name)(q, f, 5000)
            drawn.append(torch.autograd.grad(value.sum(), logits)[0])
        drawn = torch.stack(drawn)
        slopes[name] = ((drawn.mean(0) - exact).abs() / (drawn.std(0) / math.sqrt(40))).max()
    assert slopes["reinmax"] < 5.5
    assert slopes["straight_through"] > 10


@pytest.mark.parametrize("kind", ["bits", "values"])
def test_noise_given_its_draw_is_the_noise_that_makes_it(kind):
    """(z, noise) drawn together and noise drawn given z are one distribution: the same draw, the same moments."""
    torch.manual_seed(0)
    p = finite(quadratic(kind)[1])
    assert p is not None
    noisy = p.logits + p.noise((200_000,))
    hard = p.hard(noisy)
    again = given_hard(p, hard)
    assert torch.equal(p.hard(again), hard)
    for moment in (torch.sigmoid, lambda t: torch.sigmoid(t) ** 2, torch.tanh):
        one, other = moment(noisy), moment(again)
        error = (one - other).std(0) / math.sqrt(len(one))
        assert ((one - other).mean(0).abs() < 5 * error).all()


@pytest.mark.parametrize("hard", [False, True])
def test_a_hard_gumbel_draw_is_the_argmax_of_the_same_noise(hard):
    """The value and the gradient of a draw belong to one z: drawn twice they would not agree."""
    torch.manual_seed(0)
    q = Categoricals(torch.zeros(1, 50, 4, dtype=torch.float64, requires_grad=True))
    seen = []
    gradients.gumbel_softmax(0.01, hard)(q, lambda z: seen.append(z) or z.flatten(2).sum(-1), 200)
    soft = torch.autograd.grad(seen[0][..., 0].sum(), q.logits)[0]
    values = seen[0].detach()
    if hard:
        assert ((values == 0) | (values == 1)).logical_or((values - values.round()).abs() < 1e-12).all()
    assert soft.abs().sum() > 0
    # near temperature 0 the relaxed draw is at the corner that the hard one is at
    assert (values.max(-1).values > 0.99).double().mean() > 0.9


def test_relaxed_draws_are_hard_where_no_gradient_is_asked_for():
    q = Bernoullis(torch.zeros(2, 5))
    seen = []
    with torch.no_grad():
        gradients.gumbel_softmax(1.0)(q, lambda z: seen.append(z) or z.sum(-1), 7)
    assert ((seen[0] == 0) | (seen[0] == 1)).all()
    gradients.gumbel_softmax(1.0)(q, lambda z: seen.append(z) or z.sum(-1), 7)
    assert not ((seen[1] == 0) | (seen[1] == 1)).any()


def test_leave_one_out_has_more_variance_than_disarm_where_a_bit_is_sure():
    """Dong et al. (2020), section 3.1: with two evaluations each DisARM is never worse."""
    toy = Toy()
    toy.encoder.data.mul_(2)
    found = study(toy, data(), {"rloo": gradients.rloo, "disarm": gradients.disarm}, 20_000, parameters=["enc"])
    gap = found["rloo"].variance - found["disarm"].variance
    assert gap > 3 * math.hypot(found["rloo"].variance_se, found["disarm"].variance_se)


def test_a_study_without_enumeration_asks_for_a_reference():
    with pytest.raises(OptionError, match="none of the estimators"):
        study(Toy(), data(), {"rloo": gradients.rloo}, 100, reference="other")
    with pytest.raises(OptionError, match="passes"):
        study(Toy(), data(), {"rloo": gradients.rloo}, 10)
    objective = partial(bound_by)
    with pytest.raises(CapabilityError, match="reference"):
        study(Wide(), data(), {"rloo": gradients.rloo}, 100)
    found = study(
        Toy(), data(), {"vimco": gradients.vimco, "straight": gradients.straight_through}, 4000, samples=3, repeat=100,
        objective=objective, reference="vimco", reference_draws=40_000,
    )  # fmt: skip
    assert found["vimco"].farthest < FAR < found["straight"].farthest
    assert "40000 draws of vimco" in found.table()


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 40, dtype=torch.float64))

    def posterior(self, batch):
        return Bernoullis(batch.x @ self.weight)

    def log_joint(self, batch, z):
        return z.sum(-1)


def test_a_study_is_drawn(tmp_path):
    found = study(Toy(), data(), {"rloo": gradients.rloo, "straight": gradients.straight_through}, 100, repeat=10)
    assert found.plot(tmp_path / "study.svg").read_text().count("rloo") >= 1
    before = torch.random.get_rng_state()
    again = study(Toy(), data(), {"rloo": gradients.rloo}, 100, repeat=10)
    assert again["rloo"].variance == found["rloo"].variance
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_an_estimator_is_not_for_is_said():
    values, layers = Toy("values").posterior(data()), Toy("layers").posterior(data())
    f = lambda z: (z if isinstance(z, torch.Tensor) else z["a"]).flatten(2).sum(-1)  # noqa: E731
    with pytest.raises(CapabilityError, match="bits"):
        gradients.disarm(values, f, 2)
    with pytest.raises(OptionError, match="even"):
        gradients.disarm(layers, f, 3)
    with pytest.raises(OptionError, match="at least 2"):
        gradients.rloo(values, f, 1)
    with pytest.raises(CapabilityError, match="iwae"):
        gradients.vimco(values, f, 2)
    with pytest.raises(CapabilityError, match="rloo or disarm"):
        gradients.Rebar()(layers, f, 2)
    with pytest.raises(CapabilityError, match="bits"):
        gradients.binary_concrete()(values, f, 2)
    with pytest.raises(OptionError, match="temperature"):
        gradients.gumbel_softmax(0.0)
    with pytest.raises(OptionError, match="baseline"):
        gradients.score_function("other")  # type: ignore[arg-type]
