"""What a learner is, and what it tells when it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from latentia.data import Dataset
from latentia.learners.checkpoint import Checkpoint
from latentia.model import LatentVariableModel

Record = dict[str, Any]
Callback = Callable[[Record], None]


@dataclass(repr=False)
class History:
    """The course of a fit.

    Attributes:
        records: one dict an epoch (`Gradient`) or a step (`EM`), in nats per datum, in the units of the data as
            given.
        stopped: why it ended: "converged", "steps" (or "epochs") used up, or "patience" at an end.
        restarts: the value at which each of EM's restarts ended, log p(x) + log-prior in nats per datum.
    """

    records: list[Record] = field(default_factory=list)
    stopped: str = ""
    restarts: list[float] = field(default_factory=list)

    def __repr__(self) -> str:
        last = self.records[-1] if self.records else {}
        told = {name: value for name, value in last.items() if isinstance(value, float) and name != "seconds"}
        figures = ", ".join(f"{name} {value:.5g}" for name, value in told.items())
        return f"<History: {len(self.records):,} records, {self.stopped or 'not ended'}; the last: {figures or 'none'}>"


class Learner(Protocol):
    def fit(
        self,
        model: LatentVariableModel,
        data: Dataset,
        *,
        validation: Dataset | None = None,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        checkpoint: Checkpoint | None = None,
    ) -> History:
        """Set the model's parameters. The same seed gives the same parameters."""
        ...
