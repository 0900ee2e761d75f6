"""Compound PCFG: every sentence has a grammar of its own, drawn around one that all share.

    z ~ Normal(0, I)
    S -> A with root_z[A],   A -> B C with rules_z[A, B, C],   T -> w with words_z[T, w]

    root_z = softmax(f(w_S, z)),   rules_z[A] = softmax(U [w_A, z] + b),   words_z[T] = softmax(g(w_T, z))

    q(z | x) = Normal(mean(x), diag(variance(x)))
    log p(x) >= E_q(z|x) log p(x | z) - KL(q(z | x) || p(z)),   log p(x | z) = log sum_tree p(x, tree | z)

Given z the rules of different places in a tree are independent, and once z is unknown they are not: what a
context-free grammar cannot say, z can. The trees are summed out exactly inside the likelihood, and z by a bound that is
learned with the reparameterised gradient (Kim, Dyer and Rush 2019, section 2.2 and 2.3). The encoder is a bidirectional
LSTM, its states' largest values over the words. A word that is not observed is hidden, and is summed out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from latentia.distributions import Tree
from latentia.distributions.yields import Grammar, Yield
from latentia.errors import OptionError
from latentia.model import Batch, DirectedModel, Frame
from latentia.models.grammars.networks import GrammarNetwork
from latentia.models.grammars.sentences import check_sentences
from latentia.networks.mlp import glorot
from latentia.networks.ragged import states_of


class CompoundPCFG(DirectedModel):
    """p(x, z) = p(z) sum_tree p(x, tree | grammar(z)), p(z) = Normal(0, I).

    Args:
        symbols: V (comes from the data).
        latent: dimensions of z.
        nonterminals: K, the labels of constituents of two words or more.
        preterminals: P, the labels of words.
        hidden: width of the labels' embeddings and of the networks.
        encoder: width of the LSTM in each direction, and of its words' embeddings.
        length: most words of a sentence that is generated; a longer one is drawn again.
    """

    any_length = True

    def __init__(
        self,
        symbols: int,
        latent: int = 64,
        nonterminals: int = 30,
        preterminals: int = 60,
        hidden: int = 256,
        encoder: int = 256,
        length: int = 40,
    ):
        super().__init__()
        if min(symbols, latent, nonterminals, preterminals, hidden, encoder) < 1 or length < 2:
            raise OptionError(
                "symbols, latent, nonterminals, preterminals, hidden and encoder must each be at least 1, and length "
                "at least 2"
            )
        self.symbols, self.latent, self.length = symbols, latent, length
        self.grammar = GrammarNetwork(symbols, nonterminals, preterminals, hidden, latent)
        # one word more: that which is not seen
        self.embedding = nn.Parameter(torch.empty(symbols + 1, encoder))
        self.encoder = nn.LSTM(encoder, encoder, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * encoder, 2 * latent)
        self._begin(torch.Generator().manual_seed(0))

    def prior(self, frame: Frame) -> Independent:
        zero = self.anchor.new_zeros(frame.size, self.latent)
        return Independent(Normal(zero, torch.ones_like(zero), validate_args=False), 1, validate_args=False)

    def likelihood(self, z: Tensor, frame: Frame) -> Yield:
        return Yield(self.grammar, z, frame.room(self.length), frame.lengths, self.length)

    def posterior(self, batch: Batch) -> Independent:
        if not batch.size:
            return self.prior(batch.frame)
        symbols = torch.where(batch.observed, batch.x, self.symbols).long()
        words = nn.functional.embedding(symbols, self.embedding)
        states = states_of(self.encoder, words, batch.ends)
        largest = states.masked_fill(~batch.inside.unsqueeze(-1), -torch.inf).amax(1)
        mean, log_scale = self.head(largest).chunk(2, -1)
        return Independent(Normal(mean, log_scale.exp(), validate_args=False), 1, validate_args=False)

    def trees(self, batch: Batch) -> Tree:
        """The trees that the sentences may have, at the mean of q(z | x): p(tree | x, z) (Kim et al. 2019, section
        3)."""
        return self.grammar(self.posterior(batch).mean).trees(batch.x, batch.mask, batch.ends)

    @torch.no_grad()
    def generate(self, frame: Frame) -> tuple[Batch, Tensor]:
        """Sentences of at most `length` words, given that they are no longer, and z (n, latent). Raises
        `CapabilityError` where hardly any are."""
        z = self.prior(frame).sample()
        grammar: Grammar = self.grammar(z)
        x, lengths, _ = grammar.derive(frame.size, self.length)
        return Batch.of(x, lengths=lengths), z

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        self._begin(generator)

    @torch.no_grad()
    def _begin(self, generator: torch.Generator) -> None:
        self.grammar.begin(generator)
        glorot(self.head, generator)
        self.embedding.copy_(torch.empty(self.embedding.shape).normal_(generator=generator))
        bound = self.encoder.hidden_size**-0.5
        for weight in self.encoder.parameters():
            weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))

    def check(self, batch: Batch) -> None:
        check_sentences(batch, self.symbols)


def tiny(seed: int) -> tuple[CompoundPCFG, Batch]:
    """One latent dimension, two nonterminals, two preterminals, three words, and sentences of two to four words, two of
    them hidden."""
    generator = torch.Generator().manual_seed(seed)
    model = CompoundPCFG(3, latent=1, nonterminals=2, preterminals=2, hidden=6, encoder=2, length=4).double()
    for name, parameter in model.named_parameters():
        # most units at work, so that a gradient reaches every weight
        shift = 1.0 if ".inner.bias" in name or ".outer.bias" in name else 0.0
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64) + shift
    x = torch.randint(3, (5, 4), generator=generator)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 1] = mask[2, 2] = False
    return model, Batch.of(x, mask, lengths=torch.tensor([4, 2, 3, 4, 3]))
