"""The codes of a quantized model: how many of the codebook are used, how evenly, and by which data."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from latentia.data import Dataset
from latentia.model import LatentVariableModel
from latentia.report import figures
from latentia.report.panel import Panel, table
from latentia.tasks.common import using

TOP = 12
LEAST_NAMES = 20


def codes(model: LatentVariableModel, data: Dataset, seed: int) -> list[Panel]:
    """The share of each code, and the data that use the commonest."""
    found = []
    with using(model, seed), torch.no_grad():
        for batch in data.frozen(seed).batches(256, dtype=model.anchor.dtype):
            q = model.posterior(batch.to(model.anchor))
            found.append(q.codes.cpu())  # type: ignore[attr-defined]
    numbers = torch.cat(found)
    size = int(q.codebook.size)  # type: ignore[attr-defined]
    count = torch.bincount(numbers.flatten(), minlength=size)
    return [_shares(count, numbers.shape), _users(numbers, count, data)]


def perplexity(count: torch.Tensor) -> float:
    """The number of codes that are used evenly and are as uncertain: exp of the entropy of the shares."""
    share = count.double() / count.sum()
    return float(torch.special.entr(share).sum().exp())


def _shares(count: torch.Tensor, shape: torch.Size) -> Panel:
    order = count.argsort(descending=True)
    share = (count[order].double() / count.sum()).numpy()

    def paint(axes) -> None:
        axes.fill_between(np.arange(len(share)), share, step="mid", color=figures.MAIN)
        axes.set_xlabel("code, the commonest first")
        axes.set_ylabel("share")
        axes.set_ylim(bottom=0)

    used = int((count > 0).sum())
    caption = (
        f"The share of each code among {shape[0]:,} data of {shape[1]} codes each: {used} of {len(count)} codes are "
        f"used ({used / len(count):.0%}), as evenly as {perplexity(count):.1f} codes of one share (perplexity)."
    )
    return Panel("svg", figures.draw(paint, height=2.4), caption, "Codebook")


def _users(numbers: torch.Tensor, count: torch.Tensor, data: Dataset) -> Panel:
    named = data.labels is not None and len(np.unique(np.asarray(data.labels).astype(str))) <= LEAST_NAMES
    rows = []
    for code in count.argsort(descending=True)[:TOP].tolist():
        if not count[code]:
            break
        uses = (numbers == code).sum(1)
        places = (numbers == code).sum(0)
        by = torch.nonzero(uses).flatten()
        row = [str(code), f"{float(count[code]) / numbers.numel():.1%}", f"{len(by) / len(numbers):.0%}"]
        row += [str(int(places.argmax()))]
        if named:
            often = Counter(np.asarray(data.labels).astype(str)[by.numpy()].tolist()).most_common(3)
            row.append(", ".join(f"{name} {times / len(by):.0%}" for name, times in often))
        else:
            row.append(", ".join(str(int(i)) for i in uses.argsort(descending=True, stable=True)[:5]))
        rows.append(row)
    who = "labels of these data" if named else "data that use it most"
    head = ["code", "share", "of the data", "commonest place", who]
    return table(head, rows, "The commonest codes, and who uses them.", "Which data use which code")
