"""Latent Dirichlet allocation: a document mixes topics, and every word comes from one of them.

    theta ~ Dirichlet(concentration)
    x_t | theta ~ Categorical(sum_k theta_k topics[k]),   each word t on its own

    log p(x) = log E_theta prod_t sum_k theta_k topics[k, x_t]
    q(theta | x) = Dirichlet(gamma), by coordinate ascent over gamma and each word's own topic

z is theta: the topics of the single words are summed out. `EM` is variational EM (Blei, Ng and Jordan 2003, section
5.3), with `stepwise` online (Hoffman, Blei and Bach 2010); `Gibbs` samples the words' topics instead, with theta and
the topics summed out (Griffiths and Steyvers 2004), and predicts new documents better. The order of words means
nothing, and a missing word is left out.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Dirichlet, kl_divergence

from latentia.distributions.bag import MixedBag
from latentia.distributions.emissions import CategoricalEmissions
from latentia.errors import CapabilityError, DataError, OptionError, check_not_negative
from latentia.kernels import gibbs, lda
from latentia.kernels.gibbs_chain import LEAST, TopicChain
from latentia.model import Batch, DirectedModel, EMModel, Frame, Statistics


class FixedDirichlet(Dirichlet):
    """A Dirichlet found by coordinate ascent, through which no gradient goes: its draws have none either."""

    has_rsample = False


class LDA(EMModel, DirectedModel):
    """p(x, theta) = Dirichlet(theta; concentration) prod_t sum_k theta_k topics[k, x_t].

    Args:
        symbols: V, the number of words (comes from the data).
        topics: K.
        concentration: of the Dirichlet prior on theta, of every topic at the start.
        learn_concentration: learn one for each topic, so that a topic may be common (Wallach, Mimno and McCallum 2009).
        smoothing: pseudo-count of every word in every topic: a Dirichlet(1 + smoothing) prior to EM, which takes the
            mode, and a Dirichlet(smoothing) prior to Gibbs, which takes the mean.
        steps, tol: coordinate ascent makes at most so many rounds, or stops when gamma changes by less, in words.
        length: T of the documents that are generated where no lengths are given.

    Parameters: concentration (K,), topics (K, V), whose rows sum to one.
    """

    def __init__(
        self,
        symbols: int,
        topics: int = 20,
        concentration: float = 0.1,
        learn_concentration: bool = True,
        smoothing: float = 0.01,
        steps: int = 100,
        tol: float = 1e-4,
        length: int = 50,
    ):
        super().__init__()
        check_not_negative(concentration=concentration, tol=tol)
        if not concentration > 0:
            raise OptionError(f"concentration={concentration}: it must be above 0")
        self.learn_concentration, self.steps, self.tol, self.length = learn_concentration, steps, tol, length
        self.log_concentration = nn.Parameter(torch.full((topics,), float(concentration)).log())
        self.emissions = CategoricalEmissions(topics, symbols, smoothing)

    @property
    def concentration(self) -> Tensor:
        return self.log_concentration.exp()

    @property
    def topics(self) -> Tensor:
        """(K, V): row k is the distribution of topic k's words."""
        return self.emissions.probs

    def prior(self, frame: Frame) -> Dirichlet:
        return Dirichlet(self.concentration.expand(frame.size, -1), validate_args=False)

    def likelihood(self, z: Tensor, frame: Frame) -> MixedBag:
        """Documents of `self.length` words where the frame has no lengths."""
        return MixedBag(z, self.topics, frame.room(self.length))

    def posterior(self, batch: Batch) -> FixedDirichlet:
        gamma, _, _ = self._infer(batch, torch.zeros(batch.size))
        return FixedDirichlet(gamma.to(self.anchor), validate_args=False)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        weight = batch.weights.repeat_interleave(batch.x.shape[1])
        self.emissions.start(batch.x.flatten(), batch.observed.flatten(), weight, generator)

    def expect(self, batch: Batch, hard: bool = False) -> tuple[Statistics, Tensor]:
        """The E-step. Its value is the bound with a q of every word's topic too: sum_t log sum_k exp(E_q log theta_k)
        topics[k, x_t] - KL(q(theta) || p(theta)), which is at most the ELBO of q(theta) alone."""
        if hard:
            raise CapabilityError("LDA has no hard EM: theta is a point of a simplex, with no best value to count for")
        weight = batch.weights.double()
        gamma, log_given, symbols = self._infer(batch, weight)
        prior = Dirichlet(self.concentration.detach().double(), validate_args=False)
        value = log_given - kl_divergence(Dirichlet(gamma, validate_args=False), prior)
        log_theta = gamma.digamma() - gamma.sum(-1, keepdim=True).digamma()
        sums = {"symbol": symbols, "log_theta": weight @ log_theta, "documents": weight.sum()}
        return {name: part.to(self.anchor) for name, part in sums.items()}, (weight * value).sum()

    def update(self, total: Statistics) -> None:
        self.emissions.update(total)
        if self.learn_concentration and bool(total["documents"] > 0):
            mean = (total["log_theta"] / total["documents"]).double()
            self.log_concentration.data = (
                dirichlet_maximum(mean, self.concentration.detach().double()).log().to(self.anchor)
            )

    def log_prior(self) -> Tensor:
        return self.emissions.log_prior()

    def free_parameters(self) -> int:
        """K (V - 1) probabilities of words, and K concentrations where they are learned and theta is not always 1."""
        learned = self.learn_concentration and len(self.log_concentration) > 1
        return self.emissions.free_parameters() + learned * len(self.log_concentration)

    def canonical(self) -> None:
        """Topics by falling concentration, their share of all documents; equal ones by their commonest word."""
        order = self.topics.argmax(-1).argsort(stable=True)
        order = order[self.log_concentration.detach()[order].argsort(descending=True, stable=True)]
        self.log_concentration.data = self.log_concentration.data[order]
        self.emissions.reorder(order)

    def check(self, batch: Batch) -> None:
        if batch.x.ndim != 2:
            raise DataError(f"LDA takes documents as rows of symbols, x (B, T), and x is {tuple(batch.x.shape)}")
        self.emissions.check(batch.x, batch.seen)

    def left_to_right(self, batch: Batch, particles: int = 20, seed: int = 0) -> Tensor:
        """log p(x) of each document, (B,) float64, nats: exp of it is an unbiased estimate of p(x).

        Far less variable than importance sampling for all but short documents, in time quadratic in their length
        (Wallach, Murray, Salakhutdinov and Mimno 2009, section 4.3).
        """
        if particles < 1:
            raise OptionError(f"particles={particles}: at least 1 is needed")
        self.check(batch)
        starts, words = _tokens(batch)
        beta = self.topics.detach().double().T.contiguous().cpu().numpy()
        prior, state = self.concentration.detach().double().cpu().numpy(), np.array([seed], dtype=np.uint64)
        found = gibbs.left_to_right(starts.numpy(), words.numpy(), beta, prior, particles, state)
        return torch.from_numpy(found).to(self.anchor.device)

    def sampler(self, batch: Batch, seed: int) -> TopicChain:
        """What `Gibbs` runs: every word's topic is drawn in turn, with theta and the topics summed out."""
        if not self.emissions.smoothing > 0:
            raise OptionError("smoothing=0: to Gibbs it is the parameter of a Dirichlet prior, and must be above 0")
        self.check(batch)
        if not self.emissions.logits.requires_grad:
            raise OptionError(
                "the topics are frozen, and Gibbs sums them out: use EM, which learns the rest given them"
            )
        times = batch.weights.round().long()
        if bool((times != batch.weights).any()):
            raise DataError("Gibbs sampling repeats a document by its weight, which must be a whole number")
        starts, words = _tokens(batch.select(torch.arange(batch.size).repeat_interleave(times.cpu())))
        prior = self.concentration.detach().double().cpu()
        learns = self.learn_concentration and self.log_concentration.requires_grad
        options = (self.emissions.smoothing, learns, seed)
        return TopicChain(starts, words, self.topics.shape[1], prior, *options)

    def settle(self, mean: dict[str, Tensor]) -> None:
        """Take the posterior mean that a sampler found: its `estimate`, averaged."""
        self.emissions.logits.data = mean["topics"].log().to(self.anchor)
        if self.log_concentration.requires_grad:
            self.log_concentration.data = mean["concentration"].log().to(self.anchor)
            self.canonical()

    def _infer(self, batch: Batch, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `kernels.lda.posterior`: float64, on the model's device."""
        mask = None if batch.seen is None else batch.seen.cpu()
        parameters = (self.topics.detach().cpu(), self.concentration.detach().cpu())
        gamma, log_given, symbols = lda.posterior(batch.x.cpu(), mask, *parameters, weight.cpu(), self.steps, self.tol)
        device = self.anchor.device
        return gamma.to(device), log_given.to(device), symbols.to(device)


def _tokens(batch: Batch) -> tuple[Tensor, Tensor]:
    """Where each document starts, (B + 1,), and the observed words of all, one after another, (N,), on the CPU."""
    ends = batch.observed.sum(1).cumsum(0)
    return torch.cat([ends.new_zeros(1), ends]).cpu(), batch.x[batch.observed].long().cpu()


def dirichlet_maximum(mean_log: Tensor, start: Tensor, steps: int = 100) -> Tensor:
    """The concentration (K,) under which points with this mean of log theta (K,) are likeliest.

    Newton's method in linear time (Minka 2000, section 1; Blei, Ng and Jordan 2003, appendix A.4.2), with the step
    halved as long as it leaves the domain or goes down; what would go to 0 stays at `LEAST`.
    """

    def value(a: Tensor) -> Tensor:
        return torch.lgamma(a.sum()) - torch.lgamma(a).sum() + ((a - 1) * mean_log).sum()

    a = start
    if len(a) == 1:
        return a  # with one topic theta is 1, and all concentrations are alike
    for _ in range(steps):
        gradient = a.sum().digamma() - a.digamma() + mean_log
        curvature = torch.polygamma(1, a)
        common = (gradient / curvature).sum() / (1 / torch.polygamma(1, a.sum()) - (1 / curvature).sum())
        step = (gradient + common) / curvature
        while bool((a + step <= 0).any()) or bool(value(a + step) < value(a)):
            step = step / 2
            if bool(step.abs().max() < 1e-12):
                return a.clamp(min=LEAST)
        a = a + step
        if bool((step.abs() <= 1e-10 * a).all()):
            break
    return a.clamp(min=LEAST)


def tiny(seed: int) -> tuple[LDA, Batch]:
    """Two topics over three words, and documents of at most three words with two hidden."""
    generator = torch.Generator().manual_seed(seed)
    model = LDA(symbols=3, topics=2, length=3, smoothing=0.1, tol=1e-12, steps=1000).double()
    model.log_concentration.data = 0.5 * torch.randn(2, generator=generator, dtype=torch.float64)
    model.emissions.logits.data = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    x = torch.randint(3, (5, 3), generator=generator)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 1] = mask[2, 2] = False
    return model, Batch.of(x, mask, lengths=torch.tensor([3, 2, 3, 1, 3]))
