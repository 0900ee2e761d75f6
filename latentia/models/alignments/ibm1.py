"""IBM Model 1: each word of a sentence is the translation of one word of its source, any of them, or of none.

    z_t ~ Uniform{nowhere, 1, ..., J}
    x_t | z_t = j, source ~ Categorical(t(. | source_j))

    p(x | source) = prod_t 1 / (J + 1) sum_j t(x_t | source_j)

The source sentence is the context, z is where in it each word comes from, and the posterior is exact and independent
over words. EM has one optimum: log p(x) is concave in the table (Brown et al. 1993, section 4.2), so that every start
gives the same log p(x). Lengths are given.

    Brown, Della Pietra, Della Pietra and Mercer (1993), "The mathematics of statistical machine translation",
    section 4.2
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentia.distributions.alignment import LatentAlignment
from latentia.distributions.emissions.base import log_probabilities
from latentia.kernels import alignment as kernel
from latentia.model import Batch, DirectedModel, ExactModel, Frame, Statistics
from latentia.models.alignments.lexicon import Lexicon, Translated, pairs_of, source_rows


class IBMModel1(ExactModel, DirectedModel):
    """A table of translations, and no idea of order.

    z is one-hot, (B, T, J + 1): the first column is nowhere, column j the j-th source word.

    Args:
        symbols: V, target words (comes from the data).
        source_symbols: E, source words (comes from the context's data).
        smoothing: pseudo-count of each translation of each word: a Dirichlet(1 + smoothing) prior. With 0, words that
            never met have probability 0.
        length: T of the sentences that are generated where no lengths are given.
    """

    def __init__(self, symbols: int, source_symbols: int, smoothing: float = 1e-3, length: int = 10):
        super().__init__()
        self.lexicon, self.length = Lexicon(symbols, source_symbols, smoothing), length

    def prior(self, frame: Frame) -> LatentAlignment:
        rows, there = self._rows(frame)
        log_probs = -there.sum(-1, keepdim=True).to(self.lexicon.logits).log()
        node = torch.where(there, log_probs, -torch.inf).unsqueeze(1).expand(-1, frame.room(self.length), -1)
        return LatentAlignment({"node": node}, frame.ends(self.length, rows))

    def likelihood(self, z: Tensor, frame: Frame) -> Translated:
        rows, _ = self._rows(frame)
        chosen = rows.unsqueeze(1).expand(z.shape[1:]).expand(z.shape).gather(-1, z.argmax(-1, keepdim=True))
        return Translated(log_probabilities(self.lexicon.logits), chosen.squeeze(-1))

    def posterior(self, batch: Batch) -> LatentAlignment:
        rows, _ = self._rows(batch.frame)
        node = self.prior(batch.frame).log_potentials["node"] + self.lexicon.scores(batch, rows)
        return LatentAlignment({"node": node}, batch.ends)

    def alignments(self, batch: Batch) -> Tensor:
        """p(z_t = j | x, source), (B, T, J + 1), from nowhere first."""
        return self.posterior(batch).marginals

    def statistics(self, batch: Batch, posterior: LatentAlignment) -> Statistics:
        rows, _ = self._rows(batch.frame)
        return {"table": self.lexicon.counts(batch, rows, posterior.expectations()["node"])}

    def expect(self, batch: Batch, hard: bool = False) -> tuple[Statistics, Tensor]:
        if hard or batch.mask is not None or self.anchor.device.type != "cpu":
            return super().expect(batch, hard)
        found = kernel.independent(pairs_of(batch, self.lexicon.nowhere), self.lexicon.probs.detach(), 0.0, None)
        value = torch.where(batch.weights > 0, batch.weights * found.value, 0.0)
        return {"table": found.table}, value.double().sum()

    def update(self, total: Statistics) -> None:
        self.lexicon.update(total["table"])

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        self.lexicon.start(generator)

    def log_prior(self) -> Tensor:
        return self.lexicon.log_prior()

    def free_parameters(self) -> int:
        return self.lexicon.free_parameters()

    def check(self, batch: Batch) -> None:
        self.lexicon.check(batch)

    def _rows(self, frame: Frame) -> tuple[Tensor, Tensor]:
        """Rows of the table (B, J + 1), nowhere's first, and which columns there are."""
        rows, there = source_rows(frame.given(), self.lexicon.nowhere)
        rows = torch.cat([torch.full_like(rows[:, :1], self.lexicon.nowhere), rows], 1)
        return rows, torch.cat([torch.ones_like(there[:, :1]), there], 1)


def tiny(seed: int) -> tuple[IBMModel1, Batch]:
    """Two target words, two source words, and ragged pairs of at most three and two; one word hidden."""
    generator = torch.Generator().manual_seed(seed)
    model = IBMModel1(symbols=2, source_symbols=2, smoothing=0.0, length=3).double()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model, pairs_for_tiny(generator)


def pairs_for_tiny(generator: torch.Generator) -> Batch:
    """Pairs of two words on each side."""
    x = torch.randint(2, (5, 3), generator=generator)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 1] = False
    source = Batch(torch.tensor([[0, 1], [1, 0], [1, 1], [0, 1], [0, 0]]), lengths=torch.tensor([2, 1, 2, 2, 2]))
    return Batch.of(x, mask, torch.tensor([3, 2, 3, 1, 3]), context=source)
