"""What a source word is translated as: one table, which all alignment models of words share."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, constraints

from latentia.distributions import observed
from latentia.distributions.emissions.base import (
    impossible,
    log_normalised,
    log_probabilities,
    possible,
    smoothed,
)
from latentia.distributions.emissions.rows import known_symbols
from latentia.errors import DataError, check_not_negative
from latentia.kernels.alignment import Pairs
from latentia.model import Batch


class Lexicon(nn.Module):
    """p(word | source word) = probs[source word, word]; the last row is of words that come from nowhere.

    Args:
        symbols: V, target words.
        source_symbols: E, source words.
        smoothing: pseudo-count of each word in each row, a Dirichlet(1 + smoothing) prior.
    """

    def __init__(self, symbols: int, source_symbols: int, smoothing: float):
        super().__init__()
        check_not_negative(smoothing=smoothing)
        self.smoothing = smoothing
        self.logits = nn.Parameter(torch.zeros(source_symbols + 1, symbols))

    @property
    def probs(self) -> Tensor:
        """(E + 1, V), rows sum to one."""
        return self.logits.softmax(-1)

    @property
    def nowhere(self) -> int:
        """The last row."""
        return len(self.logits) - 1

    def start(self, generator: torch.Generator) -> None:
        """All words alike but for a tenth."""
        noise = torch.rand(self.logits.shape, generator=generator, dtype=torch.float32)
        self.logits.data = (1 + 0.1 * noise).log().to(self.logits).log_softmax(-1)

    def scores(self, batch: Batch, rows: Tensor) -> Tensor:
        """log p(x_t | row), (B, T, K), for rows (B, K); 0 where x_t is hidden."""
        x = self._words(batch)
        found = log_probabilities(self.logits)[rows.unsqueeze(1), x.unsqueeze(-1)]
        return torch.where(batch.observed.unsqueeze(-1), found, 0.0)

    def counts(self, batch: Batch, rows: Tensor, share: Tensor) -> Tensor:
        """How often each row gave each word, (E + 1, V), with shares (B, T, K) of rows (B, K), weighted."""
        x = self._words(batch).unsqueeze(-1).expand(share.shape)
        share = share * (batch.observed * batch.weights.to(share).unsqueeze(-1)).unsqueeze(-1)
        index = rows.unsqueeze(1).expand(share.shape), x
        return torch.zeros_like(self.logits, dtype=share.dtype).index_put_(index, share, accumulate=True)

    def _words(self, batch: Batch) -> Tensor:
        """x, and 0 where it is hidden or has ended."""
        return known_symbols(batch.x, batch.observed, self.logits.shape[1])

    def update(self, counts: Tensor) -> None:
        """A row without a count, and without a prior, keeps what it has."""
        whole = smoothed(counts, self.smoothing, self.logits.log_softmax(-1), strict=True)
        there = whole.sum(-1, keepdim=True) > 0
        self.logits.data = torch.where(there, log_normalised(whole), self.logits.data.to(whole)).to(self.logits)

    def log_prior(self) -> Tensor:
        if not self.smoothing:
            return self.logits.new_zeros(())
        return self.smoothing * possible(self.logits.log_softmax(-1)).sum()

    def free_parameters(self) -> int:
        """What is possible, less one for each row."""
        there = ~impossible(self.logits.log_softmax(-1))
        return int(there.sum()) - len(self.logits)

    def check(self, batch: Batch) -> None:
        """Raise `DataError` where x is no sentence of these words, or its context none of the source's."""
        if batch.x.ndim != 2 or batch.x.is_floating_point():
            raise DataError(f"words are aligned, x (B, T) of symbols, and the data have shape {tuple(batch.x.shape)}")
        source = batch.context
        if source is None or source.x.ndim != 2 or source.x.is_floating_point():
            raise DataError(
                "words are aligned to those of a source sentence, (B, J) of symbols: give it as the context"
            )
        if source.size and int(source.ends.min()) < 1:
            raise DataError("a source sentence has no word at all: leave the pair out")
        for what, words, most in (("x", batch, self.logits.shape[1]), ("the source", source, self.nowhere)):
            if words.x.numel() and not 0 <= int(words.x.min()) <= int(words.x.max()) < most:
                raise DataError(f"{what} has symbols up to {int(words.x.max())}, and the table those below {most}")


def source_rows(source: Batch, nowhere: int) -> tuple[Tensor, Tensor]:
    """Rows (B, J) of the table, and (B, J) where there is a source word; a hidden one, and what is beyond the end, has
    nowhere's row."""
    there = source.inside
    seen = there if source.mask is None else there & source.mask
    return torch.where(seen, source.x, nowhere), there


def pairs_of(batch: Batch, nowhere: int) -> Pairs:
    """What the kernels take."""
    source = batch.frame.given()
    rows, _ = source_rows(source, nowhere)
    return Pairs(batch.x, batch.ends, rows, source.ends, batch.weights)


class Translated(Distribution):
    """Words of which each is drawn from a row of the table: batch shape (S, B, T).

    Args:
        log_probs: (E + 1, V), in nats; rows: (S, B, T).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]  # torch declares a property

    def __init__(self, log_probs: Tensor, rows: Tensor):
        self.log_probs, self.rows = log_probs, rows
        super().__init__(rows.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.log_probs.shape[-1] - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_probs[self.rows, value.long().clamp(0, self.log_probs.shape[-1] - 1)]

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        logits = self.log_probs[self.rows]
        return Categorical(logits=logits, validate_args=False).sample(torch.Size(sample_shape))


@observed.expected.register
def _(p: Translated) -> Tensor:
    levels = torch.arange(p.log_probs.shape[1], device=p.rows.device).to(p.log_probs)
    return (p.log_probs.exp() @ levels)[p.rows]
