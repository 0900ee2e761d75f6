"""Probabilistic context-free grammar: a sentence is what a tree has at its leaves.

    S -> A            with root[A],           A one of K nonterminals
    A -> B C          with rules[A, B, C],    B and C nonterminals or preterminals
    T -> w            with words[T, w],       T one of P preterminals

    log p(x) = log sum_z p(x, z), over all labelled binary trees z, by the inside recursion
    p(z | x) is a distribution over trees again: marginals by inside-outside, the best tree by CKY

The posterior is exact, so inside-outside is EM on log p(x) (Lari and Young 1990). A grammar says itself where a
sentence ends: p(x) is of all strings of two words or more, and sums to one over them unless derivations may go on for
ever. A word that is not observed is hidden, and is summed out; the number of words is known.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentia.distributions import Tree
from latentia.distributions.emissions import CategoricalEmissions, log_normalised, log_probabilities, possible, smoothed
from latentia.distributions.yields import derive
from latentia.errors import OptionError, check_not_negative
from latentia.model import Batch, ExactModel, Frame, Statistics
from latentia.models.grammars.sentences import blocks, check_sentences


class PCFG(ExactModel):
    """p(x, z) = root[A] prod rules[A, B, C] prod words[T, w] over the nodes of the tree z.

    Args:
        symbols: V (comes from the data).
        nonterminals: K, the labels of constituents of two words or more.
        preterminals: P, the labels of words.
        smoothing: pseudo-count added to every root, rule and word: a Dirichlet(1 + smoothing) prior. 0 is maximum
            likelihood, which may give new sentences probability 0. What has probability 0 when a fit begins (its logit
            is -inf) is part of the grammar, and stays 0.
        length: most words of a sentence that is generated; a longer one is drawn again.

    Parameters: root (K,), rules (K, K + P, K + P), words (P, V). Symbols are numbered from 0, nonterminals first.
    """

    any_length = True

    def __init__(
        self,
        symbols: int,
        nonterminals: int = 10,
        preterminals: int = 20,
        smoothing: float = 0.01,
        length: int = 40,
    ):
        super().__init__()
        check_not_negative(smoothing=smoothing)
        if min(symbols, nonterminals, preterminals) < 1 or length < 2:
            raise OptionError("symbols, nonterminals and preterminals must each be at least 1, and length at least 2")
        self.smoothing, self.length = smoothing, length
        self.labels = nonterminals + preterminals
        self.root_logits = nn.Parameter(torch.zeros(nonterminals))
        self.rule_logits = nn.Parameter(torch.zeros(nonterminals, self.labels**2))
        self.emissions = CategoricalEmissions(preterminals, symbols, smoothing)

    @property
    def root(self) -> Tensor:
        return self.root_logits.softmax(-1)

    @property
    def rules(self) -> Tensor:
        """[A, B, C] is the probability that an A is a B and a C."""
        return self.rule_logits.softmax(-1).unflatten(-1, (self.labels, self.labels))

    @property
    def words(self) -> Tensor:
        """Row T is the distribution of the words of preterminal T."""
        return self.emissions.probs

    def posterior(self, batch: Batch) -> Tree:
        mask = None if batch.mask is None else batch.mask.flatten()
        word = self.emissions.log_prob(batch.x.flatten(), mask).unflatten(0, batch.x.shape)
        rule = log_probabilities(self.rule_logits).unflatten(-1, (self.labels, self.labels))
        return Tree({"root": log_probabilities(self.root_logits), "rule": rule, "word": word}, batch.ends)

    def trees(self, batch: Batch) -> Tree:
        """The trees that the sentences may have: p(z | x)."""
        return self.posterior(batch)

    def statistics(self, batch: Batch, posterior: Tree) -> Statistics:
        expected = posterior.expectations(batch.weights, ("root", "rule", "word"))
        mask = None if batch.mask is None else batch.mask.flatten()
        # beyond its end a sentence has no words, so responsibilities there are zero
        sums = self.emissions.statistics(batch.x.flatten(), mask, expected["word"].flatten(0, 1))
        return {"root": expected["root"], "rule": expected["rule"].flatten(1), **sums}

    def expect(self, batch: Batch, hard: bool = False) -> tuple[Statistics, Tensor]:
        parts = [super(PCFG, self).expect(part, hard) for part in blocks(batch, self.labels)]
        if not parts:
            return super().expect(batch, hard)
        total = {name: torch.stack([sums[name] for sums, _ in parts]).sum(0) for name in parts[0][0]}
        return total, torch.stack([value for _, value in parts]).sum()

    def update(self, total: Statistics) -> None:
        for logits, name in ((self.root_logits, "root"), (self.rule_logits, "rule")):
            counts = smoothed(total[name], self.smoothing, logits.log_softmax(-1), strict=True)
            # a label that no tree has keeps its rules
            some = counts.sum(-1, keepdim=True) > 0
            logits.data = torch.where(some, log_normalised(counts), logits.data.to(counts)).to(logits)
        self.emissions.update(total)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        for logits in (self.root_logits, self.rule_logits):
            noise = torch.empty_like(logits).exponential_(generator=generator)
            logits.data = noise.log().log_softmax(-1)
        x, inside = batch.x.flatten(), batch.observed.flatten()
        weight = batch.weights.repeat_interleave(batch.x.shape[1])
        self.emissions.start(x[inside], None, weight[inside], generator)

    def log_prior(self) -> Tensor:
        logs = [possible(logits.log_softmax(-1)).sum() for logits in (self.root_logits, self.rule_logits)]
        return self.smoothing * (logs[0] + logs[1]) + self.emissions.log_prior()

    def generate(self, frame: Frame) -> tuple[Batch, Tensor]:
        """Sentences of at most `length` words, given that they are no longer, and their trees (n, N, N, K + P). Raises
        `CapabilityError` where hardly any are."""
        x, lengths, z = derive(self.root, self.rules, self.words, frame.size, self.length)
        return Batch.of(x, lengths=lengths), z

    def free_parameters(self) -> int:
        """K - 1 roots, K ((K + P)^2 - 1) rules and P (V - 1) words."""
        rules = self.rule_logits.numel() - len(self.rule_logits)
        return len(self.root_logits) - 1 + rules + self.emissions.free_parameters()

    def check(self, batch: Batch) -> None:
        check_sentences(batch, self.words.shape[1])


def tiny(seed: int) -> tuple[PCFG, Batch]:
    """Two nonterminals, two preterminals, three words, and sentences of two to four words, two of them hidden."""
    generator = torch.Generator().manual_seed(seed)
    model = PCFG(symbols=3, nonterminals=2, preterminals=2, smoothing=0.0, length=4).double()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(3, (5, 4), generator=generator)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 1] = mask[2, 2] = False
    return model, Batch.of(x, mask, lengths=torch.tensor([4, 2, 3, 4, 3]))
