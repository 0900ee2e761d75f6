"""StructVAE: a sentence and its meaning, a logical form, which is known for few sentences and latent for many.

    z ~ p(z): an LSTM over the actions that build a form, those that the grammar admits
    x_t | x_1..t-1, z ~ Categorical(attention over the actions of z, and copies of its constants), up to its end

    q(z | x): the parser, action by action, with attention over the words of x and copies of them

    where z is known:  log p(x, z) + log q(z | x)
    where it is not:   log p(x) >= E_q(z|x) [log p(x | z) + log p(z) - log q(z | x)]

Yin, Zhou, He and Neubig (2018), "StructVAE: tree-structured latent variable models for semi-supervised semantic
parsing", section 3, with the transition system of Yin and Neubig (2018) and recurrent networks that are gated (GRU) in
q(z | x) and p(x | z). Forms are many and have no recursion that sums them: the gradient of the second line is the score
function's (`gradients.Searched`, `gradients.SourceLanguageModel`), or there is none and z is a Markov chain for each
sentence (`objectives.joint_stochastic`). The objective is `semi_supervised`.

z is one-hot, (A, K): A actions at most of K, zeros behind the last one. p(z) and q(z | x) are over forms of no more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latentia.distributions.decoding import State
from latentia.distributions.forms import Form
from latentia.distributions.grammar import Grammar
from latentia.distributions.latents import named
from latentia.distributions.logical_forms import LogicalForms, Machine, in_order
from latentia.distributions.sentence import AutoregressiveCategorical, check_sentences
from latentia.errors import DataError, OptionError
from latentia.model import Batch, DirectedModel, Frame
from latentia.networks.decoder import Decoder, begin, decoder
from latentia.networks.frames import restarted
from latentia.networks.transducer import Transducer, repeated


class StructVAE(DirectedModel):
    """p(x, z) = p(z) p(x | z) of sentences and the logical forms of a grammar, with a parser q(z | x).

    Forms that are known are `Batch.known`, (B, A, K) one-hot, zeros where none is. The posterior is given what is
    known: a bound of such a sentence bounds log p(x, z).

    Args:
        symbols: V, the end among them (comes from the data).
        grammar: its signature, see `latentia.distributions.grammar` (comes from the data).
        end: the symbol that ends a sentence; None: lengths are given (comes from the data).
        copies: (V,), of each word the action that is the constant of its name, -1 where none is (comes from the data).
        hidden: units of every network.
        dropout: of embeddings and of what goes into a linear layer, while learning.
        actions: A, the most actions of a form (comes from the data).
        length: the most words of a sentence, its end among them.
    """

    def __init__(
        self,
        symbols: int,
        grammar: str,
        end: int | None = None,
        copies: Sequence[int] = (),
        hidden: int = 128,
        dropout: float = 0.0,
        actions: int = 64,
        length: int = 100,
    ):
        super().__init__()
        if min(symbols, hidden, actions, length) < 1:
            raise OptionError("symbols, hidden, actions and length must each be at least 1")
        if not 0 <= dropout < 1:
            raise OptionError(f"dropout={dropout}: it must be at least 0 and below 1")
        self.symbols, self.end, self.length = symbols, end, length
        self.grammar = Grammar(grammar)
        if self.grammar.costs[self.grammar.root] > actions:
            raise OptionError(f"actions={actions}: the shortest form has {self.grammar.costs[self.grammar.root]}")
        self.machine = Machine(self.grammar, actions)
        count, copies = len(self.grammar.actions), list(copies) or [-1] * symbols
        # one word more: that which is not seen
        self.parser = Transducer(symbols + 1, count, [*copies, -1], hidden, dropout)
        back = [copies.index(k) if k in copies else -1 for k in range(count)]
        self.writer = Transducer(count, symbols, back, hidden, dropout)
        self.forms = decoder("lstm", count, embedding=hidden, hidden=hidden, layers=1, dropout=dropout)

    def prior(self, frame: Frame) -> LogicalForms:
        return LogicalForms(_Unconditional(self.forms, frame.size), self.machine, self.anchor.new_zeros(frame.size))

    def posterior(self, batch: Batch) -> LogicalForms:
        source = self.parser.read(torch.where(batch.observed, batch.x, self.symbols).long(), batch.ends)
        known = None if batch.known is None else named(batch.known)["z"]
        return LogicalForms(_Transduced(self.parser, source), self.machine, self.anchor.new_zeros(batch.size), known)

    def likelihood(self, z: Tensor, frame: Frame) -> AutoregressiveCategorical:
        actions, lengths = in_order(z)
        source = self.writer.read(actions.flatten(0, 1), lengths.flatten())
        words = _Words(self.writer, source, z.shape[:2])
        return AutoregressiveCategorical(words, z[..., 0, 0], frame.room(self.length), self.end)

    def form(self, z: Tensor) -> Form:
        """What a form z (A, K) says."""
        return self.grammar.decode(z[(z > 0).any(-1)].argmax(-1).tolist())

    def one_hot(self, form: Form, source: str = "the form") -> Tensor:
        """A form as z, (A, K). Raises `DataError` for one that is outside the grammar or has more than A actions."""
        found = self.grammar.encode(form, source, self.machine.most)
        z = self.anchor.new_zeros(self.machine.most, self.machine.actions)
        z[torch.arange(len(found)), found] = 1.0
        return z

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        restarted(self, generator)
        begin(self.forms, generator)

    def check(self, batch: Batch) -> None:
        check_sentences(batch.x, batch.observed, self.symbols, self.end)
        if bool((long := batch.ends > self.length).any()):
            row = int(long.nonzero()[0])
            raise DataError(
                f"sentence {row + 1} has {int(batch.ends[row])} words, its end among them, and the model's limit is "
                f"{self.length}: raise its option length, or cut sentences (--max_length)"
            )
        if batch.known is None:
            return
        known, shape = named(batch.known)["z"], (batch.size, self.machine.most, self.machine.actions)
        if tuple(known.shape) != shape:
            raise DataError(f"known forms are one-hot, {shape}, zeros where there is none; here {tuple(known.shape)}")


class _Transduced:
    """The actions of forms from what the parser has read."""

    def __init__(self, network: Transducer, source: State):
        self.network, self.source = network, source

    def logits(self, actions: Tensor) -> Tensor:
        source = repeated(self.source, len(actions))
        return self.network(actions.flatten(0, 1), source).unflatten(0, actions.shape[:2])

    def begin(self, samples: int) -> tuple[Tensor, State]:
        return self.network.begin(repeated(self.source, samples))

    def step(self, action: Tensor, state: State) -> tuple[Tensor, State]:
        return self.network.step(action, state)


class _Unconditional:
    """The actions of forms from nothing but those before."""

    def __init__(self, network: Decoder, size: int):
        self.network, self.size = network, size

    def logits(self, actions: Tensor) -> Tensor:
        everywhere = torch.arange(actions.numel(), device=actions.device)
        features = self.network.features(actions, None, actions.shape[:2], everywhere)
        return torch.addmm(self.network.bias, features, self.network.table.mT).unflatten(0, actions.shape)

    def begin(self, samples: int) -> tuple[Tensor, State]:
        return self.network.begin(None, samples * self.size)

    def step(self, action: Tensor, state: State) -> tuple[Tensor, State]:
        return self.network.step(action, state)


class _Words:
    """`Words` of sentences from what has been read of forms, S x B rows."""

    def __init__(self, network: Transducer, source: State, shape: torch.Size):
        self.network, self.source, self.shape = network, source, shape

    @property
    def symbols(self) -> int:
        return self.network.symbols

    def terms(self, x: Tensor, inside: Tensor) -> Tensor:
        x = x.long().expand(*self.shape, x.shape[-1])
        log_probs = self.network(x.flatten(0, 1), self.source).log_softmax(-1).unflatten(0, self.shape)
        return log_probs.gather(-1, x.unsqueeze(-1)).squeeze(-1)

    def begin(self) -> tuple[Tensor, State]:
        return self.network.begin(self.source)

    def step(self, symbol: Tensor, state: State) -> tuple[Tensor, State]:
        return self.network.step(symbol, state)


TINY = """
form  = ( is thing ) | ( and thing+ ) | a
thing = a | b
"""


def tiny(seed: int) -> tuple[StructVAE, Batch]:
    """Nine forms of up to four actions; two words, of which one is a constant's name, and the end; one word hidden."""
    names = [str(action) for action in Grammar(TINY).actions]
    model = StructVAE(3, TINY, 2, [names.index("a"), -1, -1], hidden=3, actions=4, length=3).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.tensor([[0, 1, 2], [1, 2, 0], [1, 0, 1], [2, 0, 0], [0, 2, 0]])
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[2, 1] = False
    return model, Batch.of(x, mask, torch.tensor([3, 2, 3, 1, 2]))
