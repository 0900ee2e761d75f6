"""Diffusion where all is known: a normal and a mixture of normals, whose best denoiser is a formula; three symbols."""

import math

import pytest
import torch
from torch.distributions import Independent, MixtureSameFamily, MultivariateNormal, Normal

from latentia.distributions.bounded import log_prob_or_bound
from latentia.distributions.diffusion import GaussianDiffusion, Sampling, Schedule, spread
from latentia.errors import CapabilityError, OptionError
from latentia.testing import agrees

DOUBLE = torch.float64
KINDS = ("linear", "cosine", "sigmoid")


def schedule(kind="linear", highest=14.0, lowest=-14.0):
    return Schedule(kind, highest, lowest).double()


def of_normal(mean, deviation):
    """The best denoiser of data Normal(mean, deviation^2), as v."""

    def denoise(z, log_snr, given, before):
        alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
        gain = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
        return (alpha * z - mean - gain * (z - alpha * mean)) / sigma

    return denoise


def normal(kind="linear", mean=0.7, deviation=0.5, size=4, ends=(14.0, -14.0), **options):
    like = torch.zeros(size, dtype=DOUBLE)
    return GaussianDiffusion(of_normal(mean, deviation), schedule(kind, *ends), like, 1, **options)


def bound_between(x, mean, deviation, high, low, steps=None, levels=None):
    """The bound of the best denoiser in closed form. |u - E[u | z_t]|^2 is ((x - m)^2 + r s^4) / (1 + r s^2)^2 on
    average, r the signal-to-noise ratio: its integral over r is elementary, its sum over steps is one."""
    away, square = (x - mean) ** 2, deviation**2
    prior = 0.5 * (x**2 * _sigmoid(low) + _sigmoid(-low) - 1 - math.log(_sigmoid(-low)))
    if steps is None:
        first, last = 1 + math.exp(low) * square, 1 + math.exp(high) * square
        loss = 0.5 * ((away / square - 1) * (1 / first - 1 / last) + math.log(last / first))
    else:
        ratio = levels.exp()
        error = (away.unsqueeze(-1) + ratio[1:] * square**2) / (1 + ratio[1:] * square) ** 2
        loss = 0.5 * ((ratio[:-1] - ratio[1:]) * error).sum(-1)
    return -0.5 * (1 + math.log(2 * math.pi) - high) - prior - loss


def _sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_falls_between_its_ends_with_its_slope(kind):
    one = schedule(kind, 9.0, -7.0)
    t = torch.linspace(0, 1, 101, dtype=DOUBLE, requires_grad=True)
    level, slope = one.with_slope(t)
    torch.testing.assert_close(level[[0, -1]], torch.tensor([9.0, -7.0], dtype=DOUBLE), rtol=0, atol=1e-5)
    assert bool((level.diff() < 0).all())
    torch.testing.assert_close(slope, torch.autograd.grad(level.sum(), t)[0])


def test_times_are_uniform_and_even():
    t = spread(torch.Size([50, 2]), torch.zeros(1, dtype=DOUBLE))
    assert t.shape == (50, 2)
    torch.testing.assert_close(t.flatten().sort().values.diff(), torch.full((99,), 0.01, dtype=DOUBLE))
    assert bool((t >= 0).all() & (t < 1).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [None, 1, 7])
def test_the_bound_of_a_normal_is_the_closed_form(kind, steps):
    torch.manual_seed(0)
    x = torch.tensor([[-0.6], [0.7], [1.1], [2.0]], dtype=DOUBLE)
    p = normal(kind, ends=(6.0, -5.0), bound_steps=steps)
    levels = None if steps is None else p.schedule(torch.linspace(0, 1, steps + 1, dtype=DOUBLE)).detach()
    high, low = (float(end.detach()) for end in p.schedule.ends(x))
    expected = bound_between(x.squeeze(-1), 0.7, 0.5, high, low, steps, levels)
    with torch.no_grad():
        calls = torch.stack([p.log_prob_bound(x.expand(100, 4, 1)).mean(0) for _ in range(100)])
    assert agrees(calls, expected)


@pytest.mark.parametrize("steps", [None, 1, 7])
def test_the_bound_of_a_standard_normal_has_no_noise(steps):
    x = torch.tensor([[-0.6], [0.7], [1.1], [2.0]], dtype=DOUBLE)
    p = normal("sigmoid", 0.0, 1.0, ends=(6.0, -5.0), bound_steps=steps)
    levels = None if steps is None else p.schedule(torch.linspace(0, 1, steps + 1, dtype=DOUBLE)).detach()
    high, low = (float(end.detach()) for end in p.schedule.ends(x))
    expected = bound_between(x.squeeze(-1), 0.0, 1.0, high, low, steps, levels)
    torch.testing.assert_close(p.log_prob_bound(x).detach(), expected)


def test_in_the_limit_the_bound_of_a_normal_is_its_density():
    x = torch.linspace(-1.5, 3.0, 7, dtype=DOUBLE)
    truth = Normal(0.7, 0.5).log_prob(x)
    torch.testing.assert_close(bound_between(x, 0.7, 0.5, 25.0, -25.0), truth, rtol=0, atol=1e-6)
    # and what the class gives, by draws whose mean has a standard error of its own
    torch.manual_seed(0)
    p = normal("linear", size=7)
    with torch.no_grad():
        calls = torch.stack([p.log_prob_bound(x.view(7, 1).expand(500, 7, 1)).mean(0) for _ in range(100)])
    assert agrees(calls, truth, slack=1e-4)
    assert float(calls.std(0).max()) < 2.0


def test_more_steps_tighten_the_bound_to_that_of_continuous_time():
    x = torch.linspace(-1.5, 3.0, 7, dtype=DOUBLE)
    one = schedule("cosine", 6.0, -5.0)
    high, low = (float(end.detach()) for end in one.ends(x))
    found = []
    for steps in (1, 2, 4, 8, 16, 64, 256, 1024, 4096):
        levels = one(torch.linspace(0, 1, steps + 1, dtype=DOUBLE)).detach()
        found.append(bound_between(x, 0.7, 0.5, high, low, steps, levels))
    # a step more is more on average over the data, and each datum comes to the limit
    weight = Normal(0.7, 0.5).log_prob(x).softmax(0)
    means = torch.stack([weight @ one for one in found])
    assert bool((means.diff() > 0).all())
    # what is lost goes as one over the steps, so that two numbers of steps tell the limit
    limit = (4 * found[-1] - found[-2]) / 3
    torch.testing.assert_close(limit, bound_between(x, 0.7, 0.5, high, low), rtol=0, atol=1e-3)
    # the model that has these ends is another than the data's, so that its bound is no more on their average
    grid = torch.linspace(-4, 5.4, 2001, dtype=DOUBLE)
    weight = Normal(0.7, 0.5).log_prob(grid).softmax(0)
    assert weight @ bound_between(grid, 0.7, 0.5, high, low) < weight @ Normal(0.7, 0.5).log_prob(grid)


def test_what_is_standardised_has_its_own_density():
    """x = 3 + 2 u: the bound is that of u less log 2, whatever the noise."""
    x = torch.tensor([[2.0], [3.0], [4.4], [7.0]], dtype=DOUBLE)
    moved = normal(loc=torch.tensor([3.0], dtype=DOUBLE), scale=torch.tensor([2.0], dtype=DOUBLE))
    torch.manual_seed(0)
    found = moved.log_prob_bound(x)
    torch.manual_seed(0)
    torch.testing.assert_close(found, normal().log_prob_bound((x - 3) / 2) - math.log(2))


def test_the_score_is_that_of_the_noisy_normal():
    z = torch.linspace(-3, 3, 4, dtype=DOUBLE).view(4, 1)
    for level in (-6.0, -1.0, 0.0, 4.0):
        log_snr = torch.tensor(level, dtype=DOUBLE)
        alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
        noisy = Normal(0.7 * alpha, (alpha**2 * 0.25 + sigma**2).sqrt())
        at = z.clone().requires_grad_()
        truth = torch.autograd.grad(noisy.log_prob(at).sum(), at)[0]
        torch.testing.assert_close(normal().score(z, log_snr), truth)


MEANS = torch.tensor([[-1.5, 0.5], [1.0, -0.8], [0.9, 1.4]], dtype=DOUBLE)
SHARES = torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE)
SPREAD = 0.35


def of_mixture(z, log_snr, given, before):
    """The best denoiser of a mixture of normals: each part's own, weighted as the noisy parts are likely."""
    alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
    variance = alpha**2 * SPREAD**2 + sigma**2
    away = z.unsqueeze(1) - alpha.unsqueeze(-1) * MEANS
    part = (SHARES.log() - 0.5 * (away**2).sum(-1) / variance).softmax(-1)
    each = MEANS + (alpha * SPREAD**2 / variance).unsqueeze(-1) * away
    return (alpha * z - (part.unsqueeze(-1) * each).sum(1)) / sigma


def mixture(size, how=None, ends=(12.0, -12.0)):
    return GaussianDiffusion(of_mixture, schedule("cosine", *ends), torch.zeros(size, dtype=DOUBLE), 2, how=how)


def truth():
    parts = Independent(Normal(MEANS, torch.full_like(MEANS, SPREAD)), 1)
    return MixtureSameFamily(torch.distributions.Categorical(SHARES), parts)


def test_the_bound_of_a_mixture_is_its_density():
    """With the best denoiser nothing is lost but what the end points leave."""
    torch.manual_seed(1)
    x = truth().sample((5,))
    with torch.no_grad():
        calls = torch.stack([mixture(5).log_prob_bound(x.expand(100, 5, 2)).mean(0) for _ in range(60)])
    assert agrees(calls, truth().log_prob(x), slack=1e-3)


def test_the_score_of_a_mixture_is_the_gradient_of_its_noisy_density():
    log_snr = torch.tensor(0.5, dtype=DOUBLE)
    alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
    deviation = (alpha**2 * SPREAD**2 + sigma**2).sqrt()
    parts = Independent(Normal(alpha * MEANS, deviation.expand_as(MEANS)), 1)
    noisy = MixtureSameFamily(torch.distributions.Categorical(SHARES), parts)
    z = torch.randn(6, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = torch.autograd.grad(noisy.log_prob(z).sum(), z)[0]
    torch.testing.assert_close(mixture(6).score(z.detach(), log_snr), expected)


def discrepancy(one, other, width):
    """The unbiased squared maximum mean discrepancy of two samples, with Gaussian kernels (Gretton et al. 2012)."""

    def kernel(a, b):
        return torch.exp(-0.5 * torch.cdist(a, b) ** 2 / width**2)

    n, m = len(one), len(other)
    within = (kernel(one, one).sum() - n) / (n * (n - 1)) + (kernel(other, other).sum() - m) / (m * (m - 1))
    return within - 2 * kernel(one, other).mean()


@pytest.mark.parametrize("method", ["ancestral", "ddim"])
def test_draws_of_a_mixture_are_of_its_density(method):
    """By the maximum mean discrepancy over independent blocks, whose mean is 0 with their own standard error; and the
    test tells draws in too few steps from the truth."""
    torch.manual_seed(2)
    size, blocks = 250, 20

    def distances(steps):
        found = mixture(size * blocks, Sampling(steps, method)).sample().split(size)
        real = truth().sample((size * blocks,)).split(size)
        return torch.stack([discrepancy(a, b, 0.7) for a, b in zip(found, real, strict=True)])

    assert agrees(distances(150), 0.0, slack=5e-4)
    assert not agrees(distances(3), 0.0, slack=5e-4)


def test_draws_fill_cells_as_the_density_does():
    """Total variation over cells against closed form, within what so many independent draws differ by themselves."""
    torch.manual_seed(3)
    count, edges = 8000, torch.linspace(-3.0, 3.0, 13, dtype=DOUBLE)
    x = mixture(count, Sampling(200)).sample()
    cells = torch.stack([torch.bucketize(x[:, d].contiguous(), edges) for d in (0, 1)])
    found = torch.zeros(14, 14, dtype=DOUBLE).index_put_(tuple(cells), torch.ones(count, dtype=DOUBLE), True) / count
    below = torch.cat([torch.zeros(1), torch.ones(1)]).to(DOUBLE)

    def masses(d):
        inside = Normal(MEANS[:, d : d + 1], SPREAD).cdf(edges)
        return torch.cat([below[:1].expand(3, 1), inside, below[1:].expand(3, 1)], 1).diff(dim=1)

    expected = torch.einsum("k,ki,kj->ij", SHARES, masses(0), masses(1))
    distance = 0.5 * (found - expected).abs().sum()
    # of each cell |error| is on average sqrt(2 / pi) standard errors, and their sum varies by no more than its parts
    error = (expected * (1 - expected) / count).sqrt()
    mean = 0.5 * math.sqrt(2 / math.pi) * error.sum()
    assert abs(float(distance - mean)) < 6 * 0.5 * float((error**2).sum().sqrt())


def test_the_flow_maps_a_normal_onto_a_normal_and_back():
    p = normal("cosine", how=Sampling(2000, "ddim"))
    noise = torch.tensor([[[-2.0], [-0.5], [0.3], [1.7]]], dtype=DOUBLE)
    x = p.decode(noise)
    torch.testing.assert_close(x, 0.7 + 0.5 * noise, rtol=0, atol=5e-3)
    torch.testing.assert_close(p.invert(x), noise, rtol=0, atol=1e-2)
    rough = normal("cosine", how=Sampling(20, "ddim"))
    assert float((rough.decode(noise) - x).abs().max()) > float((p.decode(noise) - 0.7 - 0.5 * noise).abs().max())


def test_guidance_moves_from_none_to_the_context_and_beyond():
    """Of a context that only moves the mean, guidance g draws from a normal moved by g times as much."""

    def denoise(z, log_snr, given, before):
        return of_normal(given, 0.5)(z, log_snr, None, None)

    like = torch.zeros(4000, dtype=DOUBLE)
    given, none = torch.ones(4000, 1, dtype=DOUBLE), torch.zeros(4000, 1, dtype=DOUBLE)
    torch.manual_seed(0)
    for guidance in (0.0, 1.0, 2.0):
        how = Sampling(100, guidance=guidance)
        options = {"given": given, "otherwise": none, "how": how}
        x = GaussianDiffusion(denoise, schedule(), like, 1, **options).sample()
        assert agrees(x, guidance, slack=0.01)
        torch.testing.assert_close(x.std(), torch.tensor(0.5, dtype=DOUBLE), rtol=0.08, atol=0)


def test_what_was_estimated_before_is_given_to_the_next_step():
    seen = []

    def denoise(z, log_snr, given, before):
        seen.append(before)
        return of_normal(0.7, 0.5)(z, log_snr, given, before)

    GaussianDiffusion(denoise, schedule(), torch.zeros(2, dtype=DOUBLE), 1, how=Sampling(5)).sample()
    assert [before is None for before in seen] == [True, False, False, False, False]


def test_a_bound_is_no_density():
    p = normal()
    x = torch.zeros(4, 1, dtype=DOUBLE)
    with pytest.raises(CapabilityError, match="only a bound on it"):
        p.log_prob(x)
    assert log_prob_or_bound(p, x).shape == (4,)
    known = MultivariateNormal(torch.zeros(1), torch.eye(1))
    torch.testing.assert_close(log_prob_or_bound(known, torch.zeros(4, 1)), known.log_prob(torch.zeros(4, 1)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule("square"), "choose one of cosine, sigmoid, linear"),
        (lambda: Schedule("linear", -1.0, 1.0), "must fall"),
        (lambda: Sampling(0), "steps=0"),
        (lambda: Sampling(method="euler"), "choose ancestral or ddim"),
        (lambda: Sampling(guidance=-1.0), "guidance=-1.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(make, message):
    with pytest.raises(OptionError, match=message):
        make()


def test_learned_ends_climb_the_bound():
    """The end points have a gradient of the bound: from a poor start they come to where it is closer to the density."""
    torch.manual_seed(0)
    one = Schedule("linear", 1.0, -1.0).double()
    x = 0.7 + 0.5 * torch.randn(256, 1, dtype=DOUBLE)
    p = GaussianDiffusion(of_normal(0.7, 0.5), one, torch.zeros(256, dtype=DOUBLE), 1)
    optimizer = torch.optim.Adam(one.parameters(), 0.1)
    values = []
    for _ in range(150):
        value = p.log_prob_bound(x).mean()
        optimizer.zero_grad()
        (-value).backward()
        optimizer.step()
        values.append(float(value.detach()))
    high, low = (float(end.detach()) for end in one.ends(x))
    assert high > 4
    assert low < -4
    exact = float(Normal(0.7, 0.5).log_prob(x).mean())
    assert float(bound_between(x.squeeze(-1), 0.7, 0.5, high, low).mean()) > exact - 0.05
