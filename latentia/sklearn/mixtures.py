"""Mixtures: every sample has one of K components."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import validate_data
from torch import Tensor

from latentia import models
from latentia.data import Dataset, Raw, Schema, load, read
from latentia.data.columns import KINDS
from latentia.data.raw import Told
from latentia.errors import DataError, OptionError
from latentia.learners import EM
from latentia.model import Batch, EMModel
from latentia.sklearn.base import Array, EMEstimator, _weighted, levels, symbols

COVARIANCES = {"full": "full", "tied": "tied", "diag": "diagonal", "spherical": "spherical"}


class FiniteMixture(ClassNamePrefixFeaturesOutMixin, TransformerMixin, EMEstimator):
    """An estimator whose z is one of K: clusters, their probabilities, and those as features for what comes next.

    With one component, the default of mixtures as scikit-learn has it, it is a density estimator: no `ClusterMixin`,
    which would promise that what it is constructed as finds clusters.
    """

    labels_: Array

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None):
        super().fit(X, y, sample_weight)
        self.labels_ = self.predict(X)
        return self

    fit.__doc__ = EMEstimator.fit.__doc__

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None):
        super().partial_fit(X, y, sample_weight)
        self.labels_ = self.predict(X)
        return self

    partial_fit.__doc__ = EMEstimator.partial_fit.__doc__

    def _check_enough(self, batch: Batch) -> None:
        parameters = self.get_params()
        name = "n_clusters" if "n_clusters" in parameters else "n_components"
        samples = int((batch.weights > 0).sum())
        if samples < parameters[name]:
            raise DataError(
                f"n_samples={samples} should be >= {name}={parameters[name]}: some would have no sample; ask for fewer"
            )

    def fit_predict(self, X: Any, y: Any = None, **kwargs: Any) -> Array:
        """Learn from X, and give `labels_`; arguments as for `fit`."""
        return self.fit(X, y, **kwargs).labels_

    def predict(self, X: Any) -> Array:
        """The most probable component of each sample, (n_samples,), numbered from 0."""
        return self._each(X, lambda model, batch: model.posterior(batch).log_potentials["node"].argmax(-1))

    def predict_proba(self, X: Any) -> Array:
        """p(z = k | x) of each sample, (n_samples, n_components)."""
        return self._each(X, lambda model, batch: model.posterior(batch).log_potentials["node"].softmax(-1))

    def transform(self, X: Any) -> Array:
        """The same as `predict_proba`: K numbers that sum to one, in the place of the features."""
        return self.predict_proba(X)

    def sample(self, n_samples: int = 1) -> tuple[Array, Array]:
        """Draws from p(x, z): samples, (n_samples, n_features), and their components, (n_samples,)."""
        x, z = self._draw(n_samples)
        return x.numpy(), z.argmax(-1).numpy()

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Bayes's information criterion, -2 log p(X) + free parameters * log n: smaller is better. A sample of weight w
        counts w times, in log p(X) and in n."""
        total, count = self._total(X, sample_weight)
        return -2 * total + self.model_.free_parameters() * math.log(count)

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Akaike's information criterion, -2 log p(X) + 2 * free parameters: smaller is better. A sample of weight w
        counts w times."""
        return -2 * self._total(X, sample_weight)[0] + 2 * self.model_.free_parameters()

    def _total(self, X: Any, sample_weight: Any) -> tuple[float, float]:
        """log p(X) in nats, and the number of samples, each counted by its weight."""
        scores = self.score_samples(X).astype(np.float64)
        weight = _weighted(self._batch(X, False), sample_weight).weight
        weight = np.ones(len(scores)) if weight is None else weight.numpy()
        # an absent sample adds nothing, even when it is impossible
        return float(np.where(weight > 0, weight * scores, 0.0).sum()), float(weight.sum())

    @property
    def _n_features_out(self) -> int:
        return len(self.model_.weights)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.estimator_type = "density_estimator" if self.get_params().get("n_components") == 1 else "clusterer"
        assert tags.transformer_tags is not None  # TransformerMixin has put them there
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class GaussianMixture(FiniteMixture):
    """`latentia.models.GaussianMixture`: scikit-learn's own, with missing values and weights.

    Args:
        n_components: K.
        covariance_type: "full"; "tied", one full matrix for all; "diag"; "spherical", one variance each.
        floor: least variance of a component in any direction, as a fraction of the data's own.
        tol, max_iter, n_init, random_state, warm_start: see `EMEstimator`.

    Attributes, besides those of `EMEstimator`:
        weights_: (K,). means_: (K, D).
        covariances_: (K, D, D), or tied (D, D), diag (K, D), spherical (K,).
        labels_: (n_samples,), the component of each training sample, of the last chunk after `partial_fit`.
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        floor: float = 1e-6,
        tol: float = 1e-6,
        max_iter: int = 200,
        n_init: int = 1,
        random_state: Any = None,
        warm_start: bool = False,
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.floor = floor
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.warm_start = warm_start

    def _model(self, batch: Batch) -> EMModel:
        kind = covariance(self.covariance_type)
        return models.GaussianMixture(batch.x.shape[1], self.n_components, cast(Any, kind), self.floor)

    def _attributes(self, model: models.GaussianMixture) -> dict[str, Tensor]:
        covariances = compact(model.covariances, self.covariance_type)
        return {"weights_": model.weights, "means_": model.means, "covariances_": covariances}


class KMeans(ClusterMixin, FiniteMixture):
    """`latentia.models.KMeans` by hard EM: scikit-learn's k-means, with missing values and a density.

    `score` and `score_samples` are log p(x) under clusters of equal weight and one variance, comparable with those of
    every other estimator here; `predict_proba` follows from it. The distances of k-means are in `inertia_`.

    Args:
        n_clusters: K.
        tol, max_iter, n_init, random_state, warm_start: see `EMEstimator`.

    Attributes, besides those of `EMEstimator`:
        cluster_centers_: (K, D).
        inertia_: the sum of squared distances of the samples to their centers, over what is observed.
        labels_: (n_samples,), the cluster of each training sample.
    """

    cluster_centers_: Array

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        tol: float = 1e-6,
        max_iter: int = 300,
        n_init: int = 1,
        random_state: Any = None,
        warm_start: bool = False,
    ):
        self.n_clusters = n_clusters
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.warm_start = warm_start

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None):
        super().fit(X, y, sample_weight)
        distance = np.nansum((self._table(X, False) - self.cluster_centers_[self.labels_]) ** 2, 1)
        self.inertia_ = float(distance.sum() if sample_weight is None else distance @ np.asarray(sample_weight))
        return self

    fit.__doc__ = EMEstimator.fit.__doc__

    def _learner(self, fresh: bool) -> EM:
        learner = super()._learner(fresh)
        learner.hard = True
        return learner

    def _model(self, batch: Batch) -> EMModel:
        return models.KMeans(batch.x.shape[1], self.n_clusters)

    def _attributes(self, model: models.KMeans) -> dict[str, Tensor]:
        return {"cluster_centers_": model.means}


class MixtureOfBernoullis(FiniteMixture):
    """`latentia.models.MixtureOfBernoullis`: clusters of rows of 0 and 1.

    Args:
        n_components: K.
        binarize: what is above it counts as 1, as in scikit-learn's `BernoulliNB`; None takes 0 and 1 alone.
        smoothing: pseudo-count of a value in each cluster and column, on average of 0 and 1.
        tol, max_iter, n_init, random_state, warm_start: see `EMEstimator`.

    Attributes, besides those of `EMEstimator`:
        weights_: (K,). probs_: (K, D), the probability of a 1.
        labels_: (n_samples,), the component of each training sample.
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        binarize: float | None = 0.0,
        smoothing: float = 0.1,
        tol: float = 1e-6,
        max_iter: int = 200,
        n_init: int = 1,
        random_state: Any = None,
        warm_start: bool = False,
    ):
        self.n_components = n_components
        self.binarize = binarize
        self.smoothing = smoothing
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.warm_start = warm_start

    def _batch(self, X: Any, reset: bool) -> Batch:
        table = self._table(X, reset)
        if self.binarize is not None:
            table = np.where(np.isnan(table), table, table > self.binarize).astype(table.dtype)
        return Batch.of(torch.from_numpy(table))

    def _model(self, batch: Batch) -> EMModel:
        return models.MixtureOfBernoullis(tuple(batch.x.shape[1:]), self.n_components, self.smoothing)

    def _attributes(self, model: models.MixtureOfBernoullis) -> dict[str, Tensor]:
        return {"weights_": model.weights, "probs_": model.probs}


class MixtureOfCategoricals(FiniteMixture):
    """`latentia.models.MixtureOfCategoricals`: clusters of rows of categories, latent class analysis.

    X is (n_samples, n_features) of whole numbers from 0, as `OrdinalEncoder` gives, and NaN where missing.

    Args:
        n_components: K.
        n_categories: V, the number of categories in every column; None is up to the largest in the data.
        smoothing: pseudo-count of a category in each cluster and column, on average.
        tol, max_iter, n_init, random_state, warm_start: see `EMEstimator`.

    Attributes, besides those of `EMEstimator`:
        weights_: (K,). probs_: (K, D, V).
        labels_: (n_samples,), the component of each training sample.
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        n_categories: int | None = None,
        smoothing: float = 0.01,
        tol: float = 1e-6,
        max_iter: int = 200,
        n_init: int = 1,
        random_state: Any = None,
        warm_start: bool = False,
    ):
        self.n_components = n_components
        self.n_categories = n_categories
        self.smoothing = smoothing
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.warm_start = warm_start

    def _batch(self, X: Any, reset: bool) -> Batch:
        return symbols(self._table(X, reset))

    def _model(self, batch: Batch) -> EMModel:
        size = levels(batch, self.n_categories), batch.x.shape[1]
        return models.MixtureOfCategoricals(*size, self.n_components, self.smoothing)

    def _attributes(self, model: models.MixtureOfCategoricals) -> dict[str, Tensor]:
        return {"weights_": model.weights, "probs_": model.probs}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = tags.input_tags.positive_only = True
        return tags


class Mixture(FiniteMixture):
    """`latentia.models.Mixture`: clusters of rows whose columns are numbers, categories, yes or no, and counts.

    X is a data frame (pandas, polars, Arrow), whose columns' kinds are told from their types and values, or an array,
    whose columns are numbers unless `columns` says otherwise. NaN and None are missing, and summed out. A category that
    was not there while fitting is refused.

    Args:
        n_components: K.
        columns: kinds of columns that are told wrongly, by name: {"grade": "category"}; or one of each column, in their
            order: real, category, binary (yes or no) or count.
        floor: least variance of a number within a component, as a fraction of the column's own.
        smoothing: pseudo-count of a category in each component, on average; see the model.
        tol, max_iter, n_init, random_state, warm_start: see `EMEstimator`.

    Attributes, besides those of `EMEstimator`:
        weights_: (K,).
        schema_: what each column is, `latentia.data.Schema`; `schema_.fields` are its columns.
        labels_: (n_samples,), the component of each training sample.
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        columns: Any = None,
        floor: float = 1e-6,
        smoothing: float = 0.01,
        tol: float = 1e-6,
        max_iter: int = 200,
        n_init: int = 1,
        random_state: Any = None,
        warm_start: bool = False,
    ):
        self.n_components = n_components
        self.columns = columns
        self.floor = floor
        self.smoothing = smoothing
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.warm_start = warm_start

    def _batch(self, X: Any, reset: bool) -> Batch:
        if not hasattr(X, "columns") and not hasattr(X, "column_names"):
            return self._of_array(X, reset)
        validate_data(self, X, reset=reset, skip_check_array=True)
        if reset:
            raw = read(X, columns=self._asked(), kind="table")
            self.schema_ = Schema.of(raw, values="mixed", scale="none")
        return self._of_schema(load(X, schema=self.schema_))

    def _asked(self) -> list[str] | None:
        if self.columns is None or isinstance(self.columns, dict):
            return None if not self.columns else [f"{name}:{kind}" for name, kind in self.columns.items()]
        names = list(vars(self)["feature_names_in_"])
        if len(self.columns) != len(names):
            raise OptionError(f"columns={self.columns!r}: say the kind of each of the {len(names)} columns")
        return [f"{name}:{kind}" for name, kind in zip(names, self.columns, strict=True)]

    def _of_array(self, X: Any, reset: bool) -> Batch:
        """Of an array: numbers, but for the columns that are said to be others."""
        table = self._table(X, reset)
        if reset:
            kinds = ["real"] * table.shape[1] if self.columns is None else list(self.columns)
            if len(kinds) != table.shape[1]:
                raise OptionError(f"columns={self.columns!r}: say the kind of each of the {table.shape[1]} columns")
            told = tuple(Told(kind) for kind in kinds)
            if not {kind for kind, _ in told} <= set(KINDS):
                raise OptionError(f"columns={self.columns!r}: the kinds are {', '.join(KINDS)}")
            raw = Raw("table", table.astype(np.float64), source="X", told=told, mixed=True)
            self.schema_ = Schema.of(raw, values="mixed", scale="none")
        raw = Raw("table", table.astype(np.float64), source="X")
        return self._of_schema(self.schema_.encode(raw), torch.from_numpy(table).dtype)

    def _of_schema(self, data: Dataset, dtype: torch.dtype = torch.float64) -> Batch:
        return Batch(data.x.to(dtype), data.mask)

    def _model(self, batch: Batch) -> EMModel:
        return models.Mixture(self.schema_.sizes()["columns"], self.n_components, self.floor, self.smoothing)

    def _attributes(self, model: models.Mixture) -> dict[str, Tensor]:
        return {"weights_": model.weights}

    def sample(self, n_samples: int = 1) -> tuple[Array, Array]:
        """Draws from p(x, z): samples, (n_samples, n_features), with the names of categories where there are some, and
        their components, (n_samples,)."""
        x, z = self._draw(n_samples)
        return np.asarray(self.schema_.decode(x)), z.argmax(-1).numpy()


def covariance(kind: str) -> str:
    """scikit-learn's word for a kind of covariance in this library's. Raises `OptionError` for any other word."""
    if kind not in COVARIANCES:
        raise OptionError(f"covariance_type={kind!r}: choose one of {', '.join(COVARIANCES)}")
    return COVARIANCES[kind]


def compact(covariances: Tensor, kind: str) -> Tensor:
    """(K, D, D) in the shape that scikit-learn gives to matrices of this kind."""
    if kind == "tied":
        return covariances[0]
    diagonal = covariances.diagonal(dim1=-2, dim2=-1)
    return {"diag": diagonal, "spherical": diagonal[:, 0]}.get(kind, covariances)
