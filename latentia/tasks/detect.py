"""What does not belong: a score for each datum, the larger the odder."""

from __future__ import annotations

import bz2
import io
import lzma
import math
import zlib
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latentia.batch import Batch
from latentia.data import Dataset, as_dataset, data_for
from latentia.distributions import Chain
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.inference.refinement import refinable
from latentia.measure.remarks import remark
from latentia.model import LatentVariableModel, TractableModel
from latentia.tasks.common import log_marginals
from latentia.tasks.encode import gather
from latentia.tasks.gap import gaps

SCORES = ("likelihood", "regret", "complexity")
WARNING = (
    "A raw likelihood can rank outliers above the data: what is simple or smooth may be more probable than anything "
    "the model was fitted to (Nalisnick et al. 2019)."
)


SCALES = {
    "likelihood": "−log p(x)",
    "regret": "what per-datum inference gains on the encoder, 0 or more",
    "complexity": "−log p(x) less the length of x when compressed; above 0 a general compressor knows x better",
}
"""What each score is."""


def scale(score: str, data: Dataset) -> str:
    """What the numbers of a score are, and in which unit, in words."""
    unit = "nats per observed step" if data.schema.kind in ("sequence", "text") else "nats"
    said = f"{SCALES[score]}, in {unit}"
    if score == "likelihood" and data.schema.values in ("real", "mixed"):
        said += ", a log-density in the units of the data: it may be negative, and differences count"
    return said


def advice(model: LatentVariableModel, data: Dataset) -> str:
    """What to know of a likelihood as a score, and which of the others can be set beside it."""
    others = ["regret"] if _refinable(model, data) else []
    others += ["complexity"] if _countable(data) else []
    if not others:
        return WARNING
    return f"{WARNING} Compare the score{'s' if len(others) > 1 else ''} {' and '.join(others)}."


def _refinable(model: LatentVariableModel, data: Dataset) -> bool:
    """Whether the regret is a score of this model: of an exact posterior it is 0."""
    if isinstance(model, TractableModel) or not len(data):
        return False
    one = data.frozen(0).batch(slice(0, 1), model.anchor.dtype).to(model.anchor)
    with torch.no_grad():
        return refinable(model, one)


def _countable(data: Dataset) -> bool:
    """Whether complexity is a score of these data, all of them as the first few are."""
    whole = data.mask is None or bool(data.mask.all()) or data.lengths is not None
    try:
        code_lengths(data.subset(slice(0, 8)))
    except DataError:
        return False
    return whole and bool(len(data))


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


def column_scores(
    model: LatentVariableModel, data: Any, *, importance_samples: int = 200, seed: int = 0, progress: bool = False
) -> Tensor:
    """How odd each value of a row is given the others, -log p(x_d | the other observed columns), (N, D) float64, in
    nats and in the units of the data; NaN where nothing is observed. It is log p of the row without the value less
    log p of the row, exact where the model is.

    Args:
        data: a table, anything that `as_dataset` takes.

    Raises:
        DataError: data that are no table, or that the model cannot have.
    """
    data = data_for(model, data, seed).frozen(seed)
    if data.x.ndim != 2 or data.lengths is not None:
        raise DataError(f"{data.schema.source}: a score for each column is of tables, x (N, D)")
    seen = data.batch().observed.cpu()
    options = {"importance_samples": importance_samples, "steps": 0, "seed": seed, "progress": progress}
    whole = log_marginals(model, data, **options)[0]
    found = torch.full(data.x.shape, math.nan, dtype=torch.float64)
    for j in range(data.x.shape[1]):
        left = seen.clone()
        left[:, j] = False
        rest = replace(data, mask=left, x=torch.where(left, data.x, torch.zeros_like(data.x)))
        value = log_marginals(model, rest, **options)[0] - whole
        found[:, j] = torch.where(seen[:, j], value, math.nan)
    return found


def step_scores(model: LatentVariableModel, data: Any, *, seed: int = 0) -> Tensor:
    """How odd each step of a sequence is after those before it, -log p(x_t | x_1..t-1), (N, T) float64, in nats and in
    the units of the data; NaN beyond the end and where nothing is observed.

    Raises:
        CapabilityError: z is not a chain of states.
        DataError: data that the model cannot have.
    """
    data = data_for(model, data, seed)

    def scores(batch: Batch) -> Tensor:
        q = model.posterior(batch)
        if not isinstance(q, Chain):
            raise CapabilityError(f"{type(model).__name__} has no score for each step: its z is no chain of states")
        parts = q.log_potentials
        first = parts["initial"].softmax(-1).expand(batch.size, 1, -1)
        after = q.filtered[:, :-1].unsqueeze(-2) @ parts["transition"].softmax(-1)
        predicted = torch.cat([first, after.squeeze(-2)], 1)
        return -torch.logsumexp(predicted.clamp(min=1e-300).log() + parts["node"], -1)

    found = gather(model, data, scores, 256, seed)
    assert isinstance(found, Tensor)  # `scores` returns one
    seen = data.batch().observed.cpu()
    if data.schema.values in ("real", "mixed"):
        width = torch.tensor(data.schema.scale, dtype=torch.float64).log()
        found = found.double().cpu() + (seen * width).flatten(2).sum(-1)
    steps = seen.unsqueeze(-1).flatten(2).any(-1)
    return torch.where(steps, found.double().cpu(), math.nan)


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
