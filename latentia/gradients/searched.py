"""The score function over the best z that a search finds, and a baseline by how probable x is at all."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentia.batch import Batch
from latentia.distributions.joint import Draw
from latentia.distributions.sentence import Written
from latentia.errors import CapabilityError
from latentia.gradients.expectation import Function, OfDraw, value
from latentia.gradients.score import COLUMNS, DECAY, LEAST, Baseline, ScoreFunction, credited
from latentia.networks.decoder import Decoder, begin, decoder


class SourceLanguageModel(Baseline):
    """b(x) = a log p_LM(x) + c, a language model's: of a sentence that is long or rare every z has a low p(x | z).

    Yin et al. (2018), section 3.2, where it is essential. a and c are those of least squares over the steps before,
    weighed down by 0.99 a step, for each column of f; the language model learns beside, by log p_LM(x). In the first
    step of all b is f itself.

    Args:
        hidden: units of the language model, an LSTM.

    Buffers: sums (COLUMNS, 5): running sums of 1, l, l^2, f and l f, for l = log p_LM(x).
    """

    sums: Tensor

    def __init__(self, hidden: int = 64):
        super().__init__()
        self.hidden = hidden
        self.network: Decoder | None = None
        self.register_buffer("sums", torch.zeros(COLUMNS, 5, dtype=torch.float64))

    @property
    def begun(self) -> bool:
        """Whether it has been told how many words there are."""
        return self.network is not None

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        if batch.x.is_floating_point() or batch.x.ndim != 2:
            raise CapabilityError("this baseline is a language model's, and x is no sentence: use running_mean or nvil")
        self.sums.zero_()
        symbols = int(torch.where(batch.observed, batch.x, 0).max()) + 1
        self.network = decoder("lstm", symbols, embedding=self.hidden, hidden=self.hidden, layers=1, dropout=0.0)
        begin(self.network, generator)

    def climbs(self, f: Function) -> Tensor:
        batch = f.batch if isinstance(f, OfDraw) else None
        if batch is None:
            raise CapabilityError("a baseline that depends on x needs an f with its batch: OfDraw(q, f, batch)")
        if self.network is None:
            raise CapabilityError("this baseline has not begun: call start(batch, generator), as a learner does")
        inside = batch.observed
        # other data may have words that those of the start had not
        x = torch.where(inside, batch.x, 0).clamp(max=self.network.symbols - 1)
        terms = Written(self.network, None, (1, batch.size)).terms(x, inside)
        return torch.where(inside, terms, 0.0).sum(-1).squeeze(0)

    def forward(self, f: Function, values: Tensor) -> Tensor:
        counts = torch.is_grad_enabled()
        with torch.no_grad():
            told = self.climbs(f).to(values).view(1, -1, 1)
            columns = values.unsqueeze(-1) if values.ndim == 2 else values
            if columns.shape[-1] > COLUMNS:
                raise CapabilityError(f"a learned baseline weighs {COLUMNS} columns, and f has {columns.shape[-1]}")
            expected = self._line(told, columns)
            if counts:
                self._count(told.expand_as(columns), columns)
        return expected.expand_as(columns).view_as(values)

    def _line(self, told: Tensor, columns: Tensor) -> Tensor:
        sums = self.sums[: columns.shape[-1]].to(columns)
        count = sums[:, 0]
        if not bool((count > 0).all()):
            return columns
        mean, square, target, product = (sums[:, 1:] / count.unsqueeze(-1)).unbind(-1)
        slope = (product - mean * target) / (square - mean.square()).clamp(min=LEAST**2)
        return target + slope * (told - mean)

    def _count(self, told: Tensor, columns: Tensor) -> None:
        terms = torch.stack([torch.ones_like(columns), told, told.square(), columns, told * columns], -1)
        now = terms.flatten(0, 1).mean(0).to(self.sums)
        self.sums[: len(now)].mul_(DECAY).add_(now * (1 - DECAY))


class _Said(Distribution):
    """A density of draws that is known as a number, which nothing flows through."""

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(self, log_prob: Tensor):
        super().__init__(log_prob.shape[1:], validate_args=False)
        self.said = log_prob

    def log_prob(self, value: Any) -> Tensor:
        return self.said


class Searched(nn.Module):
    """The score function over the `samples` most probable z that a beam search finds, each counting as q(z | x) among
    them: it has hardly any noise, and no bias but that of the z that are not found.

    Yin et al. (2018), section 3.2, whose search finds z that count alike. An improbable z then has as much to say as a
    probable one, and -log q(z | x) in its signal makes it more probable: with beta = 1 that undoes what labels taught.

    Args:
        baseline: see `score_function`; without one it is the mean of what was found, each z weighed as above, so that
            of an x of which every z is poor none becomes less probable than the rest.
    """

    def __init__(self, baseline: Baseline | None = None):
        super().__init__()
        self.score = None if baseline is None else ScoreFunction(baseline)

    def forward(self, q: Distribution, f: Function, samples: int) -> Tensor:
        search: Any = getattr(q, "beam", None)
        if search is None:
            raise CapabilityError(f"{type(q).__name__} cannot be searched: use rloo, which draws z")
        z, found = search(samples)
        log_q = q.log_prob(z)
        values = value(f, Draw(z, {"z": _Said(log_q.detach())}))
        share = found.softmax(0).view(*found.shape, *(1,) * (values.ndim - 2)).to(values)
        if self.score is not None:
            return (share * self.score.told(f, values, log_q)).sum(0)
        mean = (share * values).sum(0).detach()
        return (share * (values + credited(values - mean, log_q))).sum(0)
