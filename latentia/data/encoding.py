"""From the units of the data to those of the model, and back."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from latentia.data.cells import numbered
from latentia.data.columns import coded, index_of, rows
from latentia.data.limits import judge_repeated
from latentia.data.raw import NOUNS, Raw, first
from latentia.data.tokens import END, cut, join
from latentia.errors import DataError

if TYPE_CHECKING:
    from latentia.data.schema import Schema

RAGGED = ("sequence", "text")
MANY_UNKNOWN = 0.1
"""The share of words outside of the vocabulary above which a warning says so."""


class Encoded(NamedTuple):
    """What models see.

    Attributes:
        x: (N, *event) or padded (N, T, *event).
        mask: the shape of x, False = hidden; None where all is observed.
        lengths: (N,), of sequences and text: how many steps each has.
    """

    x: np.ndarray
    mask: np.ndarray | None
    lengths: np.ndarray | None


def encode(schema: Schema, raw: Raw) -> Encoded:
    """The data in the model's coordinates.

    Raises:
        DataError: `raw` is not of the kind, columns, shape or range that the schema describes.
    """
    raw = conform(schema, raw)
    if raw.mixed and not schema.kinds and not schema.categories:
        _refuse_words(raw)
    if schema.kinds:
        raw = coded(raw, schema.fields)
    elif schema.categories:
        raw = numbered(raw, schema.categories)
    check_range(schema, raw)
    _check_white(schema, raw)
    ragged = raw.kind in RAGGED
    x, mask, lengths = _pad(schema, raw) if ragged else (*_seen(schema, np.asarray(raw.values)), None)
    if schema.binarize == "fixed":
        assert raw.rows is not None  # every Raw has them
        x = draw(x, raw.rows, schema.seed)
        x = x if mask is None else np.where(mask, x, x.dtype.type(0))
        x = x if lengths is None else np.where(_inside(x, lengths), x, x.dtype.type(0))
    return Encoded(x, None if mask is None or mask.all() else mask, lengths)


def _refuse_words(raw: Raw) -> None:
    """Raise `DataError` for words where the run had numbers."""
    values = rows(raw)
    for j, told in enumerate(raw.told):
        seen = ~np.isnan(values[:, j])
        if told.names and seen.any():
            i = int(seen.argmax())
            word = told.names[int(values[i, j])]
            raise raw.error(f"holds text, {word[:80]!r}, where the run was fitted on numbers", index_of(raw, i, j))


def conform(schema: Schema, raw: Raw) -> Raw:
    """`raw` with its columns in the schema's order. Raises `DataError` where its kind or shape is another."""
    if raw.kind != schema.kind:
        raise DataError(f"the run was fitted on {NOUNS[schema.kind]}, {raw.source} holds {NOUNS[raw.kind]}")
    if raw.kind == "table":
        return _conform_columns(schema, raw)
    if not len(raw):
        return raw  # an empty part of a split has no step to look at
    if raw.kind == "image":
        _same(schema, np.shape(raw.values)[1:], raw)
    elif schema.values != "symbols":
        _same(schema, np.shape(raw.values[0])[1:] or (1,), raw)
    elif np.ndim(raw.values[0]) != 1 and raw.kind == "sequence":
        raise raw.error("sequences of vectors where the run was fitted on sequences of symbols")
    return raw


def _same(schema: Schema, shape: tuple[int, ...], raw: Raw) -> None:
    if shape != schema.event_shape:
        what = "images" if schema.kind == "image" else "steps"
        raise DataError(f"the run was fitted on {what} of shape {schema.event_shape}, {raw.source} has {shape}")


def _conform_columns(schema: Schema, raw: Raw) -> Raw:
    values = np.asarray(raw.values)
    fitted, found = schema.event_shape[0], values.shape[1]
    if schema.names and raw.names and set(raw.names) == set(schema.names):
        position = {name: j for j, name in enumerate(raw.names)}
        order = [position[name] for name in schema.names]
        told = tuple(raw.told[j] for j in order) if raw.told else ()
        return replace(raw, values=values[:, order], names=schema.names, told=told)
    if fitted != found or (schema.names and raw.names):
        raise DataError(
            f"the run was fitted on {_columns(fitted, schema.names)}, {raw.source} has {_columns(found, raw.names)}: "
            "choose the columns of the run"
        )
    return raw


def _columns(count: int, names: tuple[str, ...]) -> str:
    return f"{count} column{'s' if count != 1 else ''}" + (f" ({', '.join(names)})" if names else "")


def check_range(schema: Schema, raw: Raw) -> None:
    """Raise `DataError` at the first value that is none of the schema's levels, symbols or probabilities."""
    if schema.values in ("real", "mixed") or raw.kind == "text":
        return
    assert schema.levels is not None  # the schema has checked it
    top = schema.levels - 1 - schema.ends
    # between two levels, whoever binarizes means a probability
    probability = schema.binarize != "none" and top == 1

    def outside(values: np.ndarray) -> np.ndarray:
        bad = (values < 0) | (values > top)
        return bad if probability or values.dtype.kind != "f" else bad | (values % 1 > 0)

    index = first(raw.values, outside)
    if index is not None:
        value = np.asarray(raw.values[index[0]])[index[1:]]
        allowed = "probabilities from 0 to 1" if probability else f"whole numbers from 0 to {top}"
        raise raw.error(f"{value:g} is outside the schema, whose {schema.values} values are {allowed}", index)


def _check_white(schema: Schema, raw: Raw) -> None:
    """Raise `DataError` for images of 0 and 1, or between them, where the run's white is 16, 255 or 65535: that 1 would
    be all but black."""
    white = schema.scale[0] if schema.values == "real" and schema.scale else (schema.levels or 2) - 1
    if raw.kind != "image" or white < 2 or (schema.values == "real" and white not in (255, 65535)) or not len(raw):
        return
    largest = np.nanmax(raw.values, initial=0)
    if 0 < largest <= 1:
        raise DataError(
            f"{raw.source}: no value is above {largest:g}, where the run was fitted on grey levels of 0 to {white:g}: "
            f"multiply by {white:g} if 1 is white"
        )


def _seen(schema: Schema, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Values as models see them, 0 where they are not observed, and which are, None where they cannot be missing."""
    if values.dtype.kind != "f":
        return _transform(schema, values), None
    mask = ~np.isnan(values)
    if mask.all():
        return _transform(schema, values), mask
    x = _transform(schema, np.where(mask, values, 0))
    return np.where(mask, x, x.dtype.type(0)), mask


def _inside(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Where x (N, T, *event) has not ended."""
    steps = np.arange(x.shape[1]) < lengths[:, None]
    return steps.reshape(*steps.shape, *(1,) * (x.ndim - 2))


def _pad(schema: Schema, raw: Raw) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Sequences as models see them, (N, T, *event), zeros behind their ends; False where a value is missing, None where
    none is; and their lengths.

    What lies behind the ends is never written to, so that it takes no memory: one sequence may be very long.
    """
    steps = [_step(schema, value) for value in _indices(schema, raw)]
    if not isinstance(raw.values, list):
        # in one array shorter sequences can only be filled up
        steps = [step[: _last_seen(step)] for step in steps]
    steps = _finished(schema, raw, steps)
    longest = max(map(len, steps), default=1)
    _judge_padding(schema, raw, steps, longest)
    like = _transform(schema, np.zeros((0, *schema.event_shape)))
    x = np.zeros((len(steps), longest, *schema.event_shape), dtype=like.dtype)
    missing = None
    for i, step in enumerate(steps):
        x[i, : len(step)], seen = _seen(schema, step)
        if seen is not None and not seen.all():
            missing = np.zeros(x.shape, dtype=bool) if missing is None else missing
            missing[i, : len(step)] = ~seen
    lengths = np.array([len(step) for step in steps], dtype=np.int64)
    return x, None if missing is None else ~missing, lengths


def _finished(schema: Schema, raw: Raw, steps: list[np.ndarray]) -> list[np.ndarray]:
    """Sequences with the symbol that ends them, and cut where they are too long, which a warning tells."""
    if schema.end is not None:
        steps = [np.append(step, schema.end) for step in steps]
    if schema.longest is None:
        return steps
    long = sum(len(step) > schema.longest for step in steps)
    if long:
        warnings.warn(
            f"{raw.source}: {long:,} of {len(steps):,} have more than {schema.longest:,} symbols, and are cut off there"
            + (": they have no end" if schema.ends else ""),
            stacklevel=2,
        )
    return [step[: schema.longest] for step in steps]


def _last_seen(step: np.ndarray) -> int:
    """One past the last step of which anything is observed."""
    if step.dtype.kind != "f":
        return len(step)
    seen = np.flatnonzero(~np.isnan(step.reshape(len(step), -1)).all(1))
    return int(seen.max(initial=-1)) + 1


def _judge_padding(schema: Schema, raw: Raw, steps: list[np.ndarray], longest: int) -> None:
    """Raise `DataError` where padding to the longest sequence would be nearly all of the array."""
    each = math.prod(schema.event_shape)
    place = f"{raw.source}, {raw.where(([len(step) for step in steps].index(longest),))}" if steps else raw.source
    what = f"a sequence of {longest:,} steps, to which all others are padded: cut it (--max_length), or leave it out"
    judge_repeated(place, len(steps) * longest * each, sum(map(len, steps)) * each, what)


def _indices(schema: Schema, raw: Raw) -> list[np.ndarray]:
    if raw.kind != "text":
        return list(raw.values)
    index = {word: i for i, word in enumerate(schema.words)}
    if schema.ends and schema.tokens == "words":
        _refuse_ends(raw)
    texts = raw.values if schema.tokens == "words" else (cut(text, schema.tokens, schema.cutter) for text in raw.values)
    if schema.drops:
        # a text of which no word is known is one unknown word: a datum has a step at least
        texts = ([word for word in words if word in index] or words[:1] for words in texts)
        return [np.array([index.get(word, 0) for word in words], dtype=np.int64) for words in texts]
    found = [np.array([index.get(word, 0) for word in words], dtype=np.int64) for words in texts]
    share = unknown_share(found)
    if share > MANY_UNKNOWN:
        warnings.warn(
            f"{raw.source}: {share:.0%} of the words are not in the vocabulary, and all count as one word, <unk>: "
            "log p(x) and perplexity look better than they are, and do not compare with those of other text",
            stacklevel=2,
        )
    return found


def _refuse_ends(raw: Raw) -> None:
    """Raise `DataError` for a text in which the symbol that ends it is a word."""
    for i, words in enumerate(raw.values):
        if END in words:
            raise raw.error(f"the word {END!r}, which is what ends a text, and is added to each: leave it out", (i,))


def unknown_share(indices: Sequence[np.ndarray]) -> float:
    """The share of words that are none of the vocabulary: "<unk>", symbol 0."""
    words = sum(map(len, indices))
    return sum(int(np.count_nonzero(part == 0)) for part in indices) / max(words, 1)


def _step(schema: Schema, value: np.ndarray) -> np.ndarray:
    return value if value.ndim == 1 + len(schema.event_shape) else value[:, None]


def _transform(schema: Schema, values: np.ndarray) -> np.ndarray:
    if schema.values in ("levels", "symbols"):
        return values.astype(np.int64)
    if schema.values == "binary":
        assert schema.levels is not None  # the schema has checked it
        return values.astype(np.float32) / np.float32(schema.levels - 1)
    # images are many and their levels few: single precision holds them
    dtype = np.float32 if schema.kind == "image" else np.float64
    return (values.astype(dtype) - np.array(schema.shift, dtype)) / np.array(schema.scale, dtype)


def draw(probability: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """One draw of 0 and 1 for each value. A row's draw depends on its own number alone, not on the rows beside it."""
    drawn = np.empty(probability.shape, np.float32)
    for i, row in enumerate(rows):
        drawn[i] = np.random.default_rng([seed, int(row)]).random(probability.shape[1:]) < probability[i]
    return drawn


def decode(schema: Schema, x: np.ndarray, mask: np.ndarray | None, lengths: np.ndarray | None) -> np.ndarray | list:
    """x in the units of the data; NaN where it is hidden. Sequences are cut to their lengths."""
    if schema.end is not None:
        lengths = _without_end(schema.end, x, lengths)
    values = (
        x
        if schema.values not in ("real", "mixed")
        else x.astype(np.float64) * np.array(schema.scale) + np.array(schema.shift)
    )
    if schema.kind not in RAGGED:
        return _with_missing(values, mask)
    ends = np.full(len(x), x.shape[1]) if lengths is None else lengths
    masks = [None] * len(x) if mask is None else [part[:end] for part, end in zip(mask, ends, strict=True)]
    parts = [_with_missing(value[:end], part) for value, end, part in zip(values, ends, masks, strict=True)]
    if not schema.vocabulary:
        return parts
    return [join(_words(schema, part), schema.tokens, schema.cutter) for part in parts]


def _without_end(end: int, x: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """How many symbols of each come before the one that ends it."""
    before = np.where((x == end).any(1), (x == end).argmax(1), x.shape[1])
    return before if lengths is None else np.minimum(before, lengths)


def _with_missing(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    return values if mask is None or mask.all() else np.where(mask, values, np.nan)


def _words(schema: Schema, indices: np.ndarray) -> list[str]:
    return [schema.vocabulary[0 if np.isnan(i) else int(i)] for i in indices]
