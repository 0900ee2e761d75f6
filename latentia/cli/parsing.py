"""Command lines: parsers with errors that say what to do, and what is said beside the results."""

from __future__ import annotations

import argparse
import difflib
import math
import re
import sys
import unicodedata
from dataclasses import dataclass
from typing import Any, NoReturn

from latentia.errors import OptionError


def like(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def brief(message: str) -> str:
    """The message, without the far end of what was given and is longer than anybody reads."""
    return re.sub(r"\S{100,}", lambda word: f"{word[0][:80]}...", message)


class Parser(argparse.ArgumentParser):
    """argparse, with errors as `OptionError` and suggestions for misspelt options."""

    def __init__(self, command: str, description: str):
        form = argparse.ArgumentDefaultsHelpFormatter
        super().__init__(f"latentia {command}", description=description, formatter_class=form, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{brief(message)}; see {self.prog} --help")

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        parsed, unknown = self.parse_known_args(arguments)
        refuse(unknown, self._option_string_actions, self.prog)
        return parsed


@dataclass(frozen=True)
class Whole:
    """A parser of whole numbers from `least` up to what torch can hold."""

    least: int

    def __call__(self, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:80]!r} is no whole number") from None
        if not self.least <= number < 2**63:
            raise argparse.ArgumentTypeError(
                f"{text.strip()[:80]} is no whole number of {self.least} or more, below 2^63"
            )
        return number

    def __repr__(self) -> str:
        return f"whole number from {self.least}"  # what --help calls it


@dataclass(frozen=True)
class Rate:
    """A parser of learning rates: above 0, and no larger than that a step is one in float32."""

    most: float = 1e3

    def __call__(self, text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 < number <= self.most:
            raise argparse.ArgumentTypeError(f"{text[:80]!r} is no number above 0 and at most {self.most:g}")
        return number

    def __repr__(self) -> str:
        return f"number above 0, at most {self.most:g}"


def refuse(unknown: list[str], known: Any, program: str) -> None:
    if unknown:
        option = unknown[0].split("=")[0]
        raise OptionError(f"unknown option {option}{like(option, known)}; see {program} --help")


def say(text: str) -> None:
    """Beside the results, on standard error."""
    print(printable(text), file=sys.stderr)


def tell(text: str) -> None:
    """A result, on standard output. Raises `OptionError` where that is closed: it would be lost without a word."""
    show(printable(text) + "\n")


def show(drawn: str) -> None:
    """What has been drawn for the terminal, colours and all, on standard output. Raises `OptionError` as `tell`."""
    if sys.stdout is None:
        raise OptionError("standard output is closed, and the result is written there: open it, or redirect it")
    print(drawn, end="")


def printable(text: str) -> str:
    """The text with the characters that a terminal obeys, and those that no text has, as escapes.

    File names, column names and what a run was asked for may come from a stranger, and an escape sequence among them
    would move the cursor, recolour or rename the window, or, right to left, show other words than are there. Line ends
    and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if each in "\n\t" or not _commands(each) else _escaped(each) for each in text)


def _commands(character: str) -> bool:
    # control, format (such as right to left), half a surrogate pair, line and paragraph separators
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escaped(character: str) -> str:
    return (
        character.encode("ascii", "backslashreplace").decode() if ord(character) > 127 else f"\\x{ord(character):02x}"
    )
