"""Command lines: parsers with errors that say what to do, and what is said beside the results."""

from __future__ import annotations

import argparse
import difflib
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

from latentia.errors import OptionError


def like(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


class Parser(argparse.ArgumentParser):
    """argparse, with errors as `OptionError` and suggestions for misspelt options."""

    def __init__(self, command: str, description: str):
        form = argparse.ArgumentDefaultsHelpFormatter
        super().__init__(f"latentia {command}", description=description, formatter_class=form, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message}; see {self.prog} --help")

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
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if not self.least <= number < 2**63:
            raise argparse.ArgumentTypeError(f"{number} is no whole number of {self.least} or more, below 2^63")
        return number

    def __repr__(self) -> str:
        return f"whole number from {self.least}"  # what --help calls it


def refuse(unknown: list[str], known: Any, program: str) -> None:
    if unknown:
        option = unknown[0].split("=")[0]
        raise OptionError(f"unknown option {option}{like(option, known)}; see {program} --help")


def say(text: str) -> None:
    print(text, file=sys.stderr)
