"""Attention as a latent variable: which source word does the next word of a translation come from?

    z_t | x_1..t-1, source ~ Categorical(a_t),   a_t = softmax(scores of the decoder's state with each source word)
    x_t | z_t = j, x_1..t-1, source ~ Categorical(network(state_t, source_j)),   up to the symbol that ends x

    exact:  log p(x | source) = sum_t log sum_j a_tj p(x_t | state_t, source_j)
    soft:   log p(x | source) = sum_t log p(x_t | state_t, sum_j a_tj source_j)

Ordinary attention is the second line: it feeds the mean of the source's vectors to the network, and z says nothing
about x. In the first, z is summed out, which costs J times the words' softmax and no more, since given x_1..t-1 the z_t
are independent. The posterior p(z_t | x) is then exact: it has seen the word itself, which attention has not. A hidden
word adds nothing, and a mark is read in its place: what later words would say about it is not summed out.

`monotonic` makes z a path that never goes back: position j is followed by itself or a later one, a_t restricted to
those and normalised; p(x) is summed by the chain's recursion (Wu and Cotterell 2019). `VariationalAttention` has an
inference network q(z_t | x, source) in the place of the sum, for when a sum is too dear; it shares every other network.

    Deng, Kim, Chiu, Guo and Rush (2018), "Latent alignment and variational attention", sections 3 and 4
    Wu and Cotterell (2019), "Exact hard monotonic attention for character-level transduction"
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from latentia.batch import Batch, Frame
from latentia.distributions.alignment import LatentAlignment
from latentia.distributions.chain import Chain
from latentia.distributions.decoding import State, beam
from latentia.distributions.onehot import RULED_OUT
from latentia.errors import DataError, OptionError
from latentia.kernels.vocabulary import log_probabilities
from latentia.model import LatentVariableModel, TractableModel
from latentia.networks.attention import Scorer, SourceReader, WordHead, Writer, averaged
from latentia.networks.frames import restarted

KINDS = ("soft", "exact", "monotonic")


class LatentAttention(TractableModel):
    """p(x | source) of sentences with their end, the attention soft, summed out, or a path that never goes back.

    z is one-hot, (B, T, J): for each word of x a source position. That of the end is always summed out. With soft
    attention p(z | x) is the attention itself.

    Args:
        symbols: V (comes from the data); one more, V, ends a sentence and is the model's own.
        source_symbols: E, source words (comes from the context's data).
        attention: soft, exact or monotonic; the networks are the same.
        hidden: units of every network; the source's vectors have twice as many.
        dropout: of embeddings and of all that is fed to a linear layer.
        length: the most words that are generated, the end among them.
    """

    any_length = True

    def __init__(
        self,
        symbols: int,
        source_symbols: int,
        attention: Literal["soft", "exact", "monotonic"] = "exact",
        hidden: int = 128,
        dropout: float = 0.0,
        length: int = 50,
    ):
        super().__init__()
        if attention not in KINDS:
            raise OptionError(f"attention={attention!r}: choose one of {', '.join(KINDS)}")
        if not 0 <= dropout < 1:
            raise OptionError(f"dropout={dropout}: it must be at least 0 and below 1")
        self.symbols, self.source_symbols, self.attention, self.length = symbols, source_symbols, attention, length
        self.reader = SourceReader(source_symbols, hidden, dropout)
        self.writer = Writer(symbols + 1, hidden, 2 * hidden, dropout)
        self.scorer = Scorer(hidden, 2 * hidden)
        self.head = WordHead(symbols + 1, hidden, 2 * hidden, dropout)

    def posterior(self, batch: Batch) -> LatentAlignment | Chain:
        return self.given_source(batch, *self.memory(batch.frame))

    def given_source(self, batch: Batch, memory: Tensor, there: Tensor) -> LatentAlignment | Chain:
        """The posterior, of a source that has been read."""
        words, seen = self.with_end(batch)
        states = self.writer(words, averaged(memory, there))
        attention = self.attend(states, memory, there)
        if self.attention == "soft":
            terms = self._log_prob(states, attention.exp() @ memory, words, seen).unsqueeze(-1)
        else:
            inside = torch.arange(words.shape[1], device=words.device) <= batch.ends.unsqueeze(-1)
            terms = self.emissions(states, memory, words, (seen & inside).unsqueeze(-1) & there.unsqueeze(1))
        if self.attention == "monotonic":
            return self._path(attention, terms, there, batch.ends)
        node = attention + terms
        end = _at(node, batch.ends).logsumexp(-1, keepdim=True)
        return LatentAlignment({"node": _added(node[:, :-1], end, batch.ends)}, batch.ends)

    def with_end(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """x with the symbol that ends it, and which of them are observed, (B, T + 1). A word that is hidden is read as
        the end's symbol, which stands nowhere else before the end."""
        place = torch.arange(batch.x.shape[1] + 1, device=batch.x.device)
        words = torch.where(batch.observed, batch.x, self.symbols)
        words = torch.cat([words, torch.full_like(batch.x[:, :1], self.symbols)], 1)
        seen = torch.cat([batch.observed, torch.zeros_like(batch.observed[:, :1])], 1)
        return words, seen | (place == batch.ends.unsqueeze(-1))

    def memory(self, frame: Frame) -> tuple[Tensor, Tensor]:
        """The source's vectors (B, J, M), and which positions there are (B, J)."""
        source = frame.given()
        there = source.inside
        return self.reader(torch.where(there, source.x, 0), source.ends), there

    def attend(self, states: Tensor, memory: Tensor, there: Tensor) -> Tensor:
        """log a_t, (B, T, J), -inf where there is no source word."""
        return self.scorer(states, memory).masked_fill(~there.unsqueeze(1), -torch.inf).log_softmax(-1)

    def emissions(self, states: Tensor, memory: Tensor, words: Tensor, where: Tensor) -> Tensor:
        """log p(x_t | z_t = j), (B, T, J), `where` it is asked for, 0 elsewhere: a softmax over words for each pair of
        a step and a position."""
        words = words.unsqueeze(-1).expand(*words.shape, memory.shape[1])
        return self._log_prob(states.unsqueeze(2), memory.unsqueeze(1), words, where)

    def _log_prob(self, states: Tensor, attended: Tensor, words: Tensor, where: Tensor) -> Tensor:
        """log p of each word, 0 but `where` it is asked for; the logits are never stored whole."""
        features = self.head.features(states, attended)[where]
        output = self.head.output
        found = log_probabilities(features, output.weight, output.bias, words[where])
        return found.new_zeros(where.shape).masked_scatter(where, found)

    def _path(self, attention: Tensor, terms: Tensor, there: Tensor, ends: Tensor) -> Chain:
        """A chain whose step to t goes from i to j >= i with a_tj over the sum of those."""
        attention = attention.clamp(min=RULED_OUT)
        move = _moves(attention[:, 1:])
        # from where there is no source word nothing goes on, and 0 keeps what is never reached finite
        move = torch.where(there[:, None, :, None], move, 0.0)
        # what the end says of the last word's position: where its own is, is summed out
        last = move[torch.arange(len(move), device=move.device), (ends - 1).clamp(min=0)]
        end = (last + _at(terms, ends).unsqueeze(1)).logsumexp(-1)
        node = _added(terms[:, :-1], end, ends)
        return Chain({"initial": attention[:, 0], "transition": move[:, :-1], "node": node}, ends)

    def alignments(self, batch: Batch) -> Tensor:
        """p(z_t = j | x, source), (B, T, J + 1), from nowhere first: in this model no word is."""
        return nn.functional.pad(self.posterior(batch).marginals, (1, 0))

    @torch.no_grad()
    def generate(self, frame: Frame) -> tuple[Batch, Tensor]:
        """Words drawn one after another, each from its source position; with soft attention z is drawn beside them."""
        memory, there = self.memory(frame)
        x = torch.full((frame.size, self.length), self.symbols, device=memory.device)
        z = memory.new_zeros(frame.size, self.length, memory.shape[1])
        floor = torch.zeros(frame.size, dtype=torch.long, device=memory.device)
        for t in range(self.length):
            state = self.writer(x[:, : t + 1], averaged(memory, there))[:, -1:]
            attention = self.attend(state, memory, self._reachable(there, floor))[:, 0]
            floor = torch.distributions.Categorical(logits=attention).sample()
            z[:, t].scatter_(1, floor.unsqueeze(1), 1.0)
            given = memory[torch.arange(frame.size), floor].unsqueeze(1)
            given = given if self.attention != "soft" else attention.exp().unsqueeze(1) @ memory
            drawn = torch.distributions.Categorical(logits=self.head(state, given)[:, 0]).sample()
            over = (x[:, :t] == self.symbols).any(1)
            x[:, t] = torch.where(over, self.symbols, drawn)
        ends = (x != self.symbols).long().cumprod(1).sum(1)
        steps = torch.arange(self.length, device=x.device)
        z = z * (steps < ends.unsqueeze(-1)).unsqueeze(-1)
        return Batch.of(torch.where(steps < ends.unsqueeze(-1), x, 0), lengths=ends, context=frame.context), z

    def _reachable(self, there: Tensor, floor: Tensor) -> Tensor:
        if self.attention != "monotonic":
            return there
        return there & (torch.arange(there.shape[1], device=there.device) >= floor.unsqueeze(-1))

    @torch.no_grad()
    def decode(self, frame: Frame, width: int) -> Batch:
        """Of each source the sentence that a beam search finds most probable, z summed out."""
        x = beam(Words(self, frame), self.length, self.symbols, width).symbols[:, 0]
        over = (x == self.symbols).long().cumsum(1) > 0
        return Batch.of(x.masked_fill(over, 0), lengths=(~over).sum(1), context=frame.context)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        restarted(self, generator)

    def check(self, batch: Batch) -> None:
        if batch.x.ndim != 2 or batch.x.is_floating_point():
            raise DataError(f"sentences are x (B, T) of symbols, and the data have shape {tuple(batch.x.shape)}")
        if batch.size and int(batch.ends.min()) < 1:
            raise DataError("a sentence has no word at all: leave the pair out")
        source = batch.context
        if source is None or source.x.ndim != 2 or source.x.is_floating_point():
            raise DataError("a translation has a source sentence, (B, J) of symbols: give it as the context")
        for what, words, most in (("x", batch, self.symbols), ("the source", source, self.source_symbols)):
            if words.x.numel() and not 0 <= int(words.x.min()) <= int(words.x.max()) < most:
                raise DataError(f"{what} has symbols up to {int(words.x.max())}, and the model those below {most}")


class Words:
    """log p(x_t | x_1..t-1, source) of one word after another, z summed out, as logits (N, V + 1), the end last.

    With monotonic attention the sum is over paths: what is kept is log p(z_t | x_1..t).
    """

    def __init__(self, model: LatentAttention, frame: Frame):
        self.model, self.frame = model, frame

    def begin(self) -> tuple[Tensor, State]:
        memory, there = self.model.memory(self.frame)
        hidden = self.model.writer.after(None, self.model.writer.first(averaged(memory, there)))
        state = {"memory": memory, "there": there, "hidden": hidden}
        if self.model.attention == "monotonic":
            # before the first word every position is as good
            state["path"] = torch.zeros_like(memory[..., 0]).masked_fill(torch.arange(memory.shape[1]) > 0, -torch.inf)
        return self._next(state)

    def step(self, symbol: Tensor, state: State) -> tuple[Tensor, State]:
        kept = {name: state[name] for name in ("memory", "there")}
        if "path" in state:
            said = state["every"].gather(-1, symbol[:, None, None].expand(-1, state["every"].shape[1], 1)).squeeze(-1)
            kept["path"] = (state["path"] + said).log_softmax(-1)
        return self._next({**kept, "hidden": self.model.writer.after(symbol, state["hidden"])})

    def _next(self, state: State) -> tuple[Tensor, State]:
        model, memory, hidden = self.model, state["memory"], state["hidden"].unsqueeze(1)
        attention = model.attend(hidden, memory, state["there"])[:, 0]
        if model.attention == "soft":
            return model.head(hidden, attention.exp().unsqueeze(1) @ memory)[:, 0].log_softmax(-1), state
        every = model.head(hidden, memory).log_softmax(-1)
        if model.attention == "monotonic":
            attention = (state["path"].unsqueeze(-1) + _moves(attention)).logsumexp(1)
            state = {**state, "path": attention, "every": every}
        return torch.logsumexp(attention.unsqueeze(-1) + every, 1), state


class VariationalAttention(LatentVariableModel):
    """The same p(x, z | source), and q(z_t | x, source) from a network that has read all of x.

    Args:
        symbols, source_symbols, hidden, dropout, length: see `LatentAttention`.
    """

    any_length = True

    def __init__(self, symbols: int, source_symbols: int, hidden: int = 128, dropout: float = 0.0, length: int = 50):
        super().__init__()
        self.generative = LatentAttention(symbols, source_symbols, "exact", hidden, dropout, length)
        self.target_reader = SourceReader(symbols + 1, hidden, dropout)
        self.guess = Scorer(2 * hidden, 2 * hidden)

    def both(self, batch: Batch) -> tuple[LatentAlignment, LatentAlignment]:
        """p(z | x), whose log-partition is log p(x), and q(z | x), of one reading of the source."""
        read = self.generative.memory(batch.frame)
        p = self.generative.given_source(batch, *read)
        assert isinstance(p, LatentAlignment)  # its attention is exact
        return p, self._posterior(batch, *read)

    def posterior(self, batch: Batch) -> LatentAlignment:
        return self._posterior(batch, *self.generative.memory(batch.frame))

    def _posterior(self, batch: Batch, memory: Tensor, there: Tensor) -> LatentAlignment:
        words, _ = self.generative.with_end(batch)
        read = self.target_reader(words, batch.ends + 1)[:, :-1]
        node = self.guess(read, memory).masked_fill(~there.unsqueeze(1), -torch.inf).log_softmax(-1)
        return LatentAlignment({"node": node}, batch.ends)

    def log_joint(self, batch: Batch, z: Any) -> Tensor:
        return self.generative.posterior(batch).score(z)

    def alignments(self, batch: Batch) -> Tensor:
        """q(z_t = j | x, source), (B, T, J + 1), from nowhere first: in this model no word is."""
        return nn.functional.pad(self.posterior(batch).marginals, (1, 0))

    def generate(self, frame: Frame) -> tuple[Batch, Tensor]:
        return self.generative.generate(frame)

    def decode(self, frame: Frame, width: int) -> Batch:
        return self.generative.decode(frame, width)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        restarted(self, generator)

    def check(self, batch: Batch) -> None:
        self.generative.check(batch)


def _at(steps: Tensor, place: Tensor) -> Tensor:
    """What each datum has at its own step, (B, T, K) to (B, K)."""
    return steps[torch.arange(len(steps), device=steps.device), place]


def _moves(attention: Tensor) -> Tensor:
    """log p(from i to j), (..., J, J): a_j over the sum of those from i on, where j is not before i."""
    attention = attention.clamp(min=RULED_OUT)  # -inf has no gradient in a cumulative sum
    rest = attention.flip(-1).logcumsumexp(-1).flip(-1)
    ahead = torch.ones(2 * attention.shape[-1:], dtype=torch.bool, device=attention.device).triu()
    return (attention.unsqueeze(-2) - rest.unsqueeze(-1)).masked_fill(~ahead, -torch.inf)


def _added(node: Tensor, value: Tensor, ends: Tensor) -> Tensor:
    """node (B, T, J) with value (B, J or 1) added at each datum's last step."""
    last = torch.arange(node.shape[1], device=node.device) == ends.unsqueeze(-1) - 1
    return node + last.unsqueeze(-1) * value.unsqueeze(1)


def _tiny_batch() -> Batch:
    """Two target and two source words; pairs of at most two and two."""
    x = torch.tensor([[0, 1], [1, 1], [1, 0], [0, 0]])
    source = Batch(torch.tensor([[0, 1], [1, 0], [1, 1], [0, 1]]), lengths=torch.tensor([2, 1, 2, 2]))
    return Batch.of(x, lengths=torch.tensor([2, 2, 1, 2]), context=source)


def _tiny(seed: int, attention: Literal["soft", "exact", "monotonic"]) -> tuple[LatentAttention, Batch]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LatentAttention(2, 2, attention, hidden=2, length=3).double()
    return model, _tiny_batch()


def tiny(seed: int) -> tuple[LatentAttention, Batch]:
    """Attention that is summed out, of two words on each side."""
    return _tiny(seed, "exact")


def tiny_soft(seed: int) -> tuple[LatentAttention, Batch]:
    return _tiny(seed, "soft")


def tiny_monotonic(seed: int) -> tuple[LatentAttention, Batch]:
    return _tiny(seed, "monotonic")


def tiny_variational(seed: int) -> tuple[VariationalAttention, Batch]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VariationalAttention(2, 2, hidden=2, length=3).double()
    return model, _tiny_batch()
