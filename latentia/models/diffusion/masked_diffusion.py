"""Masked diffusion: a text whose symbols are shown one by one, in any order, each from all that are there already.

    q(z_t | x): each of L symbols hidden with probability t, on its own
    p(x): from a text that is hidden as a whole, by showing what is hidden; each symbol drawn from what a transformer
          that reads both ways makes of those that are shown

    log p(x) >= E_t[-(1 / t) sum_l hidden -log p(x_l | z_t)] = E over orders of sum_l log p(x_l | those shown before)

A text is its symbols, the end, and ends again up to L: their number is modelled by them, and all L count. What is
learned and evaluated is the bound: no density is known, so that importance weighting is refused. The latent variable of
the model is the order, over which the bound averages; its z has one value, so that all that is asked of other models
can be asked of it (KL and mutual information are 0).

Sahoo et al. (2024), "Simple and effective masked diffusion language models" (MDLM), section 3; Shi et al. (2024);
Hoogeboom et al. (2022), "Autoregressive diffusion models", section 3, for the bound as a mean over orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from latentia.batch import Batch, Frame
from latentia.distributions import OneHot
from latentia.distributions.masked import Guessed, MaskedSymbols, Showing
from latentia.distributions.sentence import check_sentences
from latentia.errors import DataError
from latentia.model import DirectedModel
from latentia.models.diffusion.told import check_context, told
from latentia.networks.columns import DroppedColumns
from latentia.networks.decoder import begin
from latentia.networks.transformer import Infiller


class MaskedDiffusion(DirectedModel):
    """p(x) by showing L symbols in a random order; `elbo` is its bound.

    Args:
        symbols: V, the end among them (comes from the data).
        end: the symbol that ends a text; None: lengths are given (comes from the data).
        embedding: width of a symbol's vector.
        hidden: width of the transformer; layers: how many blocks; heads: of it.
        positions: learned; or rotary, which tells how far steps are apart alone: where all is hidden they are then all
            alike, as is right of texts that begin anywhere.
        dropout: of what goes into the network and comes out of it, while learning.
        length: L. A text has so many symbols at most, its end among them, and shorter ones are filled up with ends: the
            network's time goes with L. Where lengths are given it is that of what is generated.
        context: for p(x | context), of each column of the context its number of categories, 0 for numbers (comes from
            the data).
        drop_context: share of the data whose context is hidden while learning, for guidance and for draws without one.
        steps: of a draw; None: a symbol at a time.
        guidance: how much the context counts in draws, see `Showing`. Both are kept in `sampling`.
        bound_steps: T of the bound in so many steps; None for that of continuous time, which is larger.

    Attributes:
        sampling: a `Showing`: steps and guidance of what is drawn.
    """

    def __init__(
        self,
        symbols: int,
        end: int | None = None,
        embedding: int = 128,
        hidden: int = 128,
        layers: int = 2,
        heads: int = 4,
        positions: Literal["rotary", "learned"] = "learned",
        dropout: float = 0.0,
        length: int = 64,
        context: Sequence[int] = (),
        drop_context: float = 0.1,
        steps: int | None = None,
        guidance: float = 1.0,
        bound_steps: int | None = None,
    ):
        super().__init__()
        self.symbols, self.end, self.length, self.bound_steps = symbols, end, length, bound_steps
        self.sampling = Showing(steps, guidance)
        self.given = DroppedColumns(context, drop_context) if context else None
        beside = self.given.outputs if self.given else 0
        self.network = Infiller(symbols, embedding, hidden, layers, dropout, heads, positions, length, beside)

    def prior(self, frame: Frame) -> OneHot:
        """One value."""
        return OneHot({"node": self.anchor.new_zeros(frame.size, 1)})

    def posterior(self, batch: Batch) -> OneHot:
        """The same: what is inferred is the order, and that is in the bound."""
        return self.prior(batch.frame)

    def likelihood(self, z: Tensor, frame: Frame) -> MaskedSymbols:
        given, none = told(self.given, frame, self.anchor)
        guess = Guessed(self.network, given, z.shape[:2], none, self.sampling.guidance)
        steps = frame.room(self.length) if self.end is None else self.length
        lengths = frame.lengths if self.end is None else None
        options = {"draw_steps": self.sampling.steps, "bound_steps": self.bound_steps}
        return MaskedSymbols(guess, z[..., 0], steps, self.end, lengths=lengths, **options)

    @torch.no_grad()
    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Random networks; each symbol's bias says how often it is in the data, filled up with ends."""
        begin(self.network, generator)
        self.network.hole.zero_()
        counts = torch.zeros_like(self.network.bias)
        seen = batch.observed
        weight = batch.weights.unsqueeze(-1).to(counts)
        counts.index_add_(0, torch.where(seen, batch.x, 0).long().flatten(), (weight * seen).flatten())
        if self.end is not None:
            counts[self.end] += (weight.squeeze(-1) * (self.length - batch.ends).clamp(min=0)).sum()
        self.network.bias.copy_((counts + 1).log().log_softmax(-1))

    def check(self, batch: Batch) -> None:
        check_sentences(batch.x, batch.observed, self.symbols, self.end)
        longest = int(batch.ends.max()) if batch.size else 0
        if self.end is not None and longest > self.length:
            raise DataError(
                f"a text of {longest} symbols, and this model has {self.length} at most: cut it (--max_length "
                f"{self.length}), or give the model as many (--model.length {longest})"
            )
        check_context(self.given, batch)


def tiny(seed: int) -> tuple[MaskedDiffusion, Batch]:
    """Three symbols of which the last is the end, and texts of at most three."""
    generator = torch.Generator().manual_seed(seed)
    model = MaskedDiffusion(3, 2, embedding=3, hidden=4, layers=1, heads=2, length=3).double()
    return model, _given(model, generator)


def tiny_conditional(seed: int) -> tuple[MaskedDiffusion, Batch]:
    """The same given one of two classes, which is hidden once."""
    generator = torch.Generator().manual_seed(seed)
    model = MaskedDiffusion(3, 2, 4, 4, 1, 2, "rotary", length=3, context=(2,)).double()
    batch = _given(model, generator)
    shown = torch.tensor([[True], [True], [False], [True], [True]])
    classes = torch.tensor([[0], [1], [0], [1], [0]]).double()
    return model, batch._replace(context=Batch.of(classes, shown))


def _given(model: MaskedDiffusion, generator: torch.Generator) -> Batch:
    for parameter in model.parameters():
        parameter.data = 0.6 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.tensor([[0, 1, 2], [1, 2, 0], [1, 0, 1], [2, 0, 0], [0, 2, 0]])
    return Batch.of(x, lengths=torch.tensor([3, 2, 3, 1, 2]))
