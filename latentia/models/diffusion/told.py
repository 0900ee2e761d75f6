"""What the networks of a diffusion are told of a context."""

from __future__ import annotations

from torch import Tensor

from latentia.batch import Batch, Frame
from latentia.errors import DataError
from latentia.networks.columns import DroppedColumns


def told(columns: DroppedColumns | None, frame: Frame, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The context as numbers, (B, C), and what stands for none; both None for a model that is given none."""
    if columns is None:
        return None, None
    context = frame.context
    if context is None:
        return columns.rows(None, None, frame.size, like)
    return columns.rows(context.x, context.seen, frame.size, like)


def check_context(columns: DroppedColumns | None, batch: Batch) -> None:
    """Raise `DataError` for a context of other columns than the model's. Draws may do without any."""
    expected = 0 if columns is None else len(columns.levels)
    found = 0 if batch.context is None else batch.context.x.flatten(1).shape[1]
    if expected and not found:
        raise DataError(f"this model is given a context of {expected} columns, and the data have none")
    if expected and found != expected:
        raise DataError(f"this model is given a context of {expected} columns, and that of the data has {found}")
