"""IBM Model 2 with a tension towards the diagonal, the model of fast_align: words come from about the same place.

    z_t = nowhere with probability null, else j with one in proportion to exp(-tension |j / J - t / T|)
    x_t | z_t = j, source ~ Categorical(t(. | source_j))

Model 2 has a table of p(z_t = j | t, T, J) for all positions and lengths; this one says as much in one number, which is
learned with everything else (Dyer, Chahuneau and Smith 2013). The M-step of the tension is the root of a falling
function, found by halving an interval; log p(x | source) has several optima, and EM finds one. Lengths are given.

    Brown et al. (1993), "The mathematics of statistical machine translation", section 4.3
    Dyer, Chahuneau and Smith (2013), "A simple, fast, and effective reparameterization of IBM Model 2"
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentia.distributions.alignment import LatentAlignment
from latentia.distributions.emissions.base import log_probabilities
from latentia.errors import DataError, OptionError
from latentia.kernels import alignment as kernel
from latentia.model import Batch, DirectedModel, ExactModel, Frame, Statistics
from latentia.models.alignments.ibm1 import pairs_for_tiny
from latentia.models.alignments.lexicon import Lexicon, Translated, pairs_of, source_rows

STEEPEST = 200.0
"""The largest tension, either way: of words that all come from the very diagonal it would grow without end."""


class IBMModel2(ExactModel, DirectedModel):
    """A table of translations, a tension towards the diagonal, and the probability of coming from nowhere.

    z is one-hot, (B, T, J + 1): the first column is nowhere, column j the j-th source word.

    Args:
        symbols: V, target words (comes from the data).
        source_symbols: E, source words (comes from the context's data).
        smoothing: pseudo-count of each translation of each word: a Dirichlet(1 + smoothing) prior.
        tension: at the start.
        null: the probability of coming from nowhere, at the start.
        longest: the most words that a sentence may have on either side.
        length: T of the sentences that are generated where no lengths are given.
    """

    def __init__(
        self,
        symbols: int,
        source_symbols: int,
        smoothing: float = 1e-3,
        tension: float = 4.0,
        null: float = 0.08,
        longest: int = 100,
        length: int = 10,
    ):
        super().__init__()
        if not 0 < null < 1:
            raise OptionError(f"null={null}: it must lie between 0 and 1")
        self.lexicon, self.length, self.longest = Lexicon(symbols, source_symbols, smoothing), length, longest
        self.at_start = tension, null
        self.tension = nn.Parameter(torch.tensor(float(tension)))
        self.null_logit = nn.Parameter(torch.tensor(null).logit())

    @property
    def null(self) -> Tensor:
        """The probability of coming from nowhere."""
        return self.null_logit.sigmoid()

    def prior(self, frame: Frame) -> LatentAlignment:
        _, there = source_rows(frame.given(), self.lexicon.nowhere)
        ends = frame.ends(self.length, there)
        away = distances(frame.room(self.length), ends, there).to(self.tension)
        node = torch.where(there.unsqueeze(1), -self.tension * away, -torch.inf).log_softmax(-1)
        somewhere = node + nn.functional.logsigmoid(-self.null_logit)
        nowhere = nn.functional.logsigmoid(self.null_logit).expand_as(node[..., :1])
        return LatentAlignment({"node": torch.cat([nowhere, somewhere], -1)}, ends)

    def likelihood(self, z: Tensor, frame: Frame) -> Translated:
        rows = self._rows(frame)
        chosen = rows.unsqueeze(1).expand(z.shape[1:]).expand(z.shape).gather(-1, z.argmax(-1, keepdim=True))
        return Translated(log_probabilities(self.lexicon.logits), chosen.squeeze(-1))

    def posterior(self, batch: Batch) -> LatentAlignment:
        node = self.prior(batch.frame).log_potentials["node"] + self.lexicon.scores(batch, self._rows(batch.frame))
        return LatentAlignment({"node": node}, batch.ends)

    def alignments(self, batch: Batch) -> Tensor:
        """p(z_t = j | x, source), (B, T, J + 1), from nowhere first."""
        return self.posterior(batch).marginals

    def statistics(self, batch: Batch, posterior: LatentAlignment) -> Statistics:
        share = posterior.expectations()["node"]
        weighted = share * batch.weights.to(share)[:, None, None]
        away = distances(batch.x.shape[1], batch.ends, batch.frame.given().inside)
        place = torch.arange(1, batch.x.shape[1] + 1, device=share.device)
        sources = batch.frame.given().ends
        index = torch.broadcast_tensors(batch.ends.unsqueeze(-1), sources.unsqueeze(-1), place)
        words = share.new_zeros((self.longest + 1,) * 3)
        return {
            "table": self.lexicon.counts(batch, self._rows(batch.frame), share),
            "null": weighted[..., 0].sum(),
            "distance": (weighted[..., 1:] * away).sum(),
            "words": words.index_put_(index, weighted[..., 1:].sum(-1), accumulate=True),
        }

    def expect(self, batch: Batch, hard: bool = False) -> tuple[Statistics, Tensor]:
        if hard or batch.mask is not None or self.anchor.device.type != "cpu":
            return super().expect(batch, hard)
        given = pairs_of(batch, self.lexicon.nowhere), self.lexicon.probs.detach()
        found = kernel.independent(*given, self.tension.item(), self.null.item(), self.longest)
        value = torch.where(batch.weights > 0, batch.weights * found.value, 0.0)
        sums = {name: torch.tensor(getattr(found, name), dtype=torch.float64) for name in ("null", "distance")}
        return {"table": found.table, "words": found.words, **sums}, value.double().sum()

    def update(self, total: Statistics) -> None:
        self.lexicon.update(total["table"])
        nowhere, somewhere = total["null"], total["words"].sum()
        if float(nowhere + somewhere) > 0:
            share = (nowhere / (nowhere + somewhere)).clamp(1e-12, 1 - 1e-12)
            self.null_logit.data = share.logit().to(self.null_logit)
        if float(somewhere) > 0:
            self.tension.data = best_tension(total["words"], total["distance"]).to(self.tension)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        self.lexicon.start(generator)
        tension, null = self.at_start
        self.tension.data = torch.full_like(self.tension, tension)
        self.null_logit.data = torch.full_like(self.null_logit, null).logit()

    def log_prior(self) -> Tensor:
        return self.lexicon.log_prior()

    def free_parameters(self) -> int:
        return self.lexicon.free_parameters() + 2

    def check(self, batch: Batch) -> None:
        self.lexicon.check(batch)
        source = batch.frame.given()
        most = max(int(part.ends.max()) if part.size else 0 for part in (batch, source))
        if most > self.longest:
            raise DataError(f"a sentence has {most} words, and longest={self.longest}: raise it, or leave the pair out")

    def _rows(self, frame: Frame) -> Tensor:
        """Rows of the table (B, J + 1), nowhere's first."""
        rows, _ = source_rows(frame.given(), self.lexicon.nowhere)
        return torch.cat([torch.full_like(rows[:, :1], self.lexicon.nowhere), rows], 1)


def distances(steps: int, ends: Tensor, there: Tensor) -> Tensor:
    """|j / J - t / T|, (B, steps, J), for targets of lengths T (B,) and source positions that are there (B, J)."""
    t = torch.arange(1, steps + 1, device=there.device) / ends.clamp(min=1).unsqueeze(-1).double()
    j = torch.arange(1, there.shape[1] + 1, device=there.device) / there.sum(-1, keepdim=True).clamp(min=1).double()
    return (j.unsqueeze(1) - t.unsqueeze(-1)).abs()


def best_tension(words: Tensor, distance: Tensor, halvings: int = 60) -> Tensor:
    """The tension that makes a mean distance as likely as can be: where it is what the model expects.

    Args:
        words: (L, L, L), how many words come from somewhere, by T, J and t; distance: the sum of theirs.
    """
    target, source, place = words.nonzero().T
    count = words[target, source, place].double()
    most = int(source.max())
    there = torch.arange(most, device=words.device) < source.unsqueeze(-1)
    j = torch.arange(1, most + 1, device=words.device) / source.unsqueeze(-1).double()
    away = (j - (place.double() / target).unsqueeze(-1)).abs()
    low, high = -STEEPEST, STEEPEST
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        share = torch.where(there, -middle * away, -torch.inf).softmax(-1)
        expected = (count * (share * away).sum(-1)).sum()
        low, high = (middle, high) if float(expected) > float(distance) else (low, middle)
    return torch.tensor(0.5 * (low + high), dtype=torch.float64)


def tiny(seed: int) -> tuple[IBMModel2, Batch]:
    """Two target words, two source words, and ragged pairs of at most three and two; one word hidden."""
    generator = torch.Generator().manual_seed(seed)
    model = IBMModel2(symbols=2, source_symbols=2, smoothing=0.0, tension=2.0, null=0.3, longest=4, length=3).double()
    model.lexicon.logits.data = torch.randn(model.lexicon.logits.shape, generator=generator, dtype=torch.float64)
    return model, pairs_for_tiny(generator)
