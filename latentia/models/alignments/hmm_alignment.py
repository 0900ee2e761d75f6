"""The hidden Markov model of word alignment: where a word comes from depends on where the one before it came from.

    z_1, z_2, ... is a chain of source positions: from i to j with probability jump(j - i) / sum_l jump(l - i)
    with probability null a word comes from nowhere, and the position stays what it was
    x_t | z_t = j, source ~ Categorical(t(. | source_j))

The first jump is from position 0, before all others. Jumps of more than `reach` positions are all alike. The posterior
is a chain of 2 J states (each position, and nowhere since that position), and the E-step exact, by forward and backward
sums. Jumps must end inside the sentence, so that their M-step has no closed form: each EM step climbs it by a
minorizer's steps until they stand still (Hunter and Lange 2004). Lengths are given.

    Vogel, Ney and Tillmann (1996), "HMM-based word alignment in statistical translation"
    Och and Ney (2003), "A systematic comparison of various statistical alignment models", section 2.2 (for nowhere)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentia.distributions.chain import Chain
from latentia.distributions.emissions.base import log_probabilities
from latentia.errors import DataError, OptionError, check_not_negative
from latentia.kernels import alignment as kernel
from latentia.model import Batch, DirectedModel, ExactModel, Frame, Statistics
from latentia.models.alignments.ibm1 import pairs_for_tiny
from latentia.models.alignments.lexicon import Lexicon, Translated, pairs_of, source_rows


class HMMAlignment(ExactModel, DirectedModel):
    """A table of translations, and the widths of jumps from a source position to the next one.

    z is one-hot, (B, T, 2 J): column 2 j is the position j, column 2 j + 1 nowhere, after position j.

    Args:
        symbols: V, target words (comes from the data).
        source_symbols: E, source words (comes from the context's data).
        smoothing: pseudo-count of each translation of each word, a Dirichlet(1 + smoothing) prior; of each width; and
            of words from nowhere and from somewhere.
        null: the probability of coming from nowhere, at the start.
        reach: widths of jumps that differ, -reach..reach.
        longest: the most words that a source sentence may have.
        length: T of the sentences that are generated where no lengths are given.
    """

    def __init__(
        self,
        symbols: int,
        source_symbols: int,
        smoothing: float = 1e-3,
        null: float = 0.1,
        reach: int = 10,
        longest: int = 100,
        length: int = 10,
    ):
        super().__init__()
        check_not_negative(smoothing=smoothing)
        if not 0 < null < 1:
            raise OptionError(f"null={null}: it must lie between 0 and 1")
        self.lexicon, self.length, self.longest = Lexicon(symbols, source_symbols, smoothing), length, longest
        self.smoothing, self.null_at_start = smoothing, null
        self.jump_logits = nn.Parameter(torch.zeros(2 * reach + 1))
        self.null_logit = nn.Parameter(torch.tensor(null).logit())

    @property
    def reach(self) -> int:
        return len(self.jump_logits) // 2

    @property
    def null(self) -> Tensor:
        """The probability of coming from nowhere."""
        return self.null_logit.sigmoid()

    @property
    def jumps(self) -> Tensor:
        """The weights of widths -reach..reach, which sum to one."""
        return self.jump_logits.softmax(-1)

    def prior(self, frame: Frame) -> Chain:
        rows, there = source_rows(frame.given(), self.lexicon.nowhere)
        node = self.lexicon.logits.new_zeros(frame.size, frame.room(self.length), 2 * rows.shape[1])
        return Chain({**self._moves(there), "node": node}, frame.ends(self.length, rows))

    def likelihood(self, z: Tensor, frame: Frame) -> Translated:
        rows = self._rows(frame)
        chosen = rows.unsqueeze(1).expand(z.shape[1:]).expand(z.shape).gather(-1, z.argmax(-1, keepdim=True))
        return Translated(log_probabilities(self.lexicon.logits), chosen.squeeze(-1))

    def posterior(self, batch: Batch) -> Chain:
        _, there = source_rows(batch.frame.given(), self.lexicon.nowhere)
        node = self.lexicon.scores(batch, self._rows(batch.frame))
        return Chain({**self._moves(there), "node": node}, batch.ends)

    def alignments(self, batch: Batch) -> Tensor:
        """p(z_t = j | x, source), (B, T, J + 1), from nowhere first, wherever it is after."""
        share = self.posterior(batch).marginals.unflatten(-1, (-1, 2))
        return torch.cat([share[..., 1].sum(-1, keepdim=True), share[..., 0]], -1)

    def statistics(self, batch: Batch, posterior: Chain) -> Statistics:
        found = posterior.expectations()
        weight = batch.weights.to(found["node"])
        _, there = source_rows(batch.frame.given(), self.lexicon.nowhere)
        # whether there is a word from nowhere or not, a first position is jumped to
        first = found["initial"].unflatten(-1, (-1, 2)).sum(-1) * weight.unsqueeze(-1)
        moved = found["transition"].squeeze(1).unflatten(-1, (-1, 2))[..., 0] * weight[:, None, None]
        moved = torch.cat([first.unsqueeze(1), moved.unflatten(1, (-1, 2)).sum(2)], 1)
        width = self._widths(there.shape[1])
        jumps = moved.new_zeros(len(self.jump_logits)).index_put_((width,), moved.sum(0), accumulate=True)
        place = torch.arange(there.shape[1] + 1, device=there.device)
        rest = (there.sum(-1, keepdim=True) + 1 - place).clamp(min=0)
        left = moved.new_zeros(self.longest + 2, self.longest + 2)
        left.index_put_((place.expand_as(rest), rest), moved.sum(-1), accumulate=True)
        return {
            "table": self.lexicon.counts(batch, self._rows(batch.frame), found["node"]),
            "null": (found["node"][..., 1::2].sum((-1, -2)) * weight).sum(),
            "words": (found["node"].sum((-1, -2)) * weight).sum(),
            "jumps": jumps,
            "left": left,
        }

    def expect(self, batch: Batch, hard: bool = False) -> tuple[Statistics, Tensor]:
        if hard or batch.mask is not None or self.anchor.device.type != "cpu":
            return super().expect(batch, hard)
        given = pairs_of(batch, self.lexicon.nowhere), self.lexicon.probs.detach()
        found = kernel.moving(*given, self.jumps.detach(), self.null.item(), self.longest)
        possible = (batch.weights > 0) & (found.value > -torch.inf)
        value = torch.where(batch.weights > 0, batch.weights * found.value, 0.0).double().sum()
        words = torch.where(possible, batch.weights * batch.ends, 0.0).double().sum()
        sums = {"table": found.table, "jumps": found.jumps, "left": found.left, "words": words}
        return {**sums, "null": torch.tensor(found.null, dtype=torch.float64)}, value

    def update(self, total: Statistics) -> None:
        self.lexicon.update(total["table"])
        nowhere, words = total["null"] + self.smoothing, total["words"] + 2 * self.smoothing
        if float(words) > 0:
            self.null_logit.data = (nowhere / words).clamp(1e-12, 1 - 1e-12).logit().to(self.null_logit)
            jumps = best_jumps(self.jumps.detach().double(), total["jumps"], total["left"], self.smoothing)
            self.jump_logits.data = jumps.clamp(min=1e-300).log().to(self.jump_logits)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        self.lexicon.start(generator)
        self.null_logit.data = torch.full_like(self.null_logit, self.null_at_start).logit()
        # words follow each other, and a little of either side breaks the tie
        widths = torch.arange(-self.reach, self.reach + 1, device=self.jump_logits.device)
        self.jump_logits.data = (-0.5 * (widths - 1).abs()).to(self.jump_logits)

    def log_prior(self) -> Tensor:
        null = nn.functional.logsigmoid(self.null_logit) + nn.functional.logsigmoid(-self.null_logit)
        return self.lexicon.log_prior() + self.smoothing * (null + self.jump_logits.log_softmax(-1).sum())

    def free_parameters(self) -> int:
        return self.lexicon.free_parameters() + len(self.jump_logits)

    def check(self, batch: Batch) -> None:
        self.lexicon.check(batch)
        source = batch.frame.given()
        most = int(source.ends.max()) if source.size else 0
        if most > self.longest:
            raise DataError(f"a source has {most} words, and longest={self.longest}: raise it, or leave the pair out")

    def _rows(self, frame: Frame) -> Tensor:
        """Rows of the table, (B, 2 J)."""
        rows, _ = source_rows(frame.given(), self.lexicon.nowhere)
        return torch.stack([rows, torch.full_like(rows, self.lexicon.nowhere)], -1).flatten(1)

    def _widths(self, positions: int) -> Tensor:
        """Which width it is from position i, 0 being before all others, to position j from 1: (J + 1, J)."""
        place = torch.arange(positions + 1, device=self.jump_logits.device)
        return (place[1:] - place.unsqueeze(-1)).clamp(-self.reach, self.reach) + self.reach

    def _moves(self, there: Tensor) -> dict[str, Tensor]:
        """Where a chain begins, (B, 2 J), and how it goes on, (B, 1, 2 J, 2 J), for source positions (B, J)."""
        jump = self.jump_logits[self._widths(there.shape[1])]
        jump = torch.where(there.unsqueeze(1), jump, -torch.inf).log_softmax(-1)
        some, none = nn.functional.logsigmoid(-self.null_logit), nn.functional.logsigmoid(self.null_logit)
        initial = torch.stack([jump[:, 0] + some, jump[:, 0] + none], -1).flatten(1)
        stays = torch.eye(there.shape[1], dtype=torch.bool, device=there.device)
        empty = torch.where(stays, none, -torch.inf).expand_as(jump[:, 1:])
        move = torch.stack([jump[:, 1:] + some, empty], -1).flatten(2)
        return {"initial": initial, "transition": move.repeat_interleave(2, 1).unsqueeze(1)}


def best_jumps(jumps: Tensor, count: Tensor, left: Tensor, smoothing: float, steps: int = 200) -> Tensor:
    """Weights of widths that maximise sum_d count_d log jump_d - sum_(i, r) left_ir log(sum of the widths that end
    inside) + smoothing sum_d log(jump_d / sum jump), from `jumps` on.

    Each step maximises what is linear in place of the second logarithm, and touches it where the weights are.
    """
    count, left, reach = count.double(), left.double(), len(jumps) // 2
    before, after = left.nonzero().T
    times = left[before, after]
    width = torch.arange(-reach, reach + 1, device=jumps.device)
    # how many positions lie at each width: those beyond the reach all at the last
    low, high = (1 - before).unsqueeze(-1), (after - 1).unsqueeze(-1)
    inside = ((width >= low) & (width <= high)).double()
    inside[:, 0] = torch.where(low[:, 0] <= -reach, -reach - low[:, 0] + 1, 0).double()
    inside[:, -1] = torch.where(high[:, 0] >= reach, high[:, 0] - reach + 1, 0).double()
    for _ in range(steps):
        share = (times / (inside @ jumps).clamp(min=1e-300)) @ inside + smoothing * len(jumps) / jumps.sum()
        new = torch.where(share > 0, (count + smoothing) / share, jumps)
        new = new / new.sum()
        if float((new - jumps).abs().max()) < 1e-13:
            return new
        jumps = new
    return jumps


def tiny(seed: int) -> tuple[HMMAlignment, Batch]:
    """Two target words, two source words, and ragged pairs of at most three and two; one word hidden."""
    generator = torch.Generator().manual_seed(seed)
    model = HMMAlignment(symbols=2, source_symbols=2, smoothing=0.1, null=0.3, reach=1, longest=4, length=3).double()
    for parameter in (model.lexicon.logits, model.jump_logits):
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model, pairs_for_tiny(generator)
