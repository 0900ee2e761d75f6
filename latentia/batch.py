"""What models are given: a `Batch` of data, and a `Frame`, which is what generation may know of them.

Shapes and units, everywhere in the library:

- x is (B, *event); z is (S, B, *latent), samples first; several latents are a dict of such tensors;
- log-probabilities are (S, B) or (B,), in nats per datum, larger is better;
- discrete latents are one-hot, so that a sample, its relaxation and its marginals share one shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentia.distributions.latents import Latents, each


class Frame(NamedTuple):
    """What a model is given before there is an x: the size of the batch, and what p(x, z | context) conditions on.

    Attributes:
        size: B, the number of data.
        lengths: (B,), how many steps each datum has, for data with steps (B, T, *event). A model that generates the
            length itself does not look at them.
        context: what the model conditions on; it has a mask and lengths of its own.
        steps: T, where there is an x already that has room for so many.
    """

    size: int
    lengths: Tensor | None = None
    context: Batch | None = None
    steps: int | None = None

    def room(self, otherwise: int) -> int:
        """T: of the x that is there, or of the longest datum to come, or else `otherwise`."""
        if self.steps is not None:
            return self.steps
        return int(self.lengths.max()) if self.lengths is not None and len(self.lengths) else otherwise

    def ends(self, otherwise: int, like: Tensor) -> Tensor:
        """The length of each datum, (B,), on the device of `like`: all of the room where lengths are not known."""
        if self.lengths is None:
            return torch.full((self.size,), self.room(otherwise), device=like.device)
        return self.lengths.to(like.device)

    def given(self) -> Batch:
        """The context. Raises `ValueError` where there is none."""
        if self.context is None:
            raise ValueError("this model conditions on a context, and the batch has none: give context=")
        return self.context


class Batch(NamedTuple):
    """Data as every model sees them.

    Where a datum ends and what of it is hidden are two things: beyond its length there is nothing; under
    `mask == False` there is a value that we do not know.

    Attributes:
        x: (B, *event), or (B, T, *event) for data with steps. What is hidden, or beyond the end, is never read.
        mask: the shape of x, True = observed, False = hidden.
        lengths: (B,), how many steps each datum has; None where all have T, or there are no steps.
        context: what p(x, z | context) conditions on.
        known: latents that happen to be known, by name where there are several: one-hot rows (B, K), of which one of
            zeros says nothing.
        weight: (B,), 0 = absent, 2 = seen twice.
    """

    x: Tensor
    mask: Tensor | None = None
    lengths: Tensor | None = None
    context: Batch | None = None
    known: Latents | None = None
    weight: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, mask: Tensor | None = None, lengths: Tensor | None = None, **others: Any) -> Batch:
        """A batch from raw values: NaN at the door becomes mask, and x is 0 wherever it is hidden or has ended."""
        if x.is_floating_point() and x.isnan().any():
            mask = ~x.isnan() if mask is None else mask & ~x.isnan()
        batch = cls(x, mask, lengths, **others)
        if mask is not None and lengths is not None:
            batch = batch._replace(mask=mask | ~batch.inside)
        return batch if batch.seen is None else batch._replace(x=torch.where(batch.seen, x, torch.zeros_like(x)))

    @property
    def size(self) -> int:
        """B, the number of data."""
        return self.x.shape[0]

    @property
    def frame(self) -> Frame:
        """What generation may see of the batch."""
        return Frame(self.size, self.lengths, self.context, self.x.shape[1] if self.x.ndim > 1 else None)

    @property
    def ends(self) -> Tensor:
        """The length of each datum, (B,), for x of (B, T, *event)."""
        if self.lengths is None:
            return torch.full((self.size,), self.x.shape[1], device=self.x.device)
        return self.lengths

    @property
    def inside(self) -> Tensor:
        """The shape of x: True up to each datum's end, for x of (B, T, *event)."""
        if self.lengths is None:
            return torch.ones_like(self.x, dtype=torch.bool)
        steps = torch.arange(self.x.shape[1], device=self.x.device) < self.lengths.unsqueeze(-1)
        return steps.reshape(*steps.shape, *(1,) * (self.x.ndim - 2)).expand(self.x.shape)

    @property
    def seen(self) -> Tensor | None:
        """The shape of x, True where there is a value that is observed; None where that is everywhere."""
        if self.lengths is None:
            return self.mask
        return self.inside if self.mask is None else self.inside & self.mask

    @property
    def observed(self) -> Tensor:
        """As `seen`, and all True where that is None."""
        seen = self.seen
        return torch.ones_like(self.x, dtype=torch.bool) if seen is None else seen

    @property
    def hidden(self) -> Tensor:
        """The shape of x, True where there is a value that is not observed."""
        if self.mask is None:
            return torch.zeros_like(self.x, dtype=torch.bool)
        return ~self.mask & self.inside

    @property
    def weights(self) -> Tensor:
        """The weight of each datum, (B,), ones where none is given, in x's dtype or torch's default."""
        dtype = self.x.dtype if self.x.is_floating_point() else torch.get_default_dtype()
        return torch.ones(self.size, dtype=dtype, device=self.x.device) if self.weight is None else self.weight

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Apply `function` to every tensor that is there, those of the context among them."""

        def one(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else function(tensor)

        context = None if self.context is None else self.context.map(function)
        known = None if self.known is None else each(function, self.known)
        return Batch(function(self.x), one(self.mask), one(self.lengths), context, known, one(self.weight))

    def select(self, index: Tensor | slice) -> Batch:
        """The data at `index`."""
        return self.map(lambda field: field[index])

    def cut(self) -> Batch:
        """The same data without the steps beyond the longest of them."""
        if self.lengths is None or not self.size:
            return self
        longest = max(int(self.lengths.max()), 1)
        if longest == self.x.shape[1]:
            return self
        mask = None if self.mask is None else self.mask[:, :longest]
        return self._replace(x=self.x[:, :longest], mask=mask)

    def to(self, like: Tensor) -> Batch:
        """Move to the device of `like`, and floating-point parts to its dtype."""
        return self.map(lambda field: field.to(like.device, like.dtype if field.is_floating_point() else field.dtype))
