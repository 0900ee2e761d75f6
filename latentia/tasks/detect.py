"""What does not belong: a score for each datum, the larger the odder."""

from __future__ import annotations

import bz2
import io
import lzma
import math
import zlib
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latentia.data import Dataset, as_dataset, data_for
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.measure.remarks import remark
from latentia.model import LatentVariableModel, TractableModel
from latentia.tasks.common import log_marginals
from latentia.tasks.gap import gaps

SCORES = ("likelihood", "regret", "complexity")
WARNING = (
    "A raw likelihood can rank outliers above the data: what is simple or smooth may be more probable than anything "
    "the model was fitted to (Nalisnick et al. 2019)."
)


def advice(model: LatentVariableModel, data: Dataset) -> str:
    """What to know of a likelihood as a score, and which of the others can be set beside it."""
    others = [] if isinstance(model, TractableModel) else ["regret"]
    others += ["complexity"] if data.schema.values not in ("real", "mixed") or data.schema.kind == "image" else []
    if not others:
        return WARNING
    return f"{WARNING} Compare the score{'s' if len(others) > 1 else ''} {' and '.join(others)}."


def ranked(scores: Tensor) -> Tensor:
    """Positions of the data by falling score; those that have none, of which nothing was observed, are left out."""
    return scores.nan_to_num(-math.inf).argsort(descending=True, stable=True)[: int((~scores.isnan()).sum())]


def anomaly_scores(
    model: LatentVariableModel,
    data: Any,
    *,
    score: Literal["likelihood", "regret", "complexity"] = "likelihood",
    importance_samples: int = 1000,
    steps: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """How odd each datum is, (N,) float64, in nats, of sequences and sentences in nats per observed step, so that a
    long one is not odd for its length: the larger the odder. NaN for a datum of which nothing is observed: there is
    nothing to tell it by. Of a row of which a part is missing the score is that of the rest.

        likelihood   -log p(x), exact or by importance sampling
        regret       max_q ELBO(x, q) - ELBO(x, q(z | x)): what the encoder misses, the model held still; the likelihood
                     regret of Xiao, Yan and Amit (2020), which is the datum's amortization gap
        complexity   -log p(x) - length(x): the code length under the model less that under general compressors, see
                     `code_lengths` (Serrà et al. 2020); above 0 the general one knows x better

    A likelihood alone can fail: deep generative models give simple outliers more probability than the data they were
    fitted to (Nalisnick et al. 2019).

    Args:
        data: anything that `as_dataset` takes.
        importance_samples: draws of z a datum, where log p(x) is not exact and for both bounds of the regret.
        steps: of refinement, for the regret.

    Raises:
        CapabilityError: regret, of a model whose posterior cannot be refined, or is exact: it misses nothing, and the
            regret would be 0 for all.
        DataError: data that the model cannot have; complexity, of values that are no whole numbers or not all observed.
        OptionError: another score.
    """
    if score not in SCORES:
        raise OptionError(f"score={score!r}: choose one of {', '.join(SCORES)}")
    data = data_for(model, data, seed)
    seen = _seen(data)
    if score == "regret":
        if isinstance(model, TractableModel):
            raise CapabilityError(
                f"the posterior of {type(model).__name__} is exact, so that its regret is 0 for all data: use the "
                "scores likelihood or complexity"
            )
        options = {"importance_samples": importance_samples, "seed": seed, "progress": progress}
        found = gaps(model, data, steps=steps, **options).amortization
    else:
        length = code_lengths(data) if score == "complexity" else 0.0
        value = log_marginals(model, data, importance_samples, 0, seed, progress)[0]
        remark(data, value)
        found = -value - length
    found = found / seen if data.schema.kind in ("sequence", "text") else found
    return torch.where(seen > 0, found, math.nan)


def _seen(data: Dataset) -> Tensor:
    """How many steps of each sequence are observed, or entries of each datum of another kind, (N,) float64."""
    seen = data.batch().observed.cpu()
    seen = seen.unsqueeze(-1).flatten(2).any(-1) if data.schema.kind in ("sequence", "text") else seen.flatten(1)
    return seen.sum(1).double()


def auroc(inside: Any, outside: Any) -> float:
    """The probability that a datum from outside scores above one from inside, ties half: the area under the ROC curve.

    1: told apart without error; 0.5: not at all; below: the wrong way round. Data without a score (NaN) are left out.
    Raises `DataError` where nothing is left of one.
    """
    inside, outside = (torch.as_tensor(part).flatten() for part in (inside, outside))
    inside, outside = (part[~part.isnan()] for part in (inside, outside))
    if not len(inside) or not len(outside):
        raise DataError("AUROC compares two sets of scores, and one of them is empty")
    # scipy is imported where it is used: it takes longer than most of what is done here
    from scipy.stats import mannwhitneyu

    above = mannwhitneyu(outside.double(), inside.double(), method="asymptotic").statistic
    return float(above / (len(inside) * len(outside)))


def code_lengths(data: Any) -> Tensor:
    """The length of each datum in nats, (N,) float64, under the best of some general compressors: zlib, bzip2 and
    LZMA, each at its highest level, and for images PNG. Their headers count, so compare lengths of like data.

    Binary values are packed eight to a byte, levels and symbols take the fewest whole bytes that hold them, sentences
    are UTF-8. Real images count by their grey levels.

    Raises:
        DataError: values that are no whole numbers, or that are missing: they have no length.
    """
    data = as_dataset(data).frozen(0)
    if data.schema.kind not in ("sequence", "text") and data.mask is not None and not bool(data.mask.all()):
        raise DataError("complexity: what is missing has no length; leave out the data that are not complete")
    if data.schema.kinds:
        raise DataError(
            f"complexity: the columns of {data.schema.source} are of several kinds, which no general compressor can "
            "count; use the scores likelihood or regret"
        )
    values = data.decoded()
    if isinstance(values, np.ndarray) or data.schema.kind == "sequence":
        values = [_whole(value, data) for value in values]
    return math.log(2) * 8 * torch.tensor([_shortest(value, data) for value in values], dtype=torch.float64)


def _whole(value: np.ndarray, data: Dataset) -> np.ndarray:
    value = np.asarray(value, dtype=np.float64)
    level = value.round()
    # a scaling and its inverse leave an error
    if not np.isfinite(value).all() or np.abs(value - level).max(initial=0) > 1e-3 or level.min(initial=0) < 0:
        raise DataError(
            f"complexity: {data.schema.source} holds values that are no whole numbers from 0, which no compressor can "
            "count; use the scores likelihood or regret"
        )
    most = max(int(level.max(initial=0)), (data.schema.levels or 2) - 1 if data.schema.values != "binary" else 1)
    return level.astype(np.min_scalar_type(most))


def _shortest(value: np.ndarray | list[str], data: Dataset) -> int:
    """Bytes."""
    if isinstance(value, list):
        raw = " ".join(value).encode()
    else:
        raw = (np.packbits(value) if data.schema.values == "binary" else value).tobytes()
    sizes = [len(zlib.compress(raw, 9)), len(bz2.compress(raw, 9)), len(lzma.compress(raw, lzma.FORMAT_ALONE))]
    if isinstance(value, np.ndarray) and data.schema.kind == "image" and value.dtype == np.uint8:
        sizes += _png(value, data.schema.values == "binary")
    return min(sizes)


def _png(value: np.ndarray, binary: bool) -> list[int]:
    """The size as PNG, where it is an image of one, three or four channels."""
    value = value[..., 0] if value.ndim == 3 and value.shape[-1] == 1 else value
    if value.ndim != 2 and not (value.ndim == 3 and value.shape[-1] in (3, 4)):
        return []
    file = io.BytesIO()
    image = Image.fromarray(255 * value).convert("1") if binary and value.ndim == 2 else Image.fromarray(value)
    image.save(file, format="PNG", optimize=True)
    return [file.tell()]
