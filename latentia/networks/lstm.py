"""Long short-term memory (Hochreiter and Schmidhuber 1997), as what reads a sequence and as what writes one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from latentia.networks.routes import Lookup, Slots, State, check_routes, with_each


class LSTMReader(nn.Module):
    """A sequence of vectors as one: the hidden state at its last step. (N, T, inputs) and lengths (N,) to (N, outputs).

    Args:
        inputs, hidden, layers: sizes; dropout: between the layers.
    """

    def __init__(self, inputs: int, hidden: int, layers: int = 1, dropout: float = 0.0):
        super().__init__()
        self.outputs = hidden
        self.lstm = nn.LSTM(inputs, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        read = self.steps(inputs, lengths)
        return read[torch.arange(len(read), device=read.device), (lengths - 1).clamp(min=0)]

    def steps(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """The state at each step, (N, T, outputs), which depends on those before it alone: what lies beyond the end
        changes nothing."""
        return self.lstm(inputs)[0]


class LSTMWriter(nn.Module):
    """What writes a sequence a step at a time, from the steps so far and from `given`, a vector of `given` numbers.

    `begin(given, size)` gives the state before the first step; `forward(inputs, state)` goes on by T steps, be it one
    or all: features (N, T, outputs), and the state after them.

    Args:
        inputs: width of a step; given: width of what it writes from, 0 for nothing.
        route: the ways by which that reaches it. initial: the first hidden state and cell are linear in it (Bowman et
            al. 2016, section 3). inputs: it stands beside every input. prefix: steps that are linear in it are read
            before the first. attention: every step looks at a memory that is linear in it. skip: it is added to every
            step's features, past the LSTM (Dieng et al. 2019).
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        layers: int = 1,
        dropout: float = 0.0,
        given: int = 0,
        route: Sequence[str] = ("initial", "inputs"),
    ):
        super().__init__()
        self.outputs, self.layers = hidden, layers
        self.route = check_routes(route) if given else ()
        wide = inputs + given if "inputs" in self.route else inputs
        self.lstm = nn.LSTM(wide, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.initial = nn.Linear(given, 2 * layers * hidden) if "initial" in self.route else None
        self.prefix = Slots(given, inputs) if "prefix" in self.route else None
        self.memory = Slots(given, hidden) if "attention" in self.route else None
        self.lookup = Lookup(hidden) if "attention" in self.route else None
        self.skip = nn.Linear(given, hidden, bias=False) if "skip" in self.route else None

    def begin(self, given: Tensor | None, size: int) -> State:
        like: Tensor = self.lstm.weight_hh_l0  # type: ignore[assignment]
        zeros = like.new_zeros(size, self.layers, self.outputs)
        state = {"hidden": zeros, "cell": zeros}
        if given is None:
            return state
        if self.initial is not None:
            hidden, cell = self.initial(given).unflatten(-1, (2, self.layers, -1)).unbind(1)
            state |= {"hidden": hidden.tanh(), "cell": cell}
        if self.memory is not None:
            state["memory"] = self.memory(given)
        if self.skip is not None or "inputs" in self.route:
            state["given"] = given
        return state if self.prefix is None else self(self.prefix(given), state)[1]

    def forward(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        wide = with_each(inputs, state["given"]) if "inputs" in self.route else inputs
        before = (state["hidden"].transpose(0, 1).contiguous(), state["cell"].transpose(0, 1).contiguous())
        features, (hidden, cell) = self.lstm(wide, before)
        if self.lookup is not None:
            features = features + self.lookup(features, state["memory"])
        if self.skip is not None:
            features = features + self.skip(state["given"]).unsqueeze(1)
        return features, state | {"hidden": hidden.transpose(0, 1), "cell": cell.transpose(0, 1)}
