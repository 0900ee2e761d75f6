"""`Dataset`: x as models see them, with the schema that knows what they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentia.batch import Batch
from latentia.data import meanings
from latentia.data.blocks import MOST, VALUES
from latentia.data.cells import cells_of, one_hot
from latentia.data.prose import Prose
from latentia.data.readers import is_table, open_table, read
from latentia.data.schema import ARRAY, Schema
from latentia.distributions.latents import Latents, each
from latentia.errors import DataError, OptionError
from latentia.model import LatentVariableModel, minibatches

SMALL = 2**14
"""Numbers of padding that are cheaper than a batch of its own."""
START = 2**26
"""Numbers in the x from which a starting point is chosen, at most."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """N data.

    Attributes:
        x: (N, *event), or padded (N, T, *event) for sequences and text; 0 where not observed. float64 for real
            tables and sequences, float32 for binary values and images, int64 for levels and symbols. A probability
            where the schema binarizes dynamically, until `batch` draws it.
        mask: the shape of x, True = observed, False = hidden; None where nothing is.
        lengths: (N,), how many steps each sequence or text has; None for tables and images.
        schema: what x is.
        weight: (N,) float64, 0 = absent, 2 = seen twice.
        labels: (N,) array, what each datum is; never seen by a model.
        trees: (N,) array, the tree of each sentence in brackets; never seen by a model.
        rows: (N,), each datum's own number in the source, from 1.
        context: what p(x, z | context) conditions on, a data set of its own with as many data.
        known: latents that happen to be known, see `Batch`.
        drawn: whether a dynamic binarization has been drawn already, see `frozen`.
    """

    x: Tensor
    mask: Tensor | None
    schema: Schema
    weight: Tensor | None = None
    labels: np.ndarray | None = None
    rows: Tensor | None = None
    lengths: Tensor | None = None
    context: Dataset | None = None
    known: Latents | None = None
    drawn: bool = False
    trees: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        missing = 0 if self.seen is None else int(self.batch().hidden.sum())
        holes = f", {missing:,} values missing" if missing else ""
        return f"<Dataset: {len(self):,} data of {self.schema.source}: {self.schema.describe()}{holes}>"

    @property
    def entries(self) -> int:
        """How many numbers the x of a datum has, padding among them."""
        return math.prod(self.x.shape[1:])

    @property
    def enough(self) -> int:
        """So many data, if there are more, are enough to choose a starting point by."""
        return max(START // max(self.entries, 1), 1)

    def batch(self, index: Tensor | slice | Sequence[int] | None = None, dtype: torch.dtype | None = None) -> Batch:
        """The data at `index`, all where it is None, as models see them.

        Floating parts are converted to `dtype`. Sequences are cut to the longest of the batch. What the schema
        binarizes dynamically is drawn here, from torch's global generator.
        """
        context = None if self.context is None else self.context.batch(index, dtype)
        batch = Batch(self.x, self.mask, self.lengths, None, self.known, self.weight)
        if index is None:
            batch = self._cut(batch, slice(None))
        else:
            index = self._positions(index)
            # cut first, so that nothing of one long sequence is copied with the short ones; and not by `subset`: for a
            # small model to make a Dataset is a fiftieth of a step
            batch = self._cut(batch, index).map(lambda field: _rows(field, index))
        x = _drawn(batch.x) if self._to_draw else batch.x
        floating = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        weight = None if batch.weight is None else batch.weight.to(floating)
        batch = batch._replace(x=x, mask=_unless_all(batch.mask), weight=weight)
        if dtype is not None:
            batch = batch.map(lambda field: field.to(dtype) if field.is_floating_point() else field)
        return batch._replace(context=context)

    def batches(self, size: int, *, sort: bool = False, dtype: torch.dtype | None = None) -> Iterator[Batch]:
        """Every datum once, `size` at a time, in order; `sort` puts sequences of like length together.

        Raises:
            OptionError: size below 1.
        """
        if size < 1:
            raise OptionError(f"size={size}: a batch has at least one datum")
        return (self.batch(part, dtype) for part in self._parts(size, sort))

    def by_length(self, size: int, dtype: torch.dtype | None = None) -> Iterator[tuple[Tensor, Batch]]:
        """Positions (B,) and the data at them, every datum once, at most `size` at a time: sequences of like length
        together, so that one long sequence pads no others. `in_order` puts what they give back into the data's order.
        """
        numbers = torch.arange(len(self), device=self.x.device)
        return ((numbers[part], self.batch(part, dtype)) for part in self._parts(size, sort=True))

    def prepared(self, like: Tensor, size: int | None = None) -> list[Batch]:
        """The batches of a pass over the data, to be gone through many times: sequences of like length together, on
        the device of `like` and in its dtype. Without copies, but for sequences that must be sorted or cut.

        Args:
            size: data a batch; None: such that x has a million numbers, and at most 65,536 data; where data need no
                sorting, eight million, and four times as many data.
        """
        batches = (self.batch(part).to(like).map(Tensor.contiguous) for part in self._parts(size, sort=True))
        # weights that are made anew in every step cost a step's worth of waking and waiting threads
        return [batch._replace(weight=batch.weights) for batch in batches]

    def shuffled(self, like: Tensor, size: int, seed: int) -> Iterator[Batch]:
        """Every datum once, `size` at a time, in a random order."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return (self.batch(part).to(like) for part in order.split(size) if len(part))

    def _parts(self, size: int | None, sort: bool) -> list[Any]:
        """What each batch takes: a slice where no order but the data's own is asked for."""
        if not sort or self.lengths is None:
            most = min(max(8 * VALUES // max(self.entries, 1), 1), 4 * MOST)
            # of equal size, so that none is left over
            size = size or math.ceil(len(self) / max(math.ceil(len(self) / most), 1)) or 1
            return [slice(start, start + size) for start in range(0, len(self), size)]
        sizes = self._sizes()
        order = sizes.argsort(stable=True)
        ends = _ends(sizes[order], MOST if size is None else min(size, MOST))
        return [order[start:end] for start, end in pairwise(ends)]

    def _sizes(self) -> Tensor:
        """How many numbers each datum has, its context's among them, (N,), where either has steps."""
        own = torch.zeros(len(self), dtype=torch.long, device=self.x.device)
        if self.lengths is not None:
            own = self.lengths * math.prod(self.x.shape[2:])
        return own if self.context is None else own + self.context._sizes()

    def minibatches(self, order: Tensor, size: int) -> list[Tensor]:
        """The data of `order` (N,), `size` at a time. Where x or its context has steps, as pairs of sequences have,
        those of like size go together, within every 16 batches' data, and the batches come in a random order."""
        if self.context is None or self.context.lengths is None:
            return minibatches(order, size)
        sizes = self._sizes()
        near = torch.cat([part[sizes[part].argsort(stable=True)] for part in order.split(16 * size)])
        parts = minibatches(near, size)
        return [parts[i] for i in torch.randperm(len(parts)).tolist()]

    def subset(self, index: Tensor | slice | Sequence[int]) -> Dataset:
        """The data at `index`: a slice, positions or booleans."""
        index = self._positions(index)
        parts: dict[str, Any] = {name: _rows(value, index) for name, value in self._tensors().items()}
        for name in ("labels", "trees"):
            if (value := getattr(self, name)) is not None:
                parts[name] = value[index.cpu().numpy() if isinstance(index, Tensor) else index]
        context = None if self.context is None else self.context.subset(index)
        known = None if self.known is None else each(lambda part: _rows(part, index), self.known)
        return replace(self, **parts, context=context, known=known)

    def _positions(self, index: Tensor | slice | Sequence[int]) -> Tensor | slice:
        if isinstance(index, slice):
            return index
        index = torch.as_tensor(index, device=self.x.device).reshape(-1)
        return index if index.numel() else index.long()  # torch takes an empty list for floats

    def split(self, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """(rest, part): a random part of `fraction` of the data, at least one datum unless fraction is 0.

        Raises:
            OptionError: fraction is not in [0, 1).
        """
        if not 0 <= fraction < 1:
            raise OptionError(f"fraction={fraction}: it must be at least 0 and below 1")
        count = round(fraction * len(self))
        count = min(max(count, 1), len(self) - 1) if fraction else 0
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.subset(order[count:].sort().values), self.subset(order[:count].sort().values)

    def frozen(self, seed: int) -> Dataset:
        """The same data with a dynamic binarization drawn once and for all, for evaluation."""
        if not self._to_draw:
            return self
        generator = torch.Generator(self.x.device).manual_seed(seed)
        return replace(self, x=_drawn(self.x, generator), drawn=True)

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on another device."""
        parts: dict[str, Any] = {name: value.to(device) for name, value in self._tensors().items()}
        context = None if self.context is None else self.context.to(device)
        known = None if self.known is None else each(lambda part: part.to(device), self.known)
        return replace(self, **parts, context=context, known=known)

    @property
    def seen(self) -> Tensor | None:
        """The shape of x, True where there is a value that is observed; None where that is everywhere."""
        return Batch(self.x, self.mask, self.lengths).seen

    def decoded(self) -> np.ndarray | list:
        """The data in their own units, see `Schema.decode`."""
        return self.schema.decode(self.x, self.mask, self.lengths)

    def labelled(self) -> Dataset:
        """The same data with their classes known to the model, a one-hot row each, of zeros where there is no label; or
        with their logical forms, (N, A, K) one-hot.

        Raises:
            DataError: no datum has a label, or one has none of the schema's classes.
        """
        if self.labels is not None and self.schema.grammar:
            return replace(self, known=meanings.known(self.labels, self.schema, self.rows).to(self.x.device))
        if self.labels is None or not self.schema.classes:
            raise DataError(f"{self.schema.source} has no labels to learn from: name their column with labels=")
        rows = one_hot(self.labels, self.schema.classes, self.schema.source)
        if not rows.any():
            raise DataError(f"{self.schema.source}: not one datum has a label to learn from")
        return replace(self, known=torch.from_numpy(rows).to(self.x.device))

    def log_det(self) -> Tensor:
        """What turns log p(x) into the log-density of the data as given, (N,) float64, nats."""
        seen = self.seen
        return self.schema.log_det(self.x.shape if seen is None else seen).to(self.x.device)

    @property
    def unknown(self) -> float | None:
        """The share of the words that are not in the vocabulary, and count as "<unk>"; None where there is none, and
        where they are left out."""
        if not self.schema.vocabulary or self.schema.drops:
            return None
        seen = self.x if self.seen is None else self.x[self.seen]
        seen = seen if self.schema.end is None else seen[seen != self.schema.end]
        return float((seen == 0).double().mean()) if seen.numel() else 0.0

    @property
    def _to_draw(self) -> bool:
        return self.schema.binarize == "dynamic" and not self.drawn

    def _tensors(self) -> dict[str, Tensor]:
        parts = {part.name: getattr(self, part.name) for part in fields(self) if part.name != "known"}
        return {name: value for name, value in parts.items() if isinstance(value, Tensor)}

    def _cut(self, batch: Batch, index: Tensor | slice) -> Batch:
        """All data, with no more steps than the longest sequence at `index` has."""
        # what is known of z may have a step for each step of x, so then nothing is cut
        if self.lengths is None or self.known is not None:
            return batch
        longest = max(int(self.lengths[index].amax()) if len(self.lengths[index]) else 0, 1)
        mask = None if batch.mask is None else batch.mask[:, :longest]
        return batch._replace(x=batch.x[:, :longest], mask=mask)


def _ends(entries: Tensor, size: int) -> list[int]:
    """Where batches of at most `size` data with these numbers of entries, in rising order, begin and end."""
    ends, count = [0], torch.arange(1, MOST + 1, device=entries.device)
    while ends[-1] < len(entries):
        # as many as padding to the longest of them leaves room for, and while it is no more than the data themselves
        rest = entries[ends[-1] :][:size]
        padded = rest * count[: len(rest)]
        beyond = ((padded > VALUES) | (padded > 2 * rest.cumsum(0) + SMALL)).nonzero()
        ends.append(ends[-1] + (max(int(beyond[0]), 1) if len(beyond) else len(rest)))
    return ends


def in_order(parts: Sequence[Tensor], positions: Sequence[Tensor]) -> Tensor:
    """What batches have given, (B, ...) each, in the order of the data, (N, ...).

    Zeros lie behind what is shorter: each batch was only as long as its longest sequence.
    """
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    total = parts[0].new_zeros(sum(map(len, parts)), *shape)
    for part, index in zip(parts, positions, strict=True):
        total[(index.to(total.device), *map(slice, part.shape[1:]))] = part
    return total


def _drawn(probability: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A Bernoulli draw of each probability: uniform numbers compared, 3 times faster than `torch.bernoulli`."""
    uniform = torch.rand(probability.shape, generator=generator, dtype=probability.dtype, device=probability.device)
    return (uniform < probability).to(probability.dtype)


def _rows(value: Tensor, index: Tensor | slice) -> Tensor:
    # on a CPU faster than the general indexing; elsewhere the question would wait for the device
    plain = isinstance(index, Tensor) and index.dtype == torch.long and not index.is_cuda
    return value.index_select(0, index) if plain and not bool((index < 0).any()) else value[index]  # type: ignore[arg-type]


def _unless_all(mask: Tensor | None) -> Tensor | None:
    # elsewhere than on a CPU the question would wait for the device, at every step
    return None if mask is None or (mask.device.type == "cpu" and bool(mask.all())) else mask


def load(
    source,
    *,
    schema: Schema | None = None,
    key: str | None = None,
    columns: Sequence[str] | str | None = None,
    exclude: Sequence[str] | str | None = None,
    kind: str = "auto",
    values: str = "auto",
    scale: str = "none",
    binarize: str = "none",
    weight=None,
    labels=None,
    seed: int = 0,
    min_count: int = 1,
    max_vocabulary: int | None = None,
    vocabulary: str | None = None,
    context=None,
    group: str | None = None,
    time: str | None = None,
    text_column: str | None = None,
    prose: Prose | None = None,
    min_documents: float | None = None,
    max_documents: float | None = None,
    ends: bool = False,
    tokens: str = "words",
    max_length: int | None = None,
    forms: str | None = None,
) -> Dataset:
    """Read data and encode them, by `schema` where one is given, else by what the data themselves say.

    Args:
        source, key, columns, exclude, kind, vocabulary: see `read`.
        schema: of a run; the options that make a schema are then not looked at.
        values, scale, binarize, seed, min_count, max_vocabulary: see `Schema.of`; values are not scaled unless asked.
        ends, tokens, forms: see `Schema.of`; max_length: its `longest`.
        weight: see `read`; what is scaled and which words are rare are then weighted too.
        labels, context, group, time, text_column, prose: see `read`.
        min_documents, max_documents: see `Schema.of`.

    Raises:
        DataError: what `read` and `Schema.encode` refuse, and weights or labels that do not fit the data.
        OptionError: an option that makes no sense.
    """
    kind = schema.kind if schema is not None and kind == "auto" else kind
    beside: dict[str, Any] = {"weight": weight, "vocabulary": vocabulary, "context": context, "labels": labels}
    beside |= {"group": group, "time": time, "text_column": text_column, "prose": prose, "exclude": exclude}
    kinds = None if schema is None else schema.told
    raw = read(source, key=key, columns=columns, kind=kind, kinds=kinds, **beside)
    if schema is None:
        options: dict[str, Any] = {"values": values, "scale": scale, "binarize": binarize, "seed": seed}
        options |= {"min_documents": min_documents, "max_documents": max_documents}
        options |= {"ends": ends, "tokens": tokens, "longest": max_length, "forms": forms}
        schema = Schema.of(raw, min_count=min_count, max_vocabulary=max_vocabulary, **options)
    return schema.encode(raw)


def as_dataset(data, schema: Schema | None = None) -> Dataset:
    """A `Dataset` as it is, a `Batch` as a data set of its own, anything else by `load`, in its own units: a file,
    a frame, an array, a tensor or a list.

    Args:
        schema: of the data that a model was fitted to: others are read as those were, by the columns of their names.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, Batch):
        return _from_batch(data)
    if schema is None:
        return load(data)
    columns = list(schema.names) or None
    context = None if schema.context is None or not schema.context.names else list(schema.context.names)
    named = is_table(data)
    return load(data, schema=schema, columns=columns if named else None, context=context if named else None)


def context_for(model: LatentVariableModel, context: Any) -> Batch:
    """What a model is to condition on, from anything that `as_dataset` takes, read as the context that it was fitted
    with. Raises `DataError` for data that are not such."""
    schema = None if model.schema is None else model.schema.context
    table = open_table(context) if schema is not None and schema.categories and is_table(context) else None
    if table is not None and schema is not None:
        return schema.encode(cells_of(table.select(schema.names))).batch(dtype=model.anchor.dtype)
    return as_dataset(context, schema).batch(dtype=model.anchor.dtype)


def remember(model: LatentVariableModel, given: Any, schema: Schema) -> None:
    """Let the model know what it was fitted to, so that it can read other data alike and speak in their units. A
    `Batch` says nothing of that: it is in the model's coordinates."""
    if not isinstance(given, Batch):
        model.schema = schema


def data_for(model: LatentVariableModel, data: Any, seed: int = 0) -> Dataset:
    """`data` by `as_dataset`, read as what the model was fitted to where that is known, and drawn once and for all
    where the schema binarizes dynamically, after a check that the model can have them.

    Raises:
        DataError: there are none, they cannot be read, or the model cannot have them, saying why.
    """
    given, data = data, as_dataset(data, model.schema).frozen(seed)
    if not len(data):
        raise DataError("there are no data")
    guessed = model.schema is None and not isinstance(given, (Dataset, Batch))
    if data.lengths is not None and guessed and not _takes_any_length(model, data):
        data = _whole_rows(given, data)
    check_columns(model, data.schema)
    try:
        model.check(data.batch(dtype=model.anchor.dtype).to(model.anchor))
    except DataError as error:
        if isinstance(given, (Dataset, Batch)):
            raise
        raise DataError(
            f"{error} ({data.schema.source} was read as {data.schema.describe()}: if it is something else, give what "
            "`latentia.data.load` makes of it with kind= and values=)"
        ) from error
    return data


def check_columns(model: LatentVariableModel, schema: Schema) -> None:
    """Raise `DataError` where mixed columns are not those that the model has: one without `columns` would take the
    positions of categories for numbers."""
    if not schema.kinds or set(schema.kinds) == {"real"}:
        return
    held, own = schema.sizes()["columns"], getattr(model, "columns", None)
    # yes or no is a category of two
    held, own = ([2 if one == "binary" else one for one in part] for part in (held, own or ()))
    if not own:
        column = next(column for column in schema.fields if column.kind != "real")
        raise DataError(
            f"{type(model).__name__} takes numbers, and column {column} of {schema.source} is none: leave such columns "
            "out, or choose a model of columns, as Mixture, HMM and VAE are"
        )
    if held != own:
        raise DataError(f"the model has the columns {own}, and {schema.source} has {held}")


def _takes_any_length(model: LatentVariableModel, data: Dataset) -> bool:
    """Whether the sequences without their last step would do as well. Lists, and arrays (N, T, D), may be something
    else than the sequences that they are read as, and only the model tells."""
    batch = data.batch(slice(0, 1), model.anchor.dtype)
    steps = batch.x.shape[1]
    try:
        mask = None if batch.mask is None else batch.mask[:, : steps - 1]
        model.check(Batch(batch.x[:, : steps - 1], mask, context=batch.context).to(model.anchor))
    except DataError:
        return False
    return True


def _whole_rows(given: Any, data: Dataset) -> Dataset:
    """What has been read as sequences as rows of one shape, of which nothing is ever cut off."""
    if isinstance(given, (list, tuple)) and len({len(row) for row in given}) > 1:
        raise DataError(
            f"{data.schema.source} has rows of different lengths, and the model takes x of one shape: fill up with NaN "
            "what is missing"
        )
    batch = Batch(data.x, data.seen, weight=data.weight)
    plain = np.ndim(given[0]) == 1 and data.x.ndim == 3  # steps of one number each
    return _from_batch(batch.map(lambda field: field.squeeze(-1) if field.ndim == 3 else field) if plain else batch)


def batch_for(model: LatentVariableModel, data: Any, seed: int = 0) -> Batch:
    """All of `data` in one batch, on the device and in the dtype of the model: a `Batch` as it is, anything else by
    `data_for`. Raises `DataError` as that does."""
    if not isinstance(data, Batch):
        return data_for(model, data, seed).batch(dtype=model.anchor.dtype).to(model.anchor)
    if not data.size:
        raise DataError("there are no data")
    data = data.to(model.anchor)
    model.check(data)
    return data


def _from_batch(batch: Batch) -> Dataset:
    """A batch says of its kind only whether it has steps: with lengths it is sequences, else arrays. x stays whole."""
    batch = Batch.of(**batch._asdict())
    sequence = batch.lengths is not None
    shape = tuple(batch.x.shape[1 + sequence :]) if sequence or batch.x.ndim > 1 else (1,)
    schema = _schema_of(batch.x, "sequence" if sequence else ARRAY, shape)
    rows = torch.arange(1, batch.size + 1, device=batch.x.device)
    context = None if batch.context is None else _from_batch(batch.context)
    own = {"lengths": batch.lengths, "context": context, "known": batch.known}
    return Dataset(batch.x, batch.mask, schema, batch.weight, None, rows, **own)


def _schema_of(x: Tensor, kind: str, shape: tuple[int, ...]) -> Schema:
    source = "the batch"
    if not x.is_floating_point():
        values = "symbols" if kind == "sequence" and not shape else "levels"
        return Schema(kind, values, shape, levels=1 + int(x.max()) if x.numel() else 1, source=source)
    if kind == ARRAY and bool(((x == 0) | (x == 1)).all()):
        return Schema(kind, "binary", shape, levels=2, source=source)
    count = 1 if kind == ARRAY else math.prod(shape)
    return Schema(kind, "real", shape, shift=(0.0,) * count, scale=(1.0,) * count, source=source)
