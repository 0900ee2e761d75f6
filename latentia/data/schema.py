"""`Schema`: what the data are, and the only place that knows how to turn them into x and back."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from latentia.data import colour, columns, encoding, meanings, writing
from latentia.data.cells import classes_of, is_cells, kinds, named
from latentia.data.columns import Column
from latentia.data.limits import SYMBOLS, judge_symbols
from latentia.data.raw import KINDS, NOUNS, Raw, first
from latentia.data.tokens import END, TOKENS, UNKNOWN, learn
from latentia.distributions.grammar import Grammar
from latentia.errors import DataError, OptionError

if TYPE_CHECKING:
    from latentia.data.dataset import Dataset

VALUES = ("real", "binary", "levels", "symbols", "mixed")
SCALES = ("auto", "standard", "none")
BINARIZE = ("none", "fixed", "dynamic")
MANY_COLUMNS = 12
"""Of more mixed columns the description counts how many there are of each kind."""


ARRAY = "array"
"""The kind of data that nothing is known of but their shape: a batch."""


@dataclass(frozen=True, repr=False)
class Schema:
    """The kind of x, and the transform between the data as given and x as models see it.

    Attributes:
        kind: "table", "sequence", "text" or "image"; "array" of tensors that come without a word of what they are.
        values: "real"; "binary", 0 and 1; "levels", whole numbers with a fixed x shape; "symbols", one a step; "mixed",
            columns that are each of a kind of their own.
        event_shape: the shape of one x: (D,) for a table, (H, W) or (H, W, C) for images; for sequences and text the
            shape of one step: () for symbols, (D,) for vectors.
        names: the names of a table's columns, () where it has none.
        vocabulary: the words of a text, the first one "<unk>".
        levels: how many levels or symbols there are; for binary values, grey levels before binarizing (2 where the
            data were 0 and 1); None for real and mixed values. Of symbols and levels that are numbers, and of
            categories, a run counts those of its held-out data too: how many there can be is part of what the data
            are. Words are counted in the training data alone, new ones being "<unk>".
        shift, scale: x = (value - shift) / scale; one a column (0 and 1 where it is no number), one in all for images,
            () for discrete values.
        binarize: "none"; "fixed", drawn once when encoding; "dynamic", x is a probability and drawn at each batch.
        seed: of the fixed draw.
        kinds: of each column of mixed values "real", "category", "binary" (yes or no) or "count"; () of all others.
        categories: of each column, where they are mixed or of a context, the names of its categories, () where it is of
            numbers.
        context: the schema of what the model conditions on, None where there is nothing.
        classes: the names of the classes that labels say, () where there are none.
        grammar: of the logical forms that labels are, its signature, "" where they are none; actions: how many such a
            form has at most.
        drops: words that are none of the vocabulary are left out of a text, and do not count as "<unk>".
        ends: of sequences of symbols and text: whether each has a last symbol that says that it ends, which a model of
            the end counts. It is the last of all, and `levels` and `vocabulary` have it.
        tokens: what a text is made of: words, bytes or subwords; cutter: how subwords are cut, as JSON.
        longest: symbols that a sequence or text has at most: longer ones are cut off there, and have no end.
        chroma: of images in colour that are read as their chroma given grey, the step and the reach of the grid whose
            points the levels are, see `latentia.data.colour`; () of all others.
        source: where the data came from; two schemas that differ only in this are equal.

    Raises:
        DataError: parts that contradict each other.
    """

    kind: str
    values: str
    event_shape: tuple[int, ...]
    names: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()
    levels: int | None = None
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    binarize: str = "none"
    seed: int = 0
    categories: tuple[tuple[str, ...], ...] = ()
    context: Schema | None = None
    classes: tuple[str, ...] = ()
    grammar: str = ""
    actions: int = 0
    drops: bool = False
    ends: bool = False
    tokens: str = "words"
    cutter: str = ""
    longest: int | None = None
    kinds: tuple[str, ...] = ()
    chroma: tuple[float, ...] = ()
    source: str = field(default="data", compare=False)

    def __post_init__(self) -> None:
        real, symbolic = self.values in ("real", "mixed"), self.values == "symbols"
        count = 0 if not real else 1 if self.kind in ("image", ARRAY) else math.prod(self.event_shape)
        checks = {
            "kind": self.kind in (*KINDS, ARRAY),
            "values": self.values in VALUES,
            "binarize": self.binarize in BINARIZE,
            "event_shape": all(size > 0 for size in self.event_shape) and not (symbolic and self.event_shape),
            "names": len(self.names) in (0, math.prod(self.event_shape)),
            "levels": real if self.levels is None else self.levels > (self.values == "binary"),
            "vocabulary": len(self.vocabulary) == (self.levels if self.kind == "text" else 0),
            "shift": len(self.shift) == count and all(map(math.isfinite, self.shift)),
            "scale": len(self.scale) == count and all(0 < scale < math.inf for scale in self.scale),
            "categories": len(self.categories) in (0, math.prod(self.event_shape))
            and (self.kind in ("table", "sequence") or not self.categories),
            "kinds": self._good_kinds(),
            "ends": symbolic or not self.ends,
            "tokens": self.tokens in TOKENS and (self.kind == "text" or self.tokens == "words"),
            "cutter": bool(self.cutter) == (self.tokens == "subwords"),
            "chroma": self._good_chroma(),
            "actions": (self.actions > 0) == bool(self.grammar),
            "longest": self.longest is None or (self.longest > 0 and self.kind in encoding.RAGGED),
        }
        for name, good in checks.items():
            if not good:
                raise DataError(f"the schema of {self.source} is damaged: {name} is {getattr(self, name)!r}")

    def _good_kinds(self) -> bool:
        if self.values != "mixed":
            return not self.kinds
        if not len(self.kinds) == len(self.categories) == math.prod(self.event_shape):
            return False
        named = {"real": (0,), "count": (0,), "binary": (0, 2), "category": range(1, SYMBOLS)}
        return all(len(names) in named.get(kind, ()) for kind, names in zip(self.kinds, self.categories, strict=True))

    def _good_chroma(self) -> bool:
        if not self.chroma:
            return True
        images = self.kind == "image" and self.values == "levels" and self.context is not None
        return images and len(self.chroma) == 2 and self.levels == self.grid.symbols

    @classmethod
    def of(
        cls,
        raw: Raw,
        *,
        values: str = "auto",
        scale: str = "auto",
        binarize: str = "none",
        min_count: int = 2,
        max_vocabulary: int | None = None,
        min_documents: float | None = None,
        max_documents: float | None = None,
        seed: int = 0,
        observed: int | None = None,
        ends: bool = False,
        tokens: str = "words",
        longest: int | None = None,
        forms: str | None = None,
    ) -> Schema:
        """What the training data say.

        Args:
            raw: the training data.
            values: one of `VALUES`; or "colour", or "colour:STEP:REACH", for images in colour, as the levels of their
                chroma on that grid given the grey image (`latentia.data.colour`); "auto": symbols for text and
                sequences of integers; mixed for a table with columns of words; binary where all is 0 or 1 or `binarize`
                asks for it; else real. "mixed" tells the kind of each column of a table from its type and its values.
            scale: of real values. "standard": mean 0 and variance 1 by the observed entries; "none"; "auto":
                standard for tables and sequences, divided by the largest possible grey level for images.
            binarize: "fixed" or "dynamic" takes level / largest level as the probability of a 1 (Salakhutdinov &
                Murray 2008). Data that are 0 and 1 already are left alone.
            min_count: rarer words are "<unk>".
            max_vocabulary: at most so many words, with "<unk>", the commonest first.
            min_documents, max_documents: leave out words that occur in fewer, or in more, texts than that: a number
                of texts from 1 up, below 1 a share of them (1.0 is all). They are dropped, and not "<unk>".
            seed: of the fixed draw, 0 or more.
            observed: how many values the data hold, where `raw` is no more than their extremes.
            ends: whether the end of a sequence of symbols or a text is a symbol too.
            tokens: words, bytes or subwords, of which `max_vocabulary` are learned.
            longest: symbols of a sequence or a text at most.
            forms: the labels of a text are logical forms, of a grammar with this signature; "": of that which they
                imply. None: they are classes.

        Raises:
            DataError: the values are not of the kind asked for, or a column has no observed value.
            OptionError: an option that makes no sense.
        """
        if (grid := colour.asked(values)) is not None:
            if scale == "standard" or binarize != "none":
                raise OptionError(f"values={values!r} are points of a grid: leave out scale and binarize")
            return cls._colour(raw, grid)
        _check_options(values, scale, binarize, seed)
        written: dict[str, Any] = _written(raw, ends, tokens, longest)
        if is_cells(raw):
            categories, shift, factor = kinds(_present(raw))
            parts: dict[str, Any] = {"shift": shift, "scale": factor, "categories": categories, "source": raw.source}
            return cls("table", "real", (len(categories),), raw.names, **parts)
        beside: dict[str, Any] = {
            "context": None if raw.context is None else _given(cls, raw.context, min_count, max_vocabulary),
            "classes": () if raw.labels is None or forms is not None else classes_of(raw.labels),
        }
        if values == "mixed" or (values == "auto" and raw.mixed):
            return cls._mixed(raw, scale, binarize, beside)
        if raw.mixed:
            j = next((j for j, told in enumerate(raw.told) if told.names), 0)
            raise raw.error(
                f"{raw.column(j)} holds words or is said to be no number, and values={values!r} asks for numbers "
                "alone: leave it out by --exclude, or say values='mixed'"
            )
        whole, raw = raw, _present(raw)
        if raw.kind == "text":
            drops = min_documents is not None or max_documents is not None
            raw = _spread(raw, min_documents, max_documents) if drops else raw
            vocabulary, cutter = _vocabulary(raw, values, binarize, min_count, max_vocabulary, tokens)
            vocabulary = (*vocabulary, END) if ends else vocabulary
            parts = {"vocabulary": vocabulary, "levels": len(vocabulary), "cutter": cutter, "source": raw.source}
            if forms is not None:
                parts["grammar"], parts["actions"] = meanings.grammar_of(raw, forms, vocabulary)
            return cls("text", "symbols", (), drops=drops, **parts, **beside, **written)
        if min_documents is not None or max_documents is not None:
            raise OptionError(f"min_documents and max_documents are for text, and {raw.source} is none: leave them out")
        already = _is_binary(raw)
        values = _choose_values(raw, binarize, already) if values == "auto" else values
        _check_values(raw, values, scale, binarize)
        _check_observed(raw, values)
        shift, factor = _scaling(raw, scale) if values == "real" else ((), ())
        schema = cls(
            kind=raw.kind,
            values=values,
            event_shape=_event_shape(raw, values),
            names=raw.names,
            levels=_with_end(_levels(whole, values, binarize, already, observed), values, ends, raw),
            shift=shift,
            scale=factor,
            binarize="none" if already else binarize,
            seed=seed,
            source=raw.source,
            **beside,
            **written,
        )
        encoding.check_range(schema, raw)
        return schema

    @classmethod
    def _colour(cls, raw: Raw, grid: colour.ChromaGrid) -> Schema:
        """Of chroma given grey: it depends on the size of the images alone, so that all such data are read alike."""
        colour.check_colour(raw)
        size = np.shape(raw.values)[1:3]
        grey = cls("image", "real", size, shift=(0.0,), scale=(float(colour.GREY_LEVELS),), source=colour.GREY)
        classes = () if raw.labels is None else classes_of(raw.labels)
        more: dict[str, Any] = {"context": grey, "classes": classes, "chroma": tuple(grid), "source": raw.source}
        return cls("image", "levels", size, levels=grid.symbols, **more)

    @classmethod
    def _mixed(cls, raw: Raw, scale: str, binarize: str, beside: dict[str, Any]) -> Schema:
        """Of columns that are each of their own kind."""
        if raw.kind not in ("table", "sequence") or binarize != "none" or _is_symbolic(raw):
            raise OptionError(f"values='mixed' is for the columns of a table, and {raw.source} is {NOUNS[raw.kind]}")
        raw = _present(columns.settled(raw))
        _check_observed(raw, "mixed")
        kinds, categories = (tuple(part) for part in zip(*raw.told, strict=True))
        columns.judge(raw, kinds, categories)
        number = np.array([kind == "real" for kind in kinds])
        shift, factor = (np.array(part) for part in _scaling(raw, scale))
        return cls(
            kind=raw.kind,
            values="mixed",
            event_shape=(len(kinds),),
            names=raw.names,
            shift=tuple(np.where(number, shift, 0.0).tolist()),
            scale=tuple(np.where(number, factor, 1.0).tolist()),
            kinds=kinds,
            categories=categories,
            source=raw.source,
            **beside,
        )

    def encode(self, raw: Raw) -> Dataset:
        """The data as models see them, after a check that they are such as the run was fitted on.

        Raises:
            DataError: another kind, other columns, another shape, or a value outside the range: names row and column.
        """
        from latentia.data.dataset import Dataset  # a data set carries its schema: the two need each other

        if self.chroma and raw.context is None:
            raw = colour.split(raw, self.grid)
        x, mask, lengths = encoding.encode(self, raw)
        return Dataset(
            x=torch.from_numpy(np.ascontiguousarray(x)),
            mask=None if mask is None else torch.from_numpy(mask),
            lengths=None if lengths is None else torch.from_numpy(lengths),
            schema=self,
            weight=None if raw.weight is None else torch.from_numpy(raw.weight),
            labels=raw.labels,
            trees=raw.trees,
            rows=torch.as_tensor(raw.rows),
            context=None if self.context is None or raw.context is None else self.context.encode(raw.context),
        )

    def decode(
        self,
        x: Tensor | np.ndarray,
        mask: Tensor | np.ndarray | None = None,
        lengths: Tensor | np.ndarray | None = None,
        names: bool = True,
    ) -> np.ndarray | list:
        """x (N, *event) or (N, T, *event) in the units of the data as given.

        Tables and images give an array, sequences a list of arrays cut to their lengths (N,), text a list of token
        lists. What is hidden is NaN; binary values stay 0 and 1, probabilities stay probabilities. Categories have
        their names, in arrays of objects; with `names` False their positions.
        """
        parts = (None if part is None else _numpy(part) for part in (mask, lengths))
        found = encoding.decode(self, _numpy(x), *parts)
        if self.kinds and names:
            own = self.fields
            return (
                [columns.named(part, own) for part in found] if isinstance(found, list) else columns.named(found, own)
            )
        return named(np.asarray(found), self.categories) if self.categories and names else found

    def log_det(self, mask: Tensor | Sequence[int]) -> Tensor:
        """What turns the log-density of x into that of the data: log p(data) = log p(x) + log_det. (N,) float64, nats.

        Args:
            mask: (N, *event) or (N, T, *event), True = observed; or that shape, where all is observed.
        """
        count = len(mask) if isinstance(mask, Tensor) else mask[0]
        device = mask.device if isinstance(mask, Tensor) else None
        if self.values not in ("real", "mixed"):
            return torch.zeros(count, dtype=torch.float64, device=device)
        log_scale = torch.tensor(self.scale, dtype=torch.float64, device=device).log()
        if not isinstance(mask, Tensor):
            return (-log_scale.mean() * math.prod(mask[1:])).repeat(count)
        # over the steps of a sequence first: most of them may be padding
        mask = mask.sum(1) if mask.ndim > 1 + len(self.event_shape) else mask
        return -(mask * log_scale).unsqueeze(-1).flatten(1).sum(1)

    def write(
        self,
        x: Tensor | np.ndarray,
        path: str | os.PathLike,
        mask: Tensor | np.ndarray | None = None,
        lengths: Tensor | np.ndarray | None = None,
    ) -> None:
        """Write x in the units of the data, in the form that the suffix names; the file appears whole or not at all.

        Tables: .csv, .npy. Sequences: .jsonl, .npy. Text: .txt, .jsonl. Images: .png (a grid), .npy.

        Raises:
            DataError: a suffix that does not fit the kind, or a file that cannot be written.
        """
        writing.write(self, self.decode(x, mask, lengths), path)

    def sizes(self) -> dict[str, Any]:
        """The arguments of a model that come from the data: event_shape, features, symbols, what each of mixed columns
        holds, and of each column of a context its number of categories, 0 for numbers."""
        return {
            "event_shape": self.event_shape,
            "features": None if self.values == "symbols" else math.prod(self.event_shape),
            "symbols": self.levels if self.values in ("levels", "symbols") else None,
            **({} if self.end is None else {"end": self.end}),
            **({} if not self.grammar else self._sizes_of_forms()),
            **self._sizes_by_column(),
            **({} if self.context is None else self.context._of_source()),
        }

    def _sizes_of_forms(self) -> dict[str, Any]:
        copies = Grammar(self.grammar).copies(self.vocabulary)
        return {"grammar": self.grammar, "copies": copies, "actions": self.actions}

    def _of_source(self) -> dict[str, tuple[int, ...] | int | None]:
        """The sizes of a context: of one with steps, what a step is; else the columns."""
        if self.kind not in encoding.RAGGED:
            return {"context": self.columns}
        symbolic = self.values == "symbols"
        return {"source_symbols": self.levels} if symbolic else {"source_features": math.prod(self.event_shape)}

    @property
    def grid(self) -> colour.ChromaGrid:
        """Of the chroma. Raises `DataError` for a schema that has none."""
        if not self.chroma:
            raise DataError(f"{self.source} was read as {self.describe()}, and not as chroma: say values='colour'")
        return colour.ChromaGrid(*self.chroma)

    @property
    def end(self) -> int | None:
        """The symbol that ends a sequence or a text; None where ends are not modelled."""
        return self.levels - 1 if self.ends and self.levels else None

    @property
    def words(self) -> tuple[str, ...]:
        """The vocabulary without what is no word of the data: the symbol that ends a text."""
        return self.vocabulary[:-1] if self.ends else self.vocabulary

    def _sizes_by_column(self) -> dict[str, Any]:
        if not self.kinds:
            return {}
        held = zip(self.kinds, self.categories, strict=True)
        own = tuple(len(names) if kind == "category" else kind for kind, names in held)
        levels = tuple(2 if column == "binary" else column for column in own)
        plain = all(isinstance(level, int) for level in levels)
        return {"columns": own, "symbols": levels if plain else None, "features": len(own) if plain else None}

    @property
    def fields(self) -> tuple[Column, ...]:
        """The columns of a table, each with its name, its kind, its categories and its scaling; () of anything else."""
        if (
            self.kind not in ("table", "sequence")
            or len(self.event_shape) != 1
            or len(self.shift) != self.event_shape[0]
        ):
            return ()
        count = self.event_shape[0]
        names = self.names or tuple(f"x{j + 1}" for j in range(count))
        kinds, categories = self.kinds or ("real",) * count, self.categories or ((),) * count
        return tuple(map(Column, names, kinds, categories, self.shift, self.scale))

    @property
    def told(self) -> dict[str, str]:
        """How other tables with these columns are to be read, by name: yes or no as a category, as one of the two may
        not be there."""
        kinds = ("category" if kind == "binary" else kind for kind in self.kinds)
        return dict(zip(self.names, kinds, strict=False))

    @property
    def columns(self) -> tuple[int, ...]:
        """Of each number of one x how many categories it is one of, 0 for numbers; as many as it has, flattened."""
        if self.categories:
            return tuple(map(len, self.categories))
        return (self.levels if self.values == "levels" and self.levels else 0,) * math.prod(self.event_shape)

    def __repr__(self) -> str:
        return f"<Schema: {self.describe()}>"

    def describe(self) -> str:
        """The data in one line, for reports."""
        shape = " x ".join(map(str, self.event_shape))
        if self.kind == "text":
            many = f"{len(self.words):,} {self.tokens}"
            others = "are left out" if self.drops else f"count as {UNKNOWN}"
            return f"{self.datum}s over {many} (rarer and new ones {others}){self._how_they_end()}"
        if self.values == "symbols":
            return f"sequences of {(self.levels or 0) - self.ends:,} symbols{self._how_they_end()}"
        if self.kinds:
            return f"{self._noun(shape)}: {self._describe_columns()}"
        names = f" ({', '.join(self.names)})" if 0 < len(self.names) <= 8 else ""
        return f"{self._noun(shape)}{names if self.kind == 'table' else ''}, {self._describe_values()}"

    def _noun(self, shape: str) -> str:
        return {
            "table": f"a table of {shape} column{'s' if shape != '1' else ''}",
            "image": f"images of {shape}",
            ARRAY: f"arrays of {shape}",
            "sequence": f"sequences of vectors of {shape}",
        }[self.kind]

    def _describe_columns(self) -> str:
        """The kinds of mixed columns: each by itself, or of many how many there are of each kind."""
        if len(self.kinds) <= MANY_COLUMNS:
            return ", ".join(map(str, self.fields))
        words = {"real": "of numbers", "category": "of categories", "binary": "of yes or no", "count": "of counts"}
        return ", ".join(f"{count} {words[kind]}" for kind, count in Counter(self.kinds).items())

    def _how_they_end(self) -> str:
        cut = "" if self.longest is None else f", cut after {self.longest:,} symbols"
        return (", and one more that ends each" if self.ends else "") + cut

    def _describe_values(self) -> str:
        if self.binarize == "dynamic":
            return "binarized dynamically (each grey level is a probability, drawn anew for each batch)"
        if self.binarize == "fixed":
            return f"binarized once with seed {self.seed} (each grey level is a probability)"
        if self.values == "binary":
            return "of 0 and 1"
        if self.chroma:
            step, reach = self.chroma
            return f"their chroma given grey, {self.levels} points of step {step:g} and reach {reach:g} in Lab"
        if self.values == "levels":
            return f"of {self.levels} levels"
        if self.kind == "image" and not any(self.shift) and self.scale != (1.0,):
            return f"real values divided by {self.scale[0]:g}"
        return "real values" if self._as_given else "real values, standardized"

    @property
    def _as_given(self) -> bool:
        return not any(self.shift) and all(scale == 1 for scale in self.scale)

    @property
    def datum(self) -> str:
        """What one datum is called: a text of which words may be left out, as its order says nothing, is a document."""
        if self.kind == "text":
            return "document" if self.drops else "sentence"
        return {"table": "row", ARRAY: "datum"}.get(self.kind, self.kind)

    @property
    def unit(self) -> str:
        """The unit of log p(x), in words."""
        return self.unit_with(self.ends)

    def unit_with(self, ends: bool) -> str:
        """The unit of log p(x), in words, of a model that says where a datum ends (`ends`) or does not."""
        datum = self.datum
        if self.values in ("real", "mixed"):
            return f"nats per {datum}, in the units of the data as given"
        if self.binarize != "none":
            return f"nats per {datum}, of the binarized values"
        if self.kind in encoding.RAGGED:
            return f"nats per {datum}, end of {datum} {'' if ends else 'not '}counted"
        return f"nats per {datum}"

    def to_json(self) -> dict:
        """The schema as plain values that JSON can hold."""
        content = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        content["categories"] = [list(part) for part in self.categories]
        return {**content, "context": None if self.context is None else self.context.to_json()}

    @classmethod
    def from_json(cls, content: dict) -> Schema:
        """The inverse of `to_json`. Raises `DataError` for anything that `to_json` would not have written."""
        names = {part.name for part in fields(cls)}
        # those without have been written before there was anything beside x
        if not isinstance(content, dict) or not names - BESIDE <= set(content) <= names:
            raise DataError(
                "the schema is damaged: it must be an object with " + ", ".join(p.name for p in fields(cls))
            )
        for name, value in content.items():
            if not _FORMS[name](value):
                raise DataError(f"the schema is damaged: {name} is {value!r}")
        parts: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in content.items()}
        parts["categories"] = tuple(map(tuple, content.get("categories", [])))
        context = content.get("context")
        return cls(**{**parts, "context": None if context is None else cls.from_json(context)})


BESIDE = {
    "categories",
    "context",
    "classes",
    "grammar",
    "actions",
    "kinds",
    "drops",
    "ends",
    "tokens",
    "cutter",
    "longest",
    "chroma",
}


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value) -> bool:
    return isinstance(value, float) or _is_int(value)


def _is_text(value) -> bool:
    return isinstance(value, str)


def _list_of(test):
    return lambda value: isinstance(value, list) and all(map(test, value))


_FORMS = {
    "kind": _is_text,
    "values": _is_text,
    "event_shape": _list_of(_is_int),
    "names": _list_of(_is_text),
    "vocabulary": _list_of(_is_text),
    "levels": lambda value: value is None or _is_int(value),
    "shift": _list_of(_is_number),
    "scale": _list_of(_is_number),
    "binarize": _is_text,
    "seed": _is_int,
    "source": _is_text,
    "categories": _list_of(_list_of(_is_text)),
    "context": lambda value: value is None or isinstance(value, dict),
    "classes": _list_of(_is_text),
    "grammar": _is_text,
    "actions": _is_int,
    "drops": lambda value: isinstance(value, bool),
    "ends": lambda value: isinstance(value, bool),
    "tokens": _is_text,
    "cutter": _is_text,
    "longest": lambda value: value is None or _is_int(value),
    "kinds": _list_of(_is_text),
    "chroma": _list_of(_is_number),
}


def _numpy(x: Tensor | np.ndarray) -> np.ndarray:
    if not isinstance(x, Tensor):
        return np.asarray(x)
    x = x.detach().cpu()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()  # numpy has no bfloat16


def _check_options(values: str, scale: str, binarize: str, seed: int) -> None:
    given = {
        "values": (values, ("auto", *VALUES, "colour")),
        "scale": (scale, SCALES),
        "binarize": (binarize, BINARIZE),
    }
    for name, (value, allowed) in given.items():
        if value not in allowed:
            raise OptionError(f"{name}={value!r}: choose one of {', '.join(allowed)}")
    if seed < 0:
        raise OptionError(f"seed={seed}: a seed is 0 or more")


def _vocabulary(
    raw: Raw, values: str, binarize: str, min_count: int, most: int | None, tokens: str
) -> tuple[tuple[str, ...], str]:
    if values not in ("auto", "symbols") or binarize != "none":
        raise OptionError(f"{raw.source} holds text: its values are symbols, which are not binarized")

    def counts() -> Counter[str]:
        found: Counter[str] = Counter()
        if raw.weight is None:
            found.update(word for words in raw.values for word in words)
            return found
        for words, weight in zip(raw.values, raw.weight, strict=True):
            for word in words:
                found[word] += weight
        return found

    try:
        return learn(list(raw.values), tokens, counts, min_count, most)
    except DataError as error:
        raise raw.error(str(error)) from error


def _written(raw: Raw, ends: bool, tokens: str, longest: int | None) -> dict[str, Any]:
    """What the schema says of how texts are written. Raises `OptionError` for data that are no text."""
    if tokens != "words" and raw.kind != "text":
        raise OptionError(f"tokens={tokens!r} is for text, and {raw.source} holds {NOUNS[raw.kind]}")
    if longest is not None and (longest < 1 or raw.kind not in encoding.RAGGED):
        raise OptionError(f"max_length={longest}: a number of at least 1, for sequences and text")
    return {"ends": ends, "tokens": tokens, "longest": longest}


def _with_end(levels: int | None, values: str, ends: bool, raw: Raw) -> int | None:
    if ends and values != "symbols":
        raise OptionError(
            f"{raw.source}: the end of a datum is modelled of text and of sequences of symbols, and these are "
            f"{NOUNS[raw.kind]} of {values} values: choose another model, or say --kind sequence --values symbols"
        )
    return levels + 1 if ends and levels is not None else levels


def _spread(raw: Raw, least: float | None, most: float | None) -> Raw:
    """The texts without the words that occur in fewer than `least` of them, or in more than `most`."""
    least, most = (_texts_of(value, len(raw), name) for value, name in ((least, "min"), (most, "max")))
    found = Counter(word for words in raw.values for word in set(words))
    kept = {word for word, count in found.items() if (least or 0) <= count <= (most or len(raw))}
    if not kept:
        raise raw.error(f"no word occurs in {least or 0:g} to {most or len(raw):g} of {len(raw):,} texts")
    return replace(raw, values=[[word for word in words if word in kept] for words in raw.values])


def _texts_of(value: float | None, count: int, which: str) -> float | None:
    if value is None:
        return None
    if not 0 < value < math.inf or (value > 1 and value != round(value)):
        raise OptionError(f"{which}_documents={value:g}: a whole number of texts, or a share of them between 0 and 1")
    return value * count if value < 1 or (which == "max" and value == 1) else value


def _given(cls: type[Schema], context: Raw, min_count: int, most: int | None) -> Schema:
    """The schema of a context: numbers are scaled, and words are rare or not as those of x are."""
    scale = "auto" if context.kind in encoding.RAGGED else "standard"
    return cls.of(context, scale=scale, min_count=min_count, max_vocabulary=most)


def _present(raw: Raw) -> Raw:
    """The data that have a weight: what is absent says nothing."""
    if raw.weight is None:
        return raw
    if not (raw.weight > 0).any():
        raise raw.error("every weight is 0: there are no data")
    return raw.take(raw.weight > 0)


def _parts(raw: Raw) -> list[np.ndarray]:
    return raw.values if isinstance(raw.values, list) else [np.asarray(raw.values)]


def _is_symbolic(raw: Raw) -> bool:
    """Whether there is one value a step."""
    return raw.kind == "sequence" and np.ndim(raw.values[0]) == 1


def _is_binary(raw: Raw) -> bool:
    """Whether every observed value is 0 or 1, and there is one."""
    if first(raw.values, lambda values: (values != 0) & (values != 1) & ~np.isnan(values)) is not None:
        return False
    return first(raw.values, lambda values: ~np.isnan(values)) is not None


def _choose_values(raw: Raw, binarize: str, already: bool) -> str:
    if _is_symbolic(raw):
        return "symbols" if raw.whole or _parts(raw)[0].dtype.kind in "iu" else "real"
    return "binary" if already or binarize != "none" else "real"


def _check_values(raw: Raw, values: str, scale: str, binarize: str) -> None:
    if values == "symbols" and not _is_symbolic(raw):
        raise OptionError(
            f"values='symbols' is for text and sequences of one symbol a step; for {raw.source} say 'levels'"
        )
    if values == "levels" and _is_symbolic(raw):
        raise OptionError(
            f"values='levels' is for tables, images and vectors; for the sequences of {raw.source} say 'symbols'"
        )
    if values != "real" and scale == "standard":
        raise OptionError(f"scale='standard' is for real values, those of {raw.source} are {values}: say values='real'")
    if values != "binary" and binarize != "none":
        raise OptionError(f"binarize={binarize!r} makes values binary, those of {raw.source} are {values}")


def _check_observed(raw: Raw, values: str) -> None:
    """Raise `DataError` for a column without a single observed value: nothing can be learned about it."""
    if raw.kind == "image":
        return
    seen = (~np.isnan(rows_of(raw))).any(0)
    if not seen.all():
        raise raw.error(f"{raw.column(int(seen.argmin()))} has no observed value at all: leave it out")


def rows_of(raw: Raw) -> np.ndarray:
    """All values, a row for each datum or step and a column for each column; one column for images."""
    values = np.concatenate(_parts(raw))
    if raw.kind == "sequence" and not isinstance(raw.values, list):
        values = values.reshape(-1, *values.shape[2:])
    return values.reshape(-1, 1) if raw.kind == "image" or values.ndim == 1 else values


def _event_shape(raw: Raw, values: str) -> tuple[int, ...]:
    if raw.kind == "sequence":
        return () if values == "symbols" else np.shape(raw.values[0])[1:] or (1,)
    return np.shape(raw.values)[1:]


def _levels(raw: Raw, values: str, binarize: str, already: bool, observed: int | None) -> int | None:
    if values == "real":
        return None
    if values == "binary":
        return 2 if already or binarize == "none" else _grey_levels(raw)
    parts = _parts(raw)
    top = max(np.nanmax(part, initial=0) for part in parts)
    levels = _grey_levels(raw) if raw.kind == "image" else 1 + int(top)
    if levels > SYMBOLS:
        index = first(raw.values, lambda part: part == top)
        if observed is None:
            observed = sum(int(np.count_nonzero(~np.isnan(part))) for part in parts)
        judge_symbols(raw.source if index is None else f"{raw.source}, {raw.where(index)}", levels, observed)
    return levels


def _grey_levels(raw: Raw) -> int:
    """How many levels the source can hold: 2 stands for probabilities."""
    if raw.levels is not None:
        return raw.levels
    largest = max(float(np.nanmax(part)) for part in _parts(raw))
    dtype = _parts(raw)[0].dtype
    if dtype in (np.uint8, np.uint16):
        return np.iinfo(dtype).max + 1
    return 1 + max(math.floor(largest), 1) if dtype.kind in "iu" else 2


def _scaling(raw: Raw, scale: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(shift, scale) by the observed entries of the training data."""
    rows = rows_of(raw)
    if scale == "none":
        return (0.0,) * rows.shape[1], (1.0,) * rows.shape[1]
    if scale == "auto" and raw.kind == "image":
        return (0.0,), (_white(raw),)
    rows = rows.astype(np.float64)
    constant = np.nanmin(rows, 0) == np.nanmax(rows, 0)
    size = np.nanmax(np.abs(rows), 0)
    size[size == 0] = 1.0
    rows /= size  # so that no square underflows or overflows
    mean, deviation = _moments(rows, weights_of(raw))
    return tuple((size * mean).tolist()), tuple(np.where(constant, 1.0, size * deviation).tolist())


def weights_of(raw: Raw) -> np.ndarray | None:
    """The weight of each of `rows_of`, (M, 1)."""
    if raw.weight is None:
        return None
    ragged = isinstance(raw.values, list)
    steps = [len(value) for value in raw.values] if ragged else len(rows_of(raw)) // max(len(raw), 1)
    return np.repeat(raw.weight, steps)[:, None]


def _moments(rows: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the observed values of each column."""
    if weight is None:
        return np.nanmean(rows, 0), np.nanstd(rows, 0)
    share = np.where(np.isnan(rows), 0.0, weight)
    share = share / share.sum(0)
    mean = np.nansum(share * rows, 0)
    return mean, np.sqrt(np.nansum(share * (rows - mean) ** 2, 0))


def _white(raw: Raw) -> float:
    """The largest value that the source can hold."""
    if _parts(raw)[0].dtype.kind in "iu":
        return float(max(_grey_levels(raw) - 1, 1))
    return max(1.0, float(np.nanmax(np.abs(rows_of(raw)))))
