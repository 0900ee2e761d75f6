"""How a learner records its steps, saves where it is, and goes on from there: the same for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from latentia.learners.checkpoint import Checkpoint, Tensors, prefixed, take_up, under
from latentia.learners.history import Callback, History, Record


class Resumable(ABC):
    """What a checkpoint holds: tensors in named parts, and beside them the attributes whose names are `STATE`."""

    STATE: ClassVar[Sequence[str]]

    @abstractmethod
    def _parts(self) -> dict[str, Tensors]:
        """All tensors that are needed to go on, by the name of their part."""

    @abstractmethod
    def _take_parts(self, part: Callable[[str], Tensors], state: dict[str, Any]) -> None:
        """Go on from these tensors: `part` gives those of a name. The attributes are set afterwards."""

    def _write(self, checkpoint: Checkpoint) -> None:
        tensors: Tensors = {}
        for name, part in self._parts().items():
            tensors |= prefixed(name, part)
        checkpoint.save(tensors, {name: getattr(self, name) for name in self.STATE})

    def _read(self, checkpoint: Checkpoint, tensors: Tensors, state: dict[str, Any]) -> None:
        """Take up what `checkpoint` gave. Raises `RunError` where that is not of this model and learner."""
        with checkpoint.fitting():
            self._take_parts(lambda name: under(name, tensors), state)
            take_up(self, self.STATE, state)


class Course(Resumable):
    """One run of a learner: what it has told so far, to whom it tells the next step, and where it is saved."""

    def __init__(self, callbacks: Sequence[Callback], checkpoint: Checkpoint | None):
        self.callbacks, self.checkpoint = callbacks, checkpoint
        self.records = 0
        self.history = History()

    def record(self, record: Record) -> None:
        self.records += 1
        self.history.records.append(record)
        for callback in self.callbacks:
            callback(record)

    def save(self) -> None:
        """Save, where there is a checkpoint to save to."""
        if self.checkpoint:
            self._write(self.checkpoint)

    def save_if_due(self) -> None:
        if self.checkpoint and self.checkpoint.due:
            self.save()

    def resume(self) -> bool:
        """Go on from the checkpoint, where there is one. Returns whether there was."""
        saved = self.checkpoint.load() if self.checkpoint else None
        if self.checkpoint is None or saved is None:
            return False
        self._read(self.checkpoint, *saved)
        return True
