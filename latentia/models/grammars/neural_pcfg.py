"""Neural PCFG: a probabilistic context-free grammar whose rules are written by networks.

    S -> A with root[A],   A -> B C with rules[A, B, C],   T -> w with words[T, w]

    root = softmax(f(w_S)),   rules[A] = softmax(U w_A + b),   words[T] = softmax(g(w_T))

Every label has an embedding w; f and g are residual networks. Labels that are near each other share what is learned,
which is what lets a gradient find a grammar where EM on the tables themselves does not (Kim, Dyer and Rush 2019,
section 2.1).

    log p(x) = log sum_z p(x, z), over all labelled binary trees z, by the inside recursion

The posterior over trees is exact, but there is no M-step in closed form: learn by `Gradient(objective=exact)`. A
grammar says itself where a sentence ends. A word that is not observed is hidden, and is summed out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentia.distributions import Tree
from latentia.errors import OptionError
from latentia.model import Batch, Frame, TractableModel
from latentia.models.grammars.networks import GrammarNetwork
from latentia.models.grammars.sentences import check_sentences


class NeuralPCFG(TractableModel):
    """p(x, z) = root[A] prod rules[A, B, C] prod words[T, w] over the nodes of the tree z.

    Args:
        symbols: V (comes from the data).
        nonterminals: K, the labels of constituents of two words or more.
        preterminals: P, the labels of words.
        hidden: width of the embeddings and of the networks.
        length: most words of a sentence that is generated; a longer one is drawn again.
    """

    any_length = True

    def __init__(
        self, symbols: int, nonterminals: int = 30, preterminals: int = 60, hidden: int = 256, length: int = 40
    ):
        super().__init__()
        if min(symbols, nonterminals, preterminals, hidden) < 1 or length < 2:
            raise OptionError(
                "symbols, nonterminals, preterminals and hidden must each be at least 1, and length at least 2"
            )
        self.symbols, self.length = symbols, length
        self.grammar = GrammarNetwork(symbols, nonterminals, preterminals, hidden)
        self.grammar.begin(torch.Generator().manual_seed(0))

    def posterior(self, batch: Batch) -> Tree:
        return self.grammar().trees(batch.x, batch.mask, batch.ends)

    def trees(self, batch: Batch) -> Tree:
        """The trees that the sentences may have: p(z | x)."""
        return self.posterior(batch)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        self.grammar.begin(generator)

    @torch.no_grad()
    def generate(self, frame: Frame) -> tuple[Batch, Tensor]:
        """Sentences of at most `length` words, given that they are no longer, and their trees (n, N, N, K + P). Raises
        `CapabilityError` where hardly any are."""
        x, lengths, z = self.grammar().derive(frame.size, self.length)
        return Batch.of(x, lengths=lengths), z

    def free_parameters(self) -> int:
        """K - 1 roots, K ((K + P)^2 - 1) rules and P (V - 1) words, or the networks' entries where those are fewer."""
        first, last = len(self.grammar.nonterminals), len(self.grammar.preterminals)
        tables = first - 1 + first * (self.grammar.labels**2 - 1) + last * (self.symbols - 1)
        return min(tables, super().free_parameters())

    def check(self, batch: Batch) -> None:
        check_sentences(batch, self.symbols)


def tiny(seed: int) -> tuple[NeuralPCFG, Batch]:
    """Two nonterminals, two preterminals, three words, and sentences of two to four words, two of them hidden."""
    generator = torch.Generator().manual_seed(seed)
    model = NeuralPCFG(symbols=3, nonterminals=2, preterminals=2, hidden=6, length=4).double()
    for name, parameter in model.named_parameters():
        # most units at work, so that a gradient reaches every weight
        shift = 1.0 if ".inner.bias" in name or ".outer.bias" in name else 0.0
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64) + shift
    x = torch.randint(3, (5, 4), generator=generator)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 1] = mask[2, 2] = False
    return model, Batch.of(x, mask, lengths=torch.tensor([4, 2, 3, 4, 3]))
