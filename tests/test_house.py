"""What the contracts promise: frames, contexts, endings, draws, and one place for each thing."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal

import latentia.models
from latentia.batch import Batch, Frame
from latentia.data import as_dataset
from latentia.distributions.sentence import AutoregressiveCategorical
from latentia.errors import DataError, OptionError
from latentia.evaluate import evaluate
from latentia.inference.annealed import Annealing
from latentia.inference.refinement import refined
from latentia.learners import Gradient
from latentia.model import DirectedModel, LatentVariableModel
from latentia.models import HMM, VAE, SemiSupervisedVAE
from latentia.objectives import elbo, iwae, supervised
from latentia.tasks import complete, generate
from latentia.testing import brute_force_log_marginal, check_model
from latentia.testing.bounds import check_normalised

DOUBLE = torch.float64


class ConditionalVAE(DirectedModel):
    """Three pixels given a number: twenty lines."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 2), nn.Linear(2, 3)

    def prior(self, frame):
        zero = self.anchor.new_zeros(frame.size, 1)
        return Independent(Normal(zero, torch.ones_like(zero)), 1)

    def likelihood(self, z, frame):
        beside = frame.given().x.expand(len(z), -1, -1)
        return Bernoulli(logits=self.decode(torch.cat([z, beside], -1)), validate_args=False)

    def posterior(self, batch):
        seen = torch.where(batch.observed, batch.x, 0.0)
        mean, log_scale = self.encode(torch.cat([seen, batch.context.x], -1)).chunk(2, -1)
        return Independent(Normal(mean, log_scale.exp()), 1)


def tiny_conditional(seed):
    generator = torch.Generator().manual_seed(seed)
    model = ConditionalVAE().double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=DOUBLE)
    x = torch.randint(2, (5, 3), generator=generator).double()
    return model, Batch.of(x, context=Batch(torch.randn(5, 1, generator=generator, dtype=DOUBLE)))


class TextVAE(DirectedModel):
    """z steers a network over the last symbol; symbol 0 is the end, which is modelled."""

    def __init__(self, symbols=3, length=3):
        super().__init__()
        self.symbols, self.length = symbols, length
        self.encode, self.first = nn.Linear(symbols, 2), nn.Linear(1, symbols)
        self.after = nn.Linear(symbols + 1, symbols)

    def prior(self, frame):
        zero = self.anchor.new_zeros(frame.size, 1)
        return Independent(Normal(zero, torch.ones_like(zero)), 1)

    def likelihood(self, z, frame):
        def logits(x):
            before = nn.functional.one_hot(x[..., :-1], self.symbols).to(z)
            before = before.expand(*z.shape[:2], *before.shape[-2:])
            code = z.unsqueeze(-2).expand(*before.shape[:-1], 1)
            rest = self.after(torch.cat([before, code], -1))
            return torch.cat([self.first(z).unsqueeze(-2), rest], -2)

        return AutoregressiveCategorical(logits, z[..., 0], frame.room(self.length), end=0)

    def posterior(self, batch):
        rows = nn.functional.one_hot(torch.where(batch.observed, batch.x, 0), self.symbols).to(self.anchor)
        mean, log_scale = self.encode((rows * batch.observed.unsqueeze(-1)).sum(1)).chunk(2, -1)
        return Independent(Normal(mean, log_scale.exp()), 1)


def tiny_text(seed):
    generator = torch.Generator().manual_seed(seed)
    model = TextVAE().double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=DOUBLE)
    x = torch.tensor([[1, 2, 0], [2, 0, 0], [1, 1, 2], [0, 0, 0], [2, 1, 1]])
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[2, 1] = mask[4, 2] = False
    return model, Batch.of(x, mask, lengths=torch.tensor([3, 2, 3, 1, 3]))


@pytest.mark.parametrize("tiny", [tiny_conditional, tiny_text])
def test_a_model_of_twenty_lines_passes_the_checks(tiny):
    ran = check_model(tiny)
    assert {"check_bounds", "check_normalised", "check_generate", "check_missing", "check_batching"} <= set(ran)


def test_a_context_reaches_generation_and_annealing():
    model, batch = tiny_conditional(0)
    drawn, z = generate(model, 3, context=batch.context.select(slice(2, 3)))
    assert drawn.x.shape == (3, 3)
    assert z.shape == (3, 1)
    assert torch.equal(drawn.context.x, batch.context.x[2:3].expand(3, 1))
    found = evaluate(model, batch, annealing=Annealing(steps=20, chains=2, data=5, simulated=0), importance_samples=50)
    assert found.annealed_log_marginal is not None
    with pytest.raises(OptionError, match="one for each draw"):
        generate(model, 3, context=batch.context.select(slice(2)))


def test_the_end_of_a_text_is_modelled():
    model, batch = tiny_text(0)
    check_normalised(tiny_text, 0)
    drawn, _ = generate(model, 200)
    assert drawn.lengths.min() == 1
    assert drawn.lengths.max() == 3
    inside = torch.arange(3) < drawn.lengths.unsqueeze(-1)
    assert bool((drawn.x[~inside] == 0).all())
    ended = drawn.x.gather(1, (drawn.lengths - 1).unsqueeze(1)).squeeze(1) == 0
    assert bool((ended | (drawn.lengths == 3)).all())
    values = brute_force_log_marginal(model, batch._replace(mask=None))
    assert bool((values < 0).all())


def test_a_sentence_whose_last_word_is_hidden_is_not_the_shorter_one():
    torch.manual_seed(0)
    model = HMM(symbols=4, states=2)
    model.start(Batch(torch.randint(4, (5, 6))), torch.Generator().manual_seed(0))
    x = torch.tensor([[1, 2, 3]])
    hidden = Batch.of(x, torch.tensor([[True, True, False]]))
    shorter = Batch.of(x[:, :2])
    assert model.posterior(hidden).lengths.tolist() == [3]
    done = complete(model, hidden, draws=40, seed=0)
    assert done.draws.shape == (40, 1, 3)
    assert len(set(done.draws[:, 0, 2].tolist())) > 1
    assert bool((done.draws[:, 0, :2] == x[0, :2]).all())
    # of a model whose lengths are given the two have one probability, and are two data all the same
    both = [model.posterior(some).log_partition for some in (hidden, shorter)]
    torch.testing.assert_close(*both)
    assert model.posterior(hidden).marginals.shape != model.posterior(shorter).marginals.shape


def test_what_is_hidden_of_a_text_is_not_its_end():
    model, batch = tiny_text(0)
    one = batch.select(torch.tensor([0]))._replace(mask=torch.tensor([[True, True, False]]))
    shorter = Batch(torch.tensor([[1, 2]]), lengths=torch.tensor([2]))
    values = torch.stack(
        [brute_force_log_marginal(model, one._replace(x=torch.tensor([[1, 2, v]]), mask=None)) for v in range(3)]
    )
    torch.testing.assert_close(brute_force_log_marginal(model, one), values.logsumexp(0))
    assert one.lengths.tolist() != shorter.lengths.tolist()


def models():
    for found in pkgutil.walk_packages(latentia.models.__path__, "latentia.models."):
        module = importlib.import_module(found.name)
        for value in vars(module).values():
            if (
                isinstance(value, type)
                and issubclass(value, LatentVariableModel)
                and value.__module__ == module.__name__
            ):
                yield value


# a sentence's draw has a length that its words alone do not show
OWN = {("CompoundPCFG", "generate")}


def test_no_model_overrides_what_follows():
    wrong = {
        (cls.__name__, name)
        for cls in models()
        for name in ("generate", "log_likelihood", "conditional")
        if issubclass(cls, DirectedModel) and name in vars(cls)
    }
    assert wrong == OWN


def test_supervised_learning_without_labels_is_refused():
    model = SemiSupervisedVAE((2,), classes=2, latent=1, hidden=(3,))
    with pytest.raises(DataError, match="--labels"):
        Gradient(supervised, epochs=1, progress=False).fit(model, torch.randint(2, (20, 2)).float())


def test_a_batch_is_not_taken_for_images():
    _, batch = tiny_text(0)
    assert as_dataset(batch).schema.unit == "nats per sequence, end of sequence not counted"
    assert as_dataset(Batch(torch.randn(3, 4, 2))).schema.unit.startswith("nats per datum")


class Counting(nn.Module):
    """An encoder that counts its passes."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.passes, self.rows = inner, 0, 0

    def forward(self, x):
        self.passes += 1
        self.rows += len(x)
        return self.inner(x)


@pytest.mark.parametrize(
    "objective",
    [elbo, iwae, lambda m, b: elbo(m, b, stl=True), lambda m, b: iwae(m, b, gradient="dreg")],
    ids=["elbo", "iwae", "stl", "dreg"],
)
def test_a_step_takes_one_pass_of_the_encoder(objective):
    model = VAE((3,), latent=2, hidden=(4,))
    model.encoder = Counting(model.encoder)
    objective(model, Batch(torch.randint(2, (6, 3)).float())).value.mean().backward()
    assert model.encoder.passes == 1


def test_frames_follow_batches():
    batch = Batch(torch.zeros(2, 5), lengths=torch.tensor([3, 5]))
    assert batch.frame.room(20) == 5
    assert batch.frame.ends(20, batch.x).tolist() == [3, 5]
    assert Frame(2).ends(20, batch.x).tolist() == [20, 20]
    assert Frame(2, torch.tensor([1, 4])).room(20) == 4
    with pytest.raises(ValueError, match="context"):
        Frame(2).given()


def test_a_refined_model_generates_as_the_model_does():
    model, batch = tiny_conditional(0)
    drawn, _ = refined(model, steps=2).generate(batch.frame)
    assert drawn.x.shape == batch.x.shape
