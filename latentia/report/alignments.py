"""Where each symbol comes from: words in a source sentence, symbols in the frames of a sound; and a dictionary."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.distributions import Distribution

from latentia.data import Dataset
from latentia.distributions.alignment import MonotoneAlignment
from latentia.model import LatentVariableModel
from latentia.report import figures
from latentia.report.panel import Panel, table
from latentia.report.words import percent
from latentia.tasks.align import Aligns, align
from latentia.tasks.common import using

SHOWN, MOST_WORDS, ENTRIES, MOST_CURVES = 3, 30, 50, 12


def aligned(model: LatentVariableModel, data: Dataset, q: Distribution, seed: int) -> list[Panel]:
    """The panels of a model whose z says where in the context each symbol comes from; none of others, which q, the
    posterior of some of the data, tells."""
    if data.context is None or (not isinstance(model, Aligns) and not isinstance(q, MonotoneAlignment)):
        return []
    some = data.subset(figures.thinned(len(data), SHOWN).tolist()).frozen(seed)
    if isinstance(model, Aligns):
        return [*_words(model, some, seed), *_dictionary(model, data)]
    with using(model, seed):
        heard: list[Any] = [model.posterior(some.batch([i]).to(model.anchor)) for i in range(len(some))]
    return [_sound(some, i, one) for i, one in enumerate(heard)]


def _words(model: LatentVariableModel, some: Dataset, seed: int) -> list[Panel]:
    assert some.context is not None
    found, said, source = align(model, some, seed=seed), some.decoded(), some.context.decoded()
    panels = []
    for share, words, places in zip(found, said, source, strict=True):
        share = share[:MOST_WORDS, : MOST_WORDS + 1].numpy()
        columns = ["nowhere", *map(str, places)][: share.shape[1]]
        if not share[:, 0].any():
            share, columns = share[:, 1:], columns[1:]
        panels.append(_matrix(share, [str(word) for word in words][: len(share)], columns))
    return panels


def _matrix(share: np.ndarray, rows: list[str], columns: list[str]) -> Panel:
    def paint(axes) -> None:
        figures.squares(axes, share, rows, columns, vmax=1.0)
        axes.tick_params(axis="x", labelrotation=60)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("left")

    caption = "p(z = j | x, source): from which word of the source (columns) each word (rows) comes; dark is sure."
    height = 1.2 + 0.24 * len(rows)
    width = min(1.6 + 0.24 * len(columns), figures.WIDTH)
    return Panel("svg", figures.draw(paint, height=height, width=width), caption, "Alignment")


def _dictionary(model: Any, data: Dataset) -> list[Panel]:
    """The likeliest translation of each of the commonest source words, where the model has one table of them."""
    assert data.context is not None
    source, words = data.context.schema.vocabulary, data.schema.vocabulary
    if not (hasattr(model, "lexicon") and source and words):
        return []
    count = min(ENTRIES, len(source) - 1)
    best = model.lexicon.probs.detach()[1 : count + 1].topk(min(2, len(words)))
    rows = [
        [source[i + 1], *(f"{words[v]} {percent(p)}" for v, p in zip(*row, strict=True))]
        for i, row in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    ]
    head = ["word", "translation", "or"][: 1 + best.values.shape[1]]
    return [table(head, rows, f"The {count} commonest words of the source, and what they become.", "Dictionary", 3)]


def _sound(data: Dataset, i: int, q: MonotoneAlignment) -> Panel:
    """Frames, and under them the posterior of each symbol over time."""
    assert data.context is not None
    context = data.context.batch([i])
    share = q.marginals[0].detach().cpu().double().numpy()
    frames = context.x[0, : int(context.ends[0])].cpu().double().numpy()
    share = share[: max(int((share.sum(-1) > 0).sum()), 1)]
    present = sorted(set(data.batch([i]).x[0, : int(data.batch([i]).ends[0])].tolist()))[:MOST_CURVES]
    names = data.schema.vocabulary or tuple(map(str, range(share.shape[1])))

    def paint(above, below) -> None:
        above.pcolormesh(frames.T, cmap=figures.HEAT, rasterized=True)
        above.set_ylabel("band")
        above.set_xticks([])
        time = (np.arange(len(share)) + 0.5) * len(frames) / len(share)
        for rank, symbol in enumerate(present):
            below.plot(time, share[:, symbol], color=figures.colour(rank), label=names[symbol])
        below.plot(time, share[:, -1], color=figures.MUTED, linewidth=0.9, label="blank", zorder=0)
        below.set_xlim(0, len(frames))
        below.set_xlabel("frame")
        below.set_ylabel("p(z = k | x, frames)")
        below.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))

    said = " ".join(str(word) for word in data.subset([i]).decoded()[0])
    caption = f"When each symbol of “{said[:120]}” is heard: the frames, and the posterior of each symbol over them."
    return Panel("svg", figures.draw(paint, rows=2, height=1.7), caption, "Heard")
