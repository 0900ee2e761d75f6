"""How well states or clusters that nobody named agree with classes that somebody did."""

from __future__ import annotations

from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
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
    joint = contingency(found, named)
    joint = joint / joint.sum()
    clusters, classes = _entropy(joint.sum(1)), _entropy(joint.sum(0))
    shared = clusters + classes - _entropy(joint.flatten())
    # one cluster, or one class, leaves nothing to get wrong
    homogeneity = shared / classes if classes > 0 else 1.0
    completeness = shared / clusters if clusters > 0 else 1.0
    both = homogeneity + completeness
    return float(2 * homogeneity * completeness / both) if both > 0 else 0.0


def one_to_one(found: Any, named: Any) -> float:
    """Clustering accuracy: the share of data whose class is the one given to their cluster, in [0, 1], where each
    class is given to one cluster at most, as well as can be (the Hungarian method, Kuhn 1955).

    Of more clusters than classes some are given none, and their data count as wrong. Args and raises: those of
    `many_to_one`.
    """
    table = contingency(found, named)
    rows, columns = linear_sum_assignment(table.numpy(), maximize=True)
    return float(table[rows, columns].sum() / table.sum())


def adjusted_rand_index(found: Any, named: Any) -> float:
    """The share of pairs of data that clusters and classes treat alike, less what chance gives, over the most that
    could be gained on chance (Hubert and Arabie 1985): 1 where they agree, 0 on average at random, at least -1.

    Args and raises: those of `many_to_one`.
    """
    table = contingency(found, named)

    def pairs(count: Tensor) -> Tensor:
        return (count * (count - 1) / 2).sum()

    both, clusters, classes = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    chance = clusters * classes / pairs(table.sum()).clamp(min=1)
    most = (clusters + classes) / 2
    # all in one, or each alone, on both sides: nothing to get wrong
    return float((both - chance) / (most - chance)) if most > chance else 1.0


def contingency(found: Any, named: Any) -> Tensor:
    """How many data lie in each cluster and class, (clusters, classes), float64. Raises as `many_to_one` does."""
    found, named = torch.as_tensor(found), torch.as_tensor(named)
    if found.shape != named.shape or found.numel() == 0:
        raise DataError(f"clusters {tuple(found.shape)} and classes {tuple(named.shape)} must be alike, and not empty")
    found, named = found.flatten().long(), named.flatten().long()
    if min(int(found.min()), int(named.min())) < 0:
        raise DataError("clusters and classes are numbered from 0: leave out what is beyond the end of a sequence")
    classes = int(named.max()) + 1
    counts = torch.bincount(found * classes + named, minlength=(int(found.max()) + 1) * classes)
    return counts.view(-1, classes).double()


def _entropy(probability: Tensor) -> Tensor:
    """In nats."""
    return torch.special.entr(probability).sum()
