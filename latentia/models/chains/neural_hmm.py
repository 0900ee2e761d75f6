"""Neural hidden Markov model: a hidden Markov model of symbols whose tables are written by networks.

    z_1 ~ Categorical(initial),   z_t | z_{t-1} = i ~ Categorical(transition[i])
    x_t | z_t = k ~ Categorical(emission[k])

    initial = softmax_k(s . e_k)
    transition[i] = softmax_k(f(s_i) . e_k)
    emission[k] = softmax_v(g(s_k) . w_v + b_v)

s_k is the embedding of state k, e_k its embedding as the next one, w_v that of symbol v; f and g are residual networks.
States that are near each other share what is learned, and the tables of many states cost no more parameters than those
of few (Tran et al. 2016, section 4; Chiu and Rush 2020, section 3.3).

    log p(x) = log sum_z p(z_1) prod_t p(z_t | z_{t-1}) p(x_t | z_t), by the forward recursion

The posterior is exact, but there is no M-step in closed form: learn by `Gradient(objective=exact)`. The length of a
sequence is given; a step that is not observed is hidden, and is summed out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentia.distributions import Chain
from latentia.distributions.emissions import Emitted
from latentia.distributions.emissions.categorical import SymbolTable
from latentia.distributions.emissions.rows import check_symbols
from latentia.errors import DataError, OptionError
from latentia.model import Batch, DirectedModel, Frame, TractableModel
from latentia.networks.mlp import glorot


class NeuralHMM(TractableModel, DirectedModel):
    """p(x, z) = p(z_1) p(x_1 | z_1) prod_{t > 1} p(z_t | z_{t-1}) p(x_t | z_t), by networks of embeddings.

    Args:
        symbols: V (comes from the data).
        states: K, the number of hidden states.
        hidden: width of the embeddings and of the networks.
        layers: residual blocks of each network.
        dropout: share of the networks' outputs that is dropped at each step of learning.
        length: T of the sequences that are generated where no lengths are given.

    Tables: initial (K,), transition (K, K), emission (K, V).
    """

    def __init__(
        self,
        symbols: int,
        states: int = 8,
        hidden: int = 64,
        layers: int = 1,
        dropout: float = 0.0,
        length: int = 20,
    ):
        super().__init__()
        if min(symbols, states, hidden) < 1 or layers < 0:
            raise OptionError("symbols, states and hidden must each be at least 1, and layers at least 0")
        if not 0 <= dropout < 1:
            raise OptionError(f"dropout={dropout}: it must be at least 0 and below 1")
        self.length = length
        self.first = nn.Parameter(torch.empty(hidden))
        self.states = nn.Parameter(torch.empty(states, hidden))
        self.following = nn.Parameter(torch.empty(states, hidden))
        self.words = nn.Parameter(torch.empty(symbols, hidden))
        self.word_bias = nn.Parameter(torch.empty(symbols))
        self.move = nn.Sequential(*(Residual(hidden) for _ in range(layers)), nn.Dropout(dropout))
        self.speak = nn.Sequential(*(Residual(hidden) for _ in range(layers)), nn.Dropout(dropout))
        self._randomise(None, torch.Generator().manual_seed(0))

    @property
    def initial_log_probs(self) -> Tensor:
        """log p(z_1), (K,)."""
        return (self.following @ self.first).log_softmax(-1)

    @property
    def transition_log_probs(self) -> Tensor:
        """log p(z_t | z_{t-1}), (K, K): row i is of what follows state i."""
        return (self.move(self.states) @ self.following.mT).log_softmax(-1)

    @property
    def emission_log_probs(self) -> Tensor:
        """log p(x | z), (K, V)."""
        return torch.addmm(self.word_bias, self.speak(self.states), self.words.mT).log_softmax(-1)

    def prior(self, frame: Frame) -> Chain:
        """Sequences of `self.length` steps where the frame has no lengths."""
        nodes = self.states.new_zeros(frame.size, frame.room(self.length), len(self.states))
        return self._chain(nodes, frame.ends(self.length, nodes))

    def likelihood(self, z: Tensor, frame: Frame) -> Emitted:
        return Emitted(SymbolTable(self.emission_log_probs), z, z.shape[2:3])

    def posterior(self, batch: Batch) -> Chain:
        nodes = SymbolTable(self.emission_log_probs).log_prob(batch.x.flatten(), _flat_mask(batch))
        return self._chain(nodes.unflatten(0, batch.x.shape), batch.ends)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        self._randomise(batch, generator)

    def free_parameters(self) -> int:
        """The dimensions in which the three tables can move, which is what AIC and BIC count, and not the networks'
        entries: K - 1 + K (K - 1) + K (V - 1) where the embeddings are as wide as there are states. Narrower ones make
        matrices of logits of rank `hidden` at most, which are that much less free (and for several times as many
        states as their width this counts up to a fifth too many: the networks then cannot move all states apart)."""
        (states, hidden), symbols = self.states.shape, len(self.words)
        rank = min(hidden, states - 1)
        moves = rank * (2 * states - rank)  # initial and transition, whose logits have K + 1 rows, up to one a row
        rank = min(hidden, states - 1, symbols - 1)
        tables = moves + symbols - 1 + rank * (states + symbols - 2 - rank)
        if len(self.move) > 1 or hidden >= states:
            return min(tables, super().free_parameters())
        # without networks one change of the embeddings' coordinates, or of their origin, leaves both tables as they are
        return min(tables, super().free_parameters() - hidden * hidden - 2 * hidden - 1)

    def check(self, batch: Batch) -> None:
        if batch.x.ndim != 2:
            raise DataError(f"this model takes sequences of symbols, x (B, T), not shape {tuple(batch.x.shape)}")
        check_symbols(batch.x, batch.mask, len(self.words))

    @torch.no_grad()
    def _randomise(self, batch: Batch | None, generator: torch.Generator) -> None:
        """Random networks and embeddings; each symbol's bias says how often it is in the data."""
        for network in (self.move, self.speak):
            glorot(network, generator)
        for embedding in (self.first, self.states, self.following, self.words):
            embedding.copy_(torch.empty(embedding.shape).normal_(generator=generator) * embedding.shape[-1] ** -0.25)
        counts = torch.zeros_like(self.word_bias)
        if batch is not None:
            weight = (batch.weights.unsqueeze(-1) * batch.observed).to(counts)
            # what lies under a mask may be no symbol at all
            symbols = torch.where(batch.observed, batch.x, 0).long()
            counts.index_add_(0, symbols.flatten(), weight.flatten())
        self.word_bias.copy_((counts + 1).log().log_softmax(-1))

    def _chain(self, node: Tensor, lengths: Tensor) -> Chain:
        transition = self.transition_log_probs.unsqueeze(0)
        return Chain({"initial": self.initial_log_probs, "transition": transition, "node": node}, lengths)


def _flat_mask(batch: Batch) -> Tensor | None:
    return None if batch.mask is None else batch.mask.flatten()


class Residual(nn.Module):
    """x + a network of one hidden layer: (..., hidden) to (..., hidden) (He et al. 2016)."""

    def __init__(self, hidden: int):
        super().__init__()
        self.inner, self.outer = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.inner(x).relu())


def tiny(seed: int) -> tuple[NeuralHMM, Batch]:
    """Two states over three symbols, and ragged sequences of at most four steps with two symbols hidden."""
    generator = torch.Generator().manual_seed(seed)
    model = NeuralHMM(symbols=3, states=2, hidden=4, length=3).double()
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(3, (5, 4), generator=generator)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 1] = mask[2, 2] = False
    return model, Batch.of(x, mask, lengths=torch.tensor([4, 2, 3, 1, 4]))
