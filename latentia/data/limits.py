"""How much memory a source may ask for: judged by what its header promises, before any is taken.

A few bytes can promise terabytes: a count of 2^31, a header, a zip that unpacks to a thousand times its size. What is
within a machine's means is not known here; what is out of all proportion to the source is. An array saved without
compression is never refused.
"""

from __future__ import annotations

from latentia.errors import DataError

ALWAYS = 2**25
"""Values that any source may have: some 256 MB of them."""
PER_BYTE = 64
"""Values for each byte of a file. Line drawings as PNG have some 40, MNIST as gzip has 5."""
PER_VALUE = 128
"""Values that each one that was given may become: repetitions of a word, or padding to the longest sequence."""
SYMBOLS = 2**16
"""Symbols that any data may have; beyond it there must be as many observations."""


def judge(place: str, values: int, size: int) -> None:
    """Raise `DataError` where `values` numbers are out of proportion to a file of `size` bytes."""
    if values > max(ALWAYS, PER_BYTE * size):
        raise DataError(
            f"{place} promises {values:,} values in {size:,} bytes: it is damaged or made to fill the memory; if it is "
            "right, save it as an uncompressed .npy array"
        )


def judge_repeated(place: str, values: int, given: int, what: str) -> None:
    """Raise `DataError` where `given` numbers would become out of proportion as many `values`."""
    if values > max(ALWAYS, PER_VALUE * given):
        raise DataError(f"{place}: {what}: {values:,} values would be made of {given:,}, which no memory is asked for")


def judge_symbols(place: str, symbols: int, observed: int) -> None:
    """Raise `DataError` where there are many more symbols than values observed: most could not be learned."""
    if symbols > max(SYMBOLS, observed):
        raise DataError(
            f"{place}: symbol {symbols - 1} is the largest: {symbols:,} symbols would be told from {observed:,} "
            "observations: number the symbols from 0 without gaps, or give sequences of words (text)"
        )
