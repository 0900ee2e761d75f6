"""What writes sentences: a table of words, a network that goes on from one word to the next, and an output layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from latentia.errors import OptionError
from latentia.networks.bags import MeanReader
from latentia.networks.lstm import LSTMReader, LSTMWriter
from latentia.networks.resampler import Resampled
from latentia.networks.routes import SLOTS, State
from latentia.networks.transformer import Positions, Stack, TransformerReader, TransformerWriter

NETWORKS = ("lstm", "transformer")
Writer = LSTMWriter | TransformerWriter


class Decoder(nn.Module):
    """Symbols one after another, each from those before it and from a vector: logits over all V at every step.

    The symbol before the first is a vector of its own.

    Args:
        symbols: V.
        width: of a word's vector.
        writer: the network between.
        tie: the output layer's weights are the words' own vectors (Press and Wolf 2017), behind a linear map where the
            widths differ.
        dropout: of what goes into the network and of what comes out, while learning.
        word_dropout: share of the words that the network is not shown while learning: it sees symbol 0 in their place,
            in text the unknown word (Bowman et al. 2016, section 3.1).
    """

    def __init__(
        self, symbols: int, width: int, writer: Writer, tie: bool = True, dropout: float = 0.0,
        word_dropout: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        for name, share in (("dropout", dropout), ("word_dropout", word_dropout)):
            if not 0 <= share < 1:
                raise OptionError(f"{name}={share}: it must be at least 0 and below 1")
        self.symbols, self.word_dropout = symbols, word_dropout
        self.embedding = nn.Embedding(symbols, width)
        self.before = nn.Parameter(torch.zeros(width))
        self.writer = writer
        outputs = writer.outputs
        self.narrow = nn.Linear(outputs, width, bias=False) if tie and outputs != width else None
        self.output = None if tie else nn.Parameter(torch.empty(symbols, outputs).normal_(std=outputs**-0.5))
        self.bias = nn.Parameter(torch.zeros(symbols))
        self.drop = nn.Dropout(dropout)

    def features(self, x: Tensor, given: Tensor | None, shape: Sequence[int], where: Tensor) -> Tensor:
        """What the output layer turns into logits, (M, W): logits = features @ table^T + bias.

        Args:
            x: (B, T) or (S, B, T); given: (S, B, C); shape: (S, B).
            where: (M,), which of the S x B x T steps are asked for.
        """
        inputs = self.inputs(x)
        inputs = inputs.expand(*shape, *inputs.shape[-2:]).flatten(0, 1)
        start = self.writer.begin(None if given is None else given.flatten(0, 1), len(inputs))
        features, _ = self.writer(self.drop(inputs), start)
        return self._narrowed(features.flatten(0, 1).index_select(0, where))

    def begin(self, given: Tensor | None, size: int) -> tuple[Tensor, State]:
        """Logits of the first symbol, (N, V), and the state; given (N, C)."""
        return self._forward(self.before.expand(size, -1), self.writer.begin(given, size))

    def step(self, symbol: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits of the symbol after `symbol` (N,), (N, V), and the state after it."""
        return self._forward(self.embedding(symbol), state)

    def _forward(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        features, state = self.writer(self.drop(inputs).unsqueeze(1), state)
        return torch.addmm(self.bias, self._narrowed(features.squeeze(1)), self.table.mT), state

    def inputs(self, x: Tensor) -> Tensor:
        """The words before each, (..., T, width)."""
        x = x[..., :-1]
        if self.training and self.word_dropout:
            x = torch.where(torch.rand(x.shape, device=x.device) < self.word_dropout, 0, x)
        return torch.cat([self.before.expand(*x.shape[:-1], 1, -1), self.embedding(x)], -2)

    def _narrowed(self, features: Tensor) -> Tensor:
        features = self.drop(features)
        return features if self.narrow is None else self.narrow(features)

    @property
    def table(self) -> Tensor:
        """The output layer's weights, (V, W)."""
        return self.embedding.weight if self.output is None else self.output


def decoder(
    network: str,
    symbols: int,
    *,
    embedding: int,
    hidden: int,
    layers: int,
    given: int = 0,
    route: Sequence[str] = (),
    dropout: float = 0.0,
    word_dropout: float = 0.0,
    tie: bool = True,
    heads: int = 4,
    positions: Positions = "rotary",
    length: int = 128,
) -> Decoder:
    """A decoder by its network's name. Raises `OptionError` for another name."""
    if network == "lstm":
        writer: Writer = LSTMWriter(embedding, hidden, layers, dropout, given, route or ("initial", "inputs"))
    elif network == "transformer":
        # a prefix has places too
        more = {"heads": heads, "positions": positions, "length": length + SLOTS}
        writer = TransformerWriter(embedding, hidden, layers, dropout, given, route or ("prefix",), **more)
    else:
        raise OptionError(f"network={network!r}: choose one of {', '.join(NETWORKS)}")
    return Decoder(symbols, embedding, writer, tie, dropout, word_dropout)


class Encoder(nn.Module):
    """A sentence as numbers, (B, outputs): words by their vectors, a network that reads them, and a linear map. What is
    hidden is read as a vector of zeros."""

    def __init__(self, symbols: int, embedding: int, reader: nn.Module, outputs: int, dropout: float = 0.0):
        super().__init__()
        self.embedding, self.reader = nn.Embedding(symbols, embedding), reader
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(reader.outputs, outputs)  # type: ignore[arg-type]

    def forward(self, x: Tensor, seen: Tensor, lengths: Tensor) -> Tensor:
        """From symbols (B, T), which of them are seen, and how many there are of each sentence (B,)."""
        words = self.embedding(torch.where(seen, x, 0)) * seen.unsqueeze(-1)
        return self.out(self.drop(self.reader(self.drop(words), lengths)))


def encoder(
    network: str,
    symbols: int,
    outputs: int,
    *,
    embedding: int,
    hidden: int,
    layers: int,
    dropout: float = 0.0,
    heads: int = 4,
    positions: Positions = "rotary",
    length: int = 128,
    vectors: int | None = None,
) -> Encoder:
    """An encoder by its network's name: lstm, transformer, or mean, which knows no order and has no layers of its own;
    by so many vectors where it is told. Raises `OptionError` for another name."""
    if network == "mean":
        reader: Any = MeanReader(embedding)
    elif network == "lstm":
        reader = LSTMReader(embedding, hidden, layers, dropout)
    elif network == "transformer":
        reader = TransformerReader(embedding, hidden, layers, dropout, heads, positions, length)
    else:
        raise OptionError(f"network={network!r}: choose one of {', '.join(NETWORKS)}")
    reader = reader if vectors is None else Resampled(reader, vectors, heads)
    return Encoder(symbols, embedding, reader, outputs, dropout)


@torch.no_grad()
def begin(module: nn.Module, generator: torch.Generator) -> None:
    """Random weights: Glorot and Bengio's (2010) for linear maps, words' vectors of norm one, and for an LSTM uniform
    ones of width 1 / sqrt(H), with a forget gate that begins open (Jozefowicz et al. 2015)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            _uniform(layer.weight, (6 / sum(layer.weight.shape)) ** 0.5, generator)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, nn.Embedding):
            layer.weight.copy_(_normal(layer.weight, generator) * layer.weight.shape[1] ** -0.5)
        elif isinstance(layer, nn.LSTM):
            _begin_lstm(layer, generator)
        elif isinstance(layer, nn.LayerNorm):
            layer.reset_parameters()
        elif isinstance(layer, Decoder):
            layer.before.zero_()
            if layer.output is not None:
                layer.output.copy_(_normal(layer.output, generator) * layer.output.shape[1] ** -0.5)
        elif isinstance(layer, Stack | Resampled):
            layer.begin_own(generator)


def _begin_lstm(layer: nn.LSTM, generator: torch.Generator) -> None:
    for name, weight in layer.named_parameters():
        if name.startswith("bias"):
            weight.zero_()
            # two biases that are added
            weight[layer.hidden_size : 2 * layer.hidden_size] = 0.5
        else:
            _uniform(weight, layer.hidden_size**-0.5, generator)


def _uniform(weight: Tensor, bound: float, generator: torch.Generator) -> None:
    weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))


def _normal(weight: Tensor, generator: torch.Generator) -> Tensor:
    return torch.empty(weight.shape).normal_(generator=generator).to(weight)


@torch.no_grad()
def start_decoder(module: nn.Module, x: Tensor, seen: Tensor, weight: Tensor, generator: torch.Generator) -> None:
    """Random weights in every decoder inside; each symbol's bias says how often it is in the data, x (B, T)."""
    begin(module, generator)
    for part in module.modules():
        if isinstance(part, Decoder):
            part.bias.copy_(log_frequencies(x, seen, weight, part.bias))


def log_frequencies(x: Tensor, seen: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    """How often each symbol is seen in x (B, T), as log-probabilities like a bias (V,), with one more of each."""
    counts = torch.zeros_like(like)
    symbols = torch.where(seen, x, 0).long()
    counts.index_add_(0, symbols.flatten(), (weight.unsqueeze(-1) * seen).to(counts).flatten())
    return (counts + 1).log().log_softmax(-1)
