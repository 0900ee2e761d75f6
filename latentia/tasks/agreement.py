"""How well states or clusters that nobody named agree with classes that somebody did."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentia.errors import DataError


def many_to_one(found: Any, named: Any) -> float:
    """The share of data whose class is the commonest one of their cluster, in [0, 1].

    Rises with the number of clusters, to 1 where each datum has its own: compare only where that number is the same
    (Johnson 2007, section 2).

    Args:
        found, named: tensors, arrays or lists of whole numbers from 0, of one shape: of each datum the cluster and the
            class.

    Raises:
        DataError: other shapes, no data or numbers below 0.
    """
    table = contingency(found, named)
    return float(table.amax(1).sum() / table.sum())


def v_measure(found: Any, named: Any) -> float:
    """The harmonic mean of homogeneity 1 - H(class | cluster) / H(class) and completeness
    1 - H(cluster | class) / H(cluster), in [0, 1] (Rosenberg and Hirschberg 2007, section 2).

    It is the same number as the normalised mutual information, I(cluster; class) over the mean of the two entropies.

    Args and raises: those of `many_to_one`.
    """
    from sklearn.metrics import v_measure_score

    return float(v_measure_score(*_labels(found, named)))


def one_to_one(found: Any, named: Any) -> float:
    """Clustering accuracy: the share of data whose class is the one given to their cluster, in [0, 1], where each
    class is given to one cluster at most, as well as can be (the Hungarian method, Kuhn 1955).

    Of more clusters than classes some are given none, and their data count as wrong. Args and raises: those of
    `many_to_one`.
    """
    from scipy.optimize import linear_sum_assignment

    table = contingency(found, named)
    rows, columns = linear_sum_assignment(table.numpy(), maximize=True)
    return float(table[rows, columns].sum() / table.sum())


def adjusted_rand_index(found: Any, named: Any) -> float:
    """The share of pairs of data that clusters and classes treat alike, less what chance gives, over the most that
    could be gained on chance (Hubert and Arabie 1985): 1 where they agree, 0 on average at random, at least -1.

    Args and raises: those of `many_to_one`.
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_labels(found, named)))


def contingency(found: Any, named: Any) -> Tensor:
    """How many data lie in each cluster and class, (clusters, classes), float64. Raises as `many_to_one` does."""
    named, found = (torch.from_numpy(labels) for labels in _labels(found, named))
    classes = int(named.max()) + 1
    counts = torch.bincount(found * classes + named, minlength=(int(found.max()) + 1) * classes)
    return counts.view(-1, classes).double()


def _labels(found: Any, named: Any) -> tuple[np.ndarray, np.ndarray]:
    """Classes and clusters, in scikit-learn's order, (N,) each. Raises as `many_to_one` does."""
    found, named = torch.as_tensor(found).cpu(), torch.as_tensor(named).cpu()
    if found.shape != named.shape or found.numel() == 0:
        raise DataError(f"clusters {tuple(found.shape)} and classes {tuple(named.shape)} must be alike, and not empty")
    found, named = found.flatten().long(), named.flatten().long()
    if min(int(found.min()), int(named.min())) < 0:
        raise DataError("clusters and classes are numbered from 0: leave out what is beyond the end of a sequence")
    return named.numpy(), found.numpy()
