"""A progress bar on the terminal, silent elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """A context that shows how far a fit is, and its figures in nats per datum."""

    def __init__(self, what: str, total: int, done: int = 0, shown: bool = True):
        console = Console(stderr=True)
        columns = ("{task.description}", BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(
            *columns, TextColumn("{task.fields[figures]}"), console=console, disable=not (shown and console.is_terminal)
        )
        self.task = self.progress.add_task(what, total=total, completed=done, figures="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def show(self, done: float, **figures: float | None) -> None:
        """Move to `done` and show the figures that there are."""
        text = "  ".join(f"{name} {value:.3f}" for name, value in figures.items() if value is not None)
        self.progress.update(self.task, completed=done, figures=text)
