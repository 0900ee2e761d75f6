"""What a page is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from latentia.errors import CapabilityError


@dataclass
class Panel:
    """A figure, pictures, a table, words or a remark, with a caption that says what one sees and in which units.

    Attributes:
        kind: which part of the template sets it.
        content: an SVG text; a list of rows of pictures; {"head", "rows", "numbers"}; a list of {"name", "words"};
            lines of text; or a remark.
    """

    kind: Literal["svg", "pictures", "table", "states", "lines", "note"]
    content: Any
    caption: str = ""
    title: str = ""

    @property
    def name(self) -> str:
        """What a screen reader calls it: its title, and what its caption says first."""
        return ": ".join(filter(None, (self.title, self.caption.split(". ")[0].rstrip("."))))


@dataclass
class Section:
    """A chapter of the page; left out where it has no panels."""

    id: str
    title: str
    lead: str = ""
    panels: list[Panel] = field(default_factory=list)


def table(head: list[str], rows: list[list[str]], caption: str = "", title: str = "", text: int = 1) -> Panel:
    """A table whose first `text` columns are words and whose others are numbers, set to the right."""
    return Panel("table", {"head": head, "rows": rows, "text": text}, caption, title)


def gathered(*makers: Callable[[], Iterable[Panel]]) -> list[Panel]:
    """The panels of all makers. What a model cannot do is left out; what fails is said, and the page still made."""
    panels: list[Panel] = []
    for make in makers:
        try:
            panels += make()
        except (CapabilityError, NotImplementedError):
            continue
        except (RuntimeError, ValueError, ArithmeticError) as error:  # such as a model whose learning diverged
            what = str(error).strip().split("\n")[0][:300]
            panels.append(Panel("note", f"A part of this section could not be made: {what}"))
    return panels
