"""Connectionist temporal classification: a string of symbols from many more frames, and which frames say which symbol.

    z_t | frames ~ Categorical(softmax(network(frames)_t)),   t = 1..T: a symbol, or a blank
    x = the z_t with repeats taken once and blanks left out

    p(x | frames) = sum over all z that collapse to x of prod_t p(z_t | frames)

The frames are the context, the string is x, and the alignment z is the latent variable: nobody has said where in the
frames each symbol is. Given x the frames' symbols are no longer independent, and p(z | x, frames) is a path through
CTC's lattice (`MonotoneAlignment`): exact, by forward and backward sums. Its marginals show when each symbol is heard,
its mode is the forced alignment.

    Graves, Fernandez, Gomez and Schmidhuber (2006), "Connectionist temporal classification: labelling unsegmented
    sequence data with recurrent neural networks", sections 3 and 4

How many symbols x has is part of what is modelled. A hidden symbol of x is any symbol, summed out exactly. A string
with more symbols (and a blank more for each repeat) than there are steps has log p(x) = -inf.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentia.distributions.alignment import Collapsed, LatentAlignment, Lattice, MonotoneAlignment
from latentia.distributions.prefixes import as_batch, prefix_beam
from latentia.errors import DataError
from latentia.model import Batch, DirectedModel, Frame, TractableModel
from latentia.networks.frames import FrameEncoder, restarted


class CTC(TractableModel, DirectedModel):
    """p(x | frames) by a network over the frames, the symbols' places summed out.

    Args:
        symbols: V (comes from the data).
        source_features: D, numbers in a frame (comes from the context's data).
        hidden: units of each direction of each layer of the bidirectional GRU.
        layers: of the GRU.
        stride: frames in a step.
        dropout: between layers, and before the outputs.
        encoder: a module of your own, frames (B, T, D) and lengths (B,) to logits (B, T', V + 1), the blank last, and
            lengths in steps (B,), in the place of the GRU.
    """

    any_length = True

    def __init__(
        self,
        symbols: int,
        source_features: int,
        hidden: int = 128,
        layers: int = 2,
        stride: int = 1,
        dropout: float = 0.0,
        encoder: nn.Module | None = None,
    ):
        super().__init__()
        self.symbols, self.source_features = symbols, source_features
        sizes = (hidden, layers, stride, dropout)
        self.encoder = FrameEncoder(source_features, symbols + 1, *sizes) if encoder is None else encoder

    def logits(self, frame: Frame) -> tuple[Tensor, Tensor]:
        """Of each step's symbols and, last, of the blank, (B, T', V + 1), and how many steps there are, (B,)."""
        frames = frame.given()
        return self.encoder(frames.x, frames.ends)

    def prior(self, frame: Frame) -> LatentAlignment:
        logits, lengths = self.logits(frame)
        return LatentAlignment({"node": logits.log_softmax(-1)}, lengths)

    def likelihood(self, z: Tensor, frame: Frame) -> Collapsed:
        return Collapsed(z, frame.room(z.shape[2]))

    def posterior(self, batch: Batch) -> MonotoneAlignment:
        logits, lengths = self.logits(batch.frame)
        lattice = Lattice.ctc(batch.x, batch.ends, self.symbols, batch.mask)
        return MonotoneAlignment.of_logits(logits, lattice, lengths)

    def _steps(self, lengths: Tensor) -> Tensor:
        """How many steps the encoder makes of so many frames, as far as it says."""
        steps = getattr(self.encoder, "steps", None)
        return steps(lengths) if callable(steps) else lengths  # type: ignore[return-value]

    def _needed(self, batch: Batch) -> Tensor:
        """The least number of steps for each string, (B,): one a symbol, and a blank between two that are alike."""
        alike = (batch.x[:, 1:] == batch.x[:, :-1]) & batch.observed[:, 1:] & batch.observed[:, :-1]
        return batch.ends + alike.sum(1)

    @torch.no_grad()
    def decode(self, frame: Frame, width: int) -> Batch:
        """Of each recording the string that prefix search finds most probable, its alignments summed."""
        logits, steps = self.logits(frame)
        rows = zip(logits.log_softmax(-1), steps.tolist(), strict=True)
        x, lengths = as_batch([prefix_beam(row[:count], width)[0].symbols for row, count in rows])
        return Batch.of(x.to(logits.device), lengths=lengths.to(logits.device), context=frame.context)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        restarted(self.encoder, generator)

    def check(self, batch: Batch) -> None:
        """Raises for strings that no frames are long enough for, and says how many they are."""
        if batch.x.ndim != 2 or batch.x.is_floating_point():
            raise DataError(f"CTC takes strings of symbols, x (B, L), and the data have shape {tuple(batch.x.shape)}")
        frames = batch.context
        if frames is None or frames.x.ndim != 3 or frames.x.shape[-1] != self.source_features:
            found = "none" if frames is None else f"shape {tuple(frames.x.shape)}"
            raise DataError(f"CTC takes frames as context, (B, T, {self.source_features}), and there is {found}")
        short = self._needed(batch) > self._steps(frames.ends)
        if bool(short.any()):
            rows = ", ".join(str(i + 1) for i in short.nonzero().flatten().tolist()[:5])
            raise DataError(
                f"{int(short.sum())} of {batch.size} strings have more symbols than their frames have steps, or as "
                f"many with a repeat, and log p(x) = -inf (rows {rows}...): leave them out, or take a smaller stride"
            )


def tiny(seed: int) -> tuple[CTC, Batch]:
    """Two symbols, and two or three frames of one number each; strings of one symbol to three, one hidden in part."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CTC(symbols=2, source_features=1, hidden=2, layers=1).double()
        frames = torch.randn(5, 3, 1, dtype=torch.float64)
    x = torch.tensor([[0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 1]])
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 1] = False
    context = Batch(frames, lengths=torch.tensor([3, 3, 2, 2, 3]))
    return model, Batch.of(x, mask, torch.tensor([3, 2, 1, 2, 1]), context=context)
