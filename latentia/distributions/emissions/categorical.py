"""K categorical distributions over one symbol, and over vectors of symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from latentia.distributions.columns import check_columns
from latentia.distributions.emissions.base import (
    Emissions,
    Statistics,
    log_normalised,
    log_probabilities,
    possible,
    smoothed,
)
from latentia.distributions.emissions.rows import (
    check_features,
    check_symbols,
    known_symbols,
    mixed,
    normalised_or_kept,
    some_rows,
)
from latentia.distributions.semiring import IMPOSSIBLE
from latentia.errors import OptionError, check_not_negative
from latentia.kernels.bags import spread_rows, sum_rows


class SymbolTable(NamedTuple):
    """p(x = v | z = k) of any origin, such as a network's: what `Emitted` asks for.

    Attributes:
        log_probs: (K, V), in nats.
    """

    log_probs: Tensor

    def log_prob(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """log p(x | z = k) of what is observed, in nats, (M, K)."""
        symbols = known_symbols(x, mask, self.log_probs.shape[1])
        log_prob = nn.functional.embedding(symbols, self.log_probs.mT)
        return log_prob if mask is None else torch.where(mask.unsqueeze(-1), log_prob, 0.0)

    def given(self, z: Tensor) -> Distribution:
        # beyond the end of a sequence z is zero, and any symbol as good as another
        outside = (z.sum(-1, keepdim=True) == 0).to(z)
        return Categorical(probs=z @ self.log_probs.exp() + outside, validate_args=False)

    def conditional(self, x: Tensor, mask: Tensor, z: Tensor) -> Distribution:
        return self.given(z)


class CategoricalEmissions(Emissions):
    """p(x = v | z = k) = probs[k, v], symbols x in 0..V-1.

    Args:
        states: K.
        symbols: V.
        smoothing: pseudo-count of each symbol in each state, a Dirichlet(1 + smoothing) prior.
    """

    def __init__(self, states: int, symbols: int, smoothing: float = 0.0):
        super().__init__()
        check_not_negative(smoothing=smoothing)
        self.smoothing = smoothing
        self.logits = nn.Parameter(torch.zeros(states, symbols))

    @property
    def probs(self) -> Tensor:
        """(K, V), rows sum to one."""
        return self.logits.softmax(-1)

    def log_prob(self, x: Tensor, mask: Tensor | None) -> Tensor:
        log_prob = log_probabilities(self.logits).T[known_symbols(x, mask, self.logits.shape[1])]
        return log_prob if mask is None else torch.where(mask.unsqueeze(-1), log_prob, 0.0)

    def given(self, z: Tensor) -> Distribution:
        # beyond the end of a sequence z is zero, and any symbol as good as another
        outside = (z.sum(-1, keepdim=True) == 0).to(z)
        return Categorical(probs=z @ self.probs + outside, validate_args=False)

    def start(self, x: Tensor, mask: Tensor | None, weight: Tensor, generator: torch.Generator) -> None:
        weight = weight if mask is None else weight * mask
        x = known_symbols(x, mask, self.logits.shape[1])
        counts = torch.zeros_like(self.logits[0]).index_add_(0, x, weight.to(self.logits))
        frequency = (counts + 1e-2) / (counts + 1e-2).sum()
        noise = torch.empty_like(self.logits).exponential_(generator=generator)
        self.logits.data = (frequency * (noise + 0.1)).log().log_softmax(-1)

    def statistics(self, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Statistics:
        observed = responsibility if mask is None else responsibility * mask.unsqueeze(-1)
        x = known_symbols(x, mask, self.logits.shape[1])
        counts = torch.zeros_like(self.logits.T).index_add_(0, x, observed.to(self.logits)).T
        if mask is not None:
            # a missing symbol is expected to be what the present parameters say
            counts = counts + (responsibility - observed).sum(0).unsqueeze(-1) * self.probs
        return {"symbol": counts}

    def update(self, total: Statistics) -> None:
        counts = smoothed(total["symbol"], self.smoothing, self.logits.log_softmax(-1))
        # a state that nothing visits keeps what it had
        self.logits.data = torch.where(counts.sum(-1, keepdim=True) > 0, log_normalised(counts), self.logits.data)

    def free_parameters(self) -> int:
        """K (V - 1): rows sum to one."""
        return self.logits.numel() - len(self.logits)

    def log_prior(self) -> Tensor:
        return self.smoothing * possible(self.logits.log_softmax(-1)).sum()

    def check(self, x: Tensor, mask: Tensor | None) -> None:
        check_symbols(x, mask, self.logits.shape[1])


class CategoricalVectorEmissions(Emissions):
    """p(x | z = k) = prod_d probs[k, d, x_d], or prod_t probs[k, 0, x_t]: vectors of symbols, independent given z.

    Args:
        states: K.
        symbols: V, x is in 0..V-1; or of each column its own number, V_d. V is then the largest of them.
        features: D, columns with a distribution each; None is a bag of words: any number of symbols, all drawn from the
            same distribution.
        smoothing: s, pseudo-count of a symbol in each state and column, on average: s V_d pseudo-counts divided as the
            column's own frequencies f, a Dirichlet(1 + s V_d f) prior. `start` takes f from the data; before it is
            1 / V_d.

    Buffers: average (D, V), the frequencies f; shown (D, V), which levels of each column the data have had.

    Raises:
        OptionError: as many numbers of symbols as there are columns are asked for, and others given.
    """

    def __init__(self, states: int, symbols: int | Sequence[int], features: int | None = None, smoothing: float = 0.0):
        super().__init__()
        check_not_negative(smoothing=smoothing)
        each = [symbols] * (features or 1) if isinstance(symbols, int) else list(symbols)
        if not isinstance(symbols, int) and len(each) != features:
            raise OptionError(f"symbols={each}: give one number for all columns, or one for each of {features}")
        self.features, self.smoothing, self.symbols = features, smoothing, tuple(each)
        self.logits = nn.Parameter(torch.zeros(states, features or 1, max(each)))
        levels = torch.tensor(each).unsqueeze(-1)
        self.average: Tensor
        self.shown: Tensor
        self.own: Tensor
        # which levels a column has; of the model, so that it is not kept with the parameters
        self.register_buffer("own", torch.arange(max(each)) < levels, persistent=False)
        self.register_buffer("average", torch.where(self.own, 1 / levels, 0.0))
        # not known before `start`: all of them
        self.register_buffer("shown", self.own.clone())
        self.register_load_state_dict_pre_hook(_all_shown)

    @property
    def log_probs(self) -> Tensor:
        """log p(x_d = v | z = k), (K, D, V), `IMPOSSIBLE` for a level that its column does not have."""
        plain = len(set(self.symbols)) == 1
        return log_probabilities(self.logits if plain else torch.where(self.own, self.logits, IMPOSSIBLE))

    @property
    def probs(self) -> Tensor:
        """(K, D, V), or (K, 1, V) for bags; the last dimension sums to one."""
        return self.logits.softmax(-1) if len(set(self.symbols)) == 1 else self.log_probs.exp()

    def log_prob(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return sum_rows(self.log_probs.flatten(1).T, self._entries(x, mask), mask)

    def _entries(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Where each value of x is found in the flattened logits, (K, D V)."""
        x = known_symbols(x, mask, self.logits.shape[-1])
        if self.features is None:
            return x
        return x + self.logits.shape[-1] * torch.arange(self.features, device=x.device)

    def given(self, z: Tensor) -> Categorical:
        """Batch shape (..., D), or (..., 1) for the symbols of a bag."""
        return Categorical(probs=torch.einsum("...k,kdv->...dv", z, self.probs), validate_args=False)

    def start(self, x: Tensor, mask: Tensor | None, weight: Tensor, generator: torch.Generator) -> None:
        """Halfway between the frequencies in a datum for each state and those in all data."""
        count = self._counts(x, mask, weight.to(self.logits).unsqueeze(1))[0]
        self.shown.copy_(count > 0)
        # half a pseudo-datum in all: no symbol is impossible because it has not been seen yet
        count = count + 0.5 * self.own / self.own.sum(-1, keepdim=True)
        self.average.copy_(count / count.sum(-1, keepdim=True))
        # a datum of which nothing is seen shows a state nothing of its own
        present = weight if mask is None else weight * mask.any(1)
        chosen = some_rows(present, len(self.logits), generator)
        one = torch.eye(len(chosen)).to(self.logits)
        corner = self._counts(x[chosen], None if mask is None else mask[chosen], one) + self.average
        corner = corner / corner.sum(-1, keepdim=True)
        self.logits.data = mixed(corner, self.average, generator).log().log_softmax(-1)

    def _counts(self, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Tensor:
        """Weighted numbers of each symbol in each column, (K, D, V)."""
        counts = spread_rows(responsibility, self._entries(x, mask), mask, self.logits[0].numel())
        return counts.T.unflatten(1, self.logits.shape[1:])

    def statistics(self, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Statistics:
        """Weighted numbers of each symbol in each column, float64 (K, D, V)."""
        return {"symbol": self._counts(x, mask, responsibility).double()}

    def update(self, total: Statistics) -> None:
        self.shown.logical_or_(total["symbol"].sum(0) > 0)
        counts = smoothed(total["symbol"], self._prior.double(), self.log_probs)
        self.logits.data = normalised_or_kept(counts, self.logits)

    def free_parameters(self) -> int:
        """K (V_d - 1) summed over columns, V_d the levels that column d has had, or K (V - 1) for bags: probabilities
        sum to one, and of a level that no datum has nothing is learned."""
        if self.features is None:
            return self.logits[..., 1:].numel()
        return len(self.logits) * int((self.shown.sum(-1) - 1).clamp(min=0).sum())

    @property
    def _prior(self) -> Tensor:
        """Pseudo-counts, (D, V)."""
        return self.smoothing * self.own.sum(-1, keepdim=True) * self.average

    def log_prior(self) -> Tensor:
        return (possible(self.log_probs) * self._prior).sum()

    def check(self, x: Tensor, mask: Tensor | None) -> None:
        if self.features is not None:
            check_features(x, self.features)
        if len(set(self.symbols)) > 1:
            check_columns(self.symbols, x, mask)
        check_symbols(x, mask, self.logits.shape[-1])


def _all_shown(module: CategoricalVectorEmissions, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """What was saved before levels were counted has all of them."""
    state.setdefault(prefix + "shown", module.own.clone())
