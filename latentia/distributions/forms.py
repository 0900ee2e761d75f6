"""Logical forms, which are trees: s-expressions of the lambda calculus, read and written.

    ( lambda $0 e ( and ( flight $0 ) ( from $0 ci0 ) ) )

A form is a word, or in brackets a word and the forms that it is applied to.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from latentia.errors import DataError

_TOKEN = re.compile(r"[()]|[^\s()]+")


class Form(NamedTuple):
    """A word applied to forms; a word alone has none.

    Attributes:
        head: the word.
        parts: what it is applied to.
    """

    head: str
    parts: tuple[Form, ...] = ()

    def __str__(self) -> str:
        return f"( {self.head} {' '.join(map(str, self.parts))} )" if self.parts else self.head


def read_form(text: str, source: str = "the form") -> Form:
    """The one form that a text is.

    Args:
        source: what errors are to call it, such as "train.tsv, line 3".

    Raises:
        DataError: a bracket without its other half, brackets without a word or with nothing that it is applied to, or
            anything beside the one form; it names the position in the text, from 1.
    """
    form, rest = _read(list(_TOKEN.finditer(text)), text, source, "a form")
    if rest:
        raise _error(source, rest[0].start(), f"{rest[0][0]!r} stands behind the end of the form: a line has one form")
    return form


def _read(tokens: list[re.Match[str]], text: str, source: str, wanted: str) -> tuple[Form, list[re.Match[str]]]:
    """The form that the tokens begin with, and the tokens behind it. No recursion: a form may be as deep as it is
    long."""
    open_: list[tuple[int, str, list[Form]]] = []
    for i, token in enumerate(tokens):
        word, place = token[0], token.start()
        if word == "(":
            open_.append((place, "", []))
            continue
        if word != ")":
            if open_ and not open_[-1][1]:
                open_[-1] = (open_[-1][0], word, open_[-1][2])
                continue
            done = Form(word)
        else:
            if not open_:
                raise _error(source, place, "a closing bracket without an opening one")
            began, head, parts = open_.pop()
            if not parts:
                raise _error(source, began, "brackets hold a word and what it is applied to: (flight $0)")
            done = Form(head, tuple(parts))
        if not open_:
            return done, tokens[i + 1 :]
        if not open_[-1][1]:
            raise _error(source, open_[-1][0], "brackets begin with a word, and here with brackets")
        open_[-1][2].append(done)
    if open_:
        raise _error(source, open_[-1][0], "the bracket that opens here is never closed")
    raise _error(source, len(text.rstrip()), f"{wanted} is wanted, and there is nothing")


def _error(source: str, place: int, what: str) -> DataError:
    return DataError(f"{source}, position {place + 1}: {what}")
