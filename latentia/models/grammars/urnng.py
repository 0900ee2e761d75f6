"""Unsupervised recurrent neural network grammar: a sentence and its tree, written together, and no tree is ever seen.

    words are put on a stack (SHIFT), the two parts on its top become one (REDUCE), until there is one and it ENDs

    x_t | all before ~ Categorical(softmax(W h + b)),   REDUCE | all before ~ Bernoulli(sigmoid(w h + c)),
    h = stack LSTM(the parts on the stack),   part = tree LSTM(its first part, its second part)

    log p(x, z) = sum_t log p(x_t | x_<t, actions before it) + sum_a log p(action_a | words and actions before it)

    q(z | x) proportional to exp(sum of score[i, j] over the spans of z), score by a bidirectional LSTM over x
    log p(x) >= E_q [log p(x, z) - log q(z | x)]

Every word and action depends on all before them, so that nothing is independent of anything, and the sum over the trees
z, as many as Catalan's number, has no recursion. q is a tree CRF, whose trees are drawn exactly; its gradient is the
score function's, each draw against the others (Kim, Rush, Yu, Kuncoro, Dyer and Melis 2019, sections 2.1 to 2.4). The
generator is that of Dyer et al. (2016), over binary trees without labels. The end of a sentence is a choice where one
part is left, and counts. log p(x) is estimated by importance samples of q.

A word that is not observed is summed out for every tree, by all ways to fill it in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentia.distributions import Brackets, observed
from latentia.distributions.derivations import Derived
from latentia.distributions.sentence import AutoregressiveCategorical
from latentia.errors import OptionError
from latentia.model import Batch, Frame, LatentVariableModel
from latentia.models.grammars.sentences import check_written
from latentia.models.grammars.shift_reduce import ShiftReduce
from latentia.networks.decoder import begin, log_frequencies
from latentia.networks.span_scores import SpanScores


class URNNG(LatentVariableModel):
    """p(x, z) by shifts and reductions, q(z | x) a tree CRF.

    Args:
        symbols: V, the end among them (comes from the data).
        end: the symbol that ends a sentence; None: lengths are given (comes from the data).
        embedding: width of a word's vector and of a part's.
        hidden: width of the stack LSTM; layers: how many.
        reader: width of q's words and of its LSTM in each direction.
        dropout: of what goes into the stack LSTM and comes out of it, while learning.
        length: most words of a sentence that is generated; a longer one is drawn again.
    """

    def __init__(
        self,
        symbols: int,
        end: int | None = None,
        embedding: int = 128,
        hidden: int = 128,
        layers: int = 1,
        reader: int = 128,
        dropout: float = 0.0,
        length: int = 40,
    ):
        super().__init__()
        if min(symbols, embedding, hidden, layers, reader, length) < 1:
            raise OptionError("symbols, embedding, hidden, layers, reader and length must each be at least 1")
        if not 0 <= dropout < 1:
            raise OptionError(f"dropout={dropout}: it must be at least 0 and below 1")
        self.symbols, self.end, self.length = symbols, end, length
        self.generator = ShiftReduce(symbols, end, embedding, hidden, layers, dropout)
        # one word more: that which is not seen
        self.embedding = nn.Embedding(symbols + 1, reader)
        self.scores = SpanScores(reader, reader)
        begin(self, torch.Generator().manual_seed(0))

    def posterior(self, batch: Batch) -> Brackets:
        x = torch.where(batch.observed, batch.x, self.symbols).long()
        words = self.words(batch)
        return Brackets({"node": self.scores(self.embedding(x), words)}, words)

    def trees(self, batch: Batch) -> Brackets:
        """The trees that the sentences may have: q(z | x)."""
        return self.posterior(batch)

    def words(self, batch: Batch) -> Tensor:
        """How many words each sentence has, (B,): the last symbol is its end, where ends are modelled."""
        return batch.ends if self.end is None else (batch.ends - 1).clamp(min=0)

    def log_joint(self, batch: Batch, z: Tensor) -> Tensor:
        x, seen, steps = batch.x, batch.seen, batch.x.shape[1]
        if self.end is not None:
            # it is known that a sentence ends, hidden or not
            last = torch.arange(steps, device=x.device) == batch.ends.unsqueeze(-1) - 1
            x = torch.where(last, self.end, x)
            seen = None if seen is None else seen | last
        words = Derived(self.generator, z, self.words(batch))
        p = AutoregressiveCategorical(words, self.anchor.new_zeros(z.shape[:2]), steps, self.end, batch.ends)
        return observed.log_prob(p, x, seen)

    @torch.no_grad()
    def generate(self, frame: Frame) -> tuple[Batch, Tensor]:
        """Sentences, of at most `length` words where ends are modelled (given that they are no longer), and their trees
        (n, T, T). Raises `CapabilityError` where hardly any are so short."""
        if self.end is None:
            lengths = frame.ends(self.length, self.anchor)
            x, _, z = self.generator.write(frame.size, frame.room(self.length), lengths)
            return Batch.of(x, lengths=lengths), z
        x, words, z = self.generator.write(frame.size, self.length)
        x, z = nn.functional.pad(x, (0, 1)), nn.functional.pad(z, (0, 1, 0, 1))
        x[torch.arange(len(x), device=x.device), words] = self.end
        return Batch.of(x, lengths=words + 1), z

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Random networks; the words' biases say how often they are in the data."""
        begin(self, generator)
        self.generator.bias.data = log_frequencies(batch.x, batch.observed, batch.weights, self.generator.bias)

    def check(self, batch: Batch) -> None:
        check_written(batch, self.symbols, self.end)


def tiny(seed: int) -> tuple[URNNG, Batch]:
    """Two words and the end, and sentences of one to three words, one of them hidden."""
    model = URNNG(3, 2, embedding=3, hidden=4, reader=3, length=3).double()
    x = torch.tensor([[0, 1, 0, 2], [1, 0, 2, 0], [1, 0, 1, 2], [1, 2, 0, 0], [0, 1, 1, 2]])
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[2, 1] = False
    return _scattered(model, seed), Batch.of(x, mask, torch.tensor([4, 3, 4, 2, 4]))


def tiny_layers(seed: int) -> tuple[URNNG, Batch]:
    """Two words, lengths that are given, and two layers of the stack."""
    model = URNNG(2, embedding=2, hidden=2, layers=2, reader=2, length=4).double()
    x = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [1, 0, 1, 0]])
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 1] = False
    return _scattered(model, seed), Batch.of(x, mask, torch.tensor([4, 2, 3]))


def _scattered(model: URNNG, seed: int) -> URNNG:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        # most units at work, so that a gradient reaches every weight
        shift = 1.0 if name.endswith("inner.bias") else 0.0
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64) + shift
    return model
