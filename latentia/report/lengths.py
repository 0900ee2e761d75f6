"""The data as a file: how many bits they take by the model and by general compressors, and where the bits go."""

from __future__ import annotations

import torch

from latentia.codec import general
from latentia.data import Dataset
from latentia.model import LatentVariableModel
from latentia.report import figures, pictures
from latentia.report.panel import Panel, table
from latentia.report.uses import ECONOMY, affordable
from latentia.tasks.compress import Compressed, compress, dearest, unit

MOST, LEAST = 500, 16
"""Data that are compressed at most; fewer than the least say nothing."""
COST = 12
"""Passes through the model that a datum's code takes, about."""
TOP = 12


def lengths(model: LatentVariableModel, data: Dataset, seed: int, learned: int) -> list[Panel]:
    """The panels, of some of the data; none for data or a model without a code.

    Args:
        learned: how often a datum was passed through the model in learning, as `uses` has it.
    """
    if data.schema.values in ("real", "mixed") or data.context is not None or model.anchor.device.type != "cpu":
        return []
    count = min(MOST, len(data), int(affordable(data, learned) / COST))
    if count < LEAST:
        return [] if len(data) < LEAST else [Panel("note", f"Codes are left out, {ECONOMY}: `latentia compress`.")]
    some = data.subset(torch.from_numpy(figures.thinned(len(data), count))).frozen(seed)
    found = compress(model, some, seed=seed)
    return [_beside(found, some, len(data)), *_places(found, some)]


def _beside(found: Compressed, data: Dataset, among: int) -> Panel:
    """Bits by the model, and by its parts, beside those of general compressors."""
    per = unit(data.schema)
    ours = {"this model": found.net}
    if len(found.parts) > 2:
        ours |= {f"of that, {name}": round(bits) for name, bits in found.parts.items() if name != "all"}
    apart = {"borrowed bits": found.borrowed, "ends and gaps": found.side, "header of the file": found.header}
    ours |= {f"{name}, apart": bits for name, bits in apart.items() if bits}
    rows = [
        [name, f"{bits / max(found.values, 1):.4f}", f"{bits / 8:,.0f}"]
        for name, bits in {**ours, **general.lengths(data)}.items()
    ]
    of = f"{found.data:,} of the {among:,} data" if found.data < among else f"the {among:,} data"
    caption = (
        f"Bits of {of} as one file without loss. The model's own are without its header and what bits-back coding "
        "borrows and gives back, which stand apart; those of general compressors have their headers in them. The model "
        "is not in the file, and has learned before; a general compressor learns as it goes."
    )
    return table(["", f"bits a {per}", "bytes"], rows, caption, "The data as a file")


def _places(found: Compressed, data: Dataset) -> list[Panel]:
    """Which pixels, columns or words take the bits of x."""
    schema = data.schema
    if pictures.showable(schema):
        each = found.content.columns.reshape(schema.event_shape) / found.data
        picture = pictures.grid(each[None, None].numpy(), float(each.max()))
        caption = f"Where the bits of x go, pixel by pixel: white is {float(each.max()):.3f} bits, black none."
        return [Panel("pictures", [{"name": "bits", "picture": picture}], caption, "Where the bits go")]
    shares = dearest(found, schema, TOP)
    if not shares:
        return []
    rows = [[name, f"{share:.1%}"] for name, share in shares]
    what = "word" if schema.kind == "text" else "column"
    return [table([what, "share of the bits"], rows, "Of x, those that take the most.", "Where the bits go")]
