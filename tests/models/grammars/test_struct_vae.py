"""StructVAE: its bounds and their gradients against enumeration, its chains, and what it refuses."""

from functools import partial

import pytest
import torch

from latentia import gradients
from latentia.distributions.forms import read_form
from latentia.distributions.latents import each
from latentia.errors import DataError, OptionError
from latentia.learners import Gradient
from latentia.model import Batch, Frame
from latentia.models import VAE, StructVAE
from latentia.models.grammars import struct_vae
from latentia.objectives import Chains, elbo, joint_stochastic, semi_supervised
from latentia.objectives.joint_stochastic import walked
from latentia.testing import brute_force_log_marginal
from latentia.testing.answers import over_trees
from latentia.testing.brute_force import nodes
from latentia.testing.expect import require_frequencies, seeded

LIMIT = 4.0
"""Standard errors, of the mean of every one of 832 parameters' slopes: the furthest of three seeds was at 3.0."""


@pytest.fixture
def tiny():
    return struct_vae.tiny(0)


def with_known(model, batch, row=0, form="( and b a )"):
    known = torch.zeros(batch.size, model.machine.most, model.machine.actions, dtype=torch.float64)
    known[row] = model.one_hot(read_form(form))
    return batch._replace(known=known)


def slopes(model, value):
    named = [pair for pair in model.named_parameters() if pair[1].numel()]
    found = torch.autograd.grad(value, [p for _, p in named], allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named, found, strict=True)}


def test_the_elbo_is_the_marginal_less_the_divergence_from_the_posterior(tiny):
    model, batch = tiny
    z, log_q = nodes(model.posterior(batch))
    log_p = model.log_joint(batch, z) - brute_force_log_marginal(model, batch)
    torch.testing.assert_close(log_p.exp().sum(0), torch.ones(batch.size).double(), rtol=0, atol=1e-10)
    gap = (log_q.exp() * (log_q - log_p)).sum(0)
    bound = elbo(model, batch, estimator=over_trees).value
    torch.testing.assert_close(bound, brute_force_log_marginal(model, batch) - gap, rtol=0, atol=1e-9)


def test_the_gradient_of_the_enumerated_elbo_is_the_difference_quotient_in_any_direction(tiny):
    model, batch = tiny
    found = slopes(model, elbo(model, batch, estimator=over_trees).value.sum())
    assert all((part != 0).any() for part in found.values())
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        way = {name: torch.randn(part.shape, generator=generator).double() for name, part in found.items()}
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter += sign * 1e-5 * way[name]
                values.append(float(elbo(model, batch, estimator=over_trees).value.sum()))
                for name, parameter in model.named_parameters():
                    parameter -= sign * 1e-5 * way[name]
        slope = sum(float((found[name] * way[name]).sum()) for name in found)
        assert slope == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-5)


@pytest.mark.parametrize("name", ["rloo", "source_lm"])
def test_the_score_functions_gradient_has_no_bias_in_any_parameter(tiny, name):
    """Means over 48 steps of 20 copies of the data, within standard errors of the enumerated gradient."""
    model, batch = tiny
    estimator = gradients.ESTIMATORS[name]()
    repeated = batch.select(torch.arange(batch.size).repeat(20))
    if isinstance(estimator, torch.nn.Module):
        estimator.baseline.start(batch, torch.Generator().manual_seed(0))
        estimator.double()
    exact = slopes(model, elbo(model, batch, estimator=over_trees).value.mean())
    draws = {part: [] for part in exact}
    with seeded(3):
        for step in range(50):
            bound = semi_supervised(model, repeated, unlabelled=1.0, samples=2, estimator=estimator)
            # the baseline has no past in the first steps
            for part, slope in slopes(model, bound.value.mean()).items() if step > 1 else ():
                draws[part].append(slope)
    for part, several in draws.items():
        several = torch.stack(several)
        error = several.std(0) / len(several) ** 0.5
        away = (several.mean(0) - exact[part]).abs() / error.clamp(min=1e-12)
        assert float(away[error > 1e-12].max()) < LIMIT, part


def test_the_objective_is_the_joint_where_forms_are_known_and_the_elbo_elsewhere(tiny):
    model, batch = tiny
    batch = with_known(model, batch)
    found = semi_supervised(model, batch, alpha=2.0, unlabelled=0.3, estimator=over_trees).value
    z = batch.known[0].expand(1, batch.size, -1, -1)
    blind = batch._replace(known=None)
    sure = model.log_joint(blind, z)[0] + 2 * model.posterior(blind).log_prob(z)[0]
    free = 0.3 * elbo(model, blind, estimator=over_trees).value
    torch.testing.assert_close(found, torch.cat([sure[:1], free[1:]]), rtol=0, atol=1e-10)


def test_the_objective_at_the_exact_posterior_is_the_marginal(tiny):
    """With q the enumerated posterior the bound is log p(x), by the model's own two terms."""
    model, batch = tiny
    z, _ = nodes(model.posterior(batch))
    weight = model.log_joint(batch, z)
    marginal = torch.logsumexp(weight, 0)
    posterior = (weight - marginal).exp()
    torch.testing.assert_close((posterior * (weight - posterior.log())).sum(0), marginal, rtol=0, atol=1e-9)
    torch.testing.assert_close(marginal, brute_force_log_marginal(model, batch), rtol=0, atol=1e-9)


def test_a_known_form_is_all_of_the_posterior(tiny):
    model, batch = tiny
    batch = with_known(model, batch)
    q = model.posterior(batch)
    assert (q.sample((7,))[:, 0] == batch.known[0]).all()
    assert (q.mode[0] == batch.known[0]).all()
    assert q.log_prob(batch.known.unsqueeze(0))[0, 0] == 0
    bound = elbo(model, batch, estimator=over_trees).value
    joint = model.log_joint(batch, batch.known[:1].expand(1, batch.size, -1, -1))
    torch.testing.assert_close(bound[0], joint[0, 0], rtol=0, atol=1e-10)


def test_the_search_finds_every_form_in_order(tiny):
    model, batch = tiny
    q = model.posterior(batch)
    z, log_prob = q.beam(12)
    _, exact = nodes(q)
    torch.testing.assert_close(log_prob[:9], exact.sort(0, descending=True).values, rtol=0, atol=1e-10)
    assert (log_prob[9:] == -torch.inf).all()
    torch.testing.assert_close(q.log_prob(z[:9]), log_prob[:9], rtol=0, atol=1e-10)


@pytest.mark.parametrize("baseline", [None, gradients.SourceLanguageModel(4)])
def test_searched_over_all_forms_is_the_elbo_and_its_gradient(tiny, baseline):
    """Whatever the baseline: where no form is left out the scores, weighed by q, add up to nothing."""
    model, batch = tiny
    if baseline is not None:
        baseline.start(batch, torch.Generator().manual_seed(0))
        baseline.double()
    exact = elbo(model, batch, estimator=over_trees).value
    wanted = slopes(model, exact.sum())
    for step in range(2):
        value = elbo(model, batch, samples=12, estimator=gradients.Searched(baseline)).value
        torch.testing.assert_close(value, exact, rtol=0, atol=1e-10)
        found = slopes(model, value.sum())
        # in the first step of all the language model's line has no past
        for name, slope in wanted.items() if step or baseline is None else ():
            torch.testing.assert_close(found[name], slope, rtol=0, atol=1e-9)


def test_the_source_language_model_learns_a_line(tiny):
    """Values that are linear in log p_LM(x) are told exactly, once there is a past."""
    _, batch = tiny
    baseline = gradients.SourceLanguageModel(4)
    baseline.start(batch, torch.Generator().manual_seed(0))
    baseline.double()
    f = gradients.OfDraw(None, lambda drawn: drawn, batch)
    log_p = baseline.climbs(f).detach()
    values = torch.stack([2 * log_p - 3, 0.5 - log_p], -1).expand(4, -1, -1)
    for _ in range(200):
        expected = baseline(f, values)
    # the spread of log p is held at 1 nat at least, where these data have less
    spread = max(float(log_p.var(correction=0)), 1.0)
    share = float(log_p.var(correction=0)) / spread
    mean = values.mean((0, 1))
    torch.testing.assert_close(expected, mean + share * (values - mean), rtol=1e-6, atol=1e-6)


def test_chains_go_to_the_posterior(tiny):
    """2,000 chains of one sentence, after 15 steps of the independence sampler."""
    model, batch = tiny
    one = batch.select(torch.zeros(1, dtype=torch.long))
    many = one.select(torch.zeros(2000, dtype=torch.long))
    z, _ = nodes(model.posterior(one))
    log_p = model.log_joint(one, z)[:, 0].log_softmax(0)
    with seeded(0), torch.no_grad():
        chains = Chains()
        found = walked(model, many, chains, 15)
    which = (found[0].unsqueeze(0) == z).flatten(2).all(-1).long().argmax(0)
    require_frequencies("chains have the frequencies of p(z | x)", torch.bincount(which, minlength=len(z)), log_p.exp())
    assert len(chains.places) == 1


def test_a_chain_goes_on_where_it_stood(tiny):
    model, batch = tiny
    chains = Chains()
    with seeded(0):
        first = walked(model, batch, chains, 3)
    again = chains.at(batch.select(torch.tensor([3, 1])), first[:, :2])
    assert (again == first[:, [3, 1]]).all()


@pytest.mark.parametrize("way", ["elbo", "jsa"])
def test_what_labels_say_is_kept_while_sentences_alone_teach_too(way):
    """Two words that mean a constant each, in eight sentences with their form and two dozen without."""
    grammar = "form = a | b\n"
    x = torch.tensor([[0, 2], [1, 2]]).repeat(16, 1)
    known = torch.zeros(32, 2, 2)
    known[0:8:2, 0, 0] = known[1:8:2, 0, 1] = 1
    batch = Batch(x, lengths=torch.full((32,), 2), known=known)
    model = StructVAE(3, grammar, 2, hidden=16, actions=2, length=2)
    objective = {
        "elbo": partial(semi_supervised, unlabelled=1.0, samples=2, estimator=gradients.rloo),
        "jsa": partial(joint_stochastic, unlabelled=1.0, samples=2, chains=Chains()),
    }[way]
    Gradient(objective, epochs=20, batch_size=32, lr=0.05, progress=False).fit(model, batch)
    blind = batch._replace(known=None).select(slice(0, 2))
    q = model.posterior(blind)
    assert [str(model.form(z)) for z in q.mode] == ["a", "b"]
    assert float(q.beam(1)[1].exp().min()) > 0.9


def test_what_cannot_be_used_is_refused(tiny):
    model, batch = tiny
    with pytest.raises(DataError, match=r"sentence 1 has 4 words, its end among them, and the model's limit is 3"):
        model.check(Batch(torch.tensor([[0, 0, 0, 2]])))
    with pytest.raises(DataError, match=r"known forms are one-hot, \(5, 4, 5\)"):
        model.check(batch._replace(known=torch.zeros(5, 3, 5)))
    with pytest.raises(DataError, match=r"line 7: c is outside the grammar: thing is wanted, and it may be a, b"):
        model.one_hot(read_form("( is c )"), "f.tsv, line 7")
    with pytest.raises(DataError, match=r"has 5 actions, and forms have 4 at most here"):
        model.one_hot(read_form("( and a a a )"))
    with pytest.raises(OptionError, match=r"actions=1: the shortest form has 2"):
        StructVAE(3, "form = ( is thing )\nthing = a", actions=1)
    with pytest.raises(OptionError, match="dropout=1"):
        StructVAE(3, "form = a", dropout=1)
    with pytest.raises(TypeError, match="write VAE"):
        semi_supervised(type("VAE", (torch.nn.Module,), {})(), batch)
    assert issubclass(VAE, torch.nn.Module)


def test_sentences_without_any_known_form_have_the_elbo_alone(tiny):
    model, batch = tiny
    with seeded(0):
        found = semi_supervised(model, batch, unlabelled=0.5, samples=3).value
    with seeded(0):
        torch.testing.assert_close(found, 0.5 * elbo(model, batch, samples=3, estimator=gradients.rloo).value)


def test_generated_forms_are_of_the_grammar(tiny):
    model, _ = tiny
    with seeded(0):
        batch, z = model.generate(Frame(50))
    assert {str(model.form(one)) for one in z} <= {str(model.grammar.decode(one)) for one in model.grammar.every(4)}
    assert batch.x.shape[0] == 50
    assert each(lambda part: part.shape, z) == (50, 4, 5)
