"""What the estimators share: X becomes a `Batch`, the parameters a model and a learner, and those two do the work."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from latentia.data import Dataset, as_dataset, in_order
from latentia.errors import DataError, OptionError
from latentia.learners import EM, Online
from latentia.learners.history import History
from latentia.model import Batch, EMModel, TractableModel
from latentia.tasks.common import using
from latentia.tasks.generate import framed

Array = np.ndarray
COUNTS = ("n_components", "n_clusters", "n_chains", "n_init", "max_iter")
ROWS = 4096  # whose posteriors are held in memory at a time


class EMEstimator(BaseEstimator):
    """A model that EM learns, as an estimator.

    A subclass has an `__init__` that stores its parameters, and writes `_model` and `_attributes`, and `_batch` where
    X is not a table of real numbers.

    Parameters that all have, with scikit-learn's names:
        tol: a start has converged when a step of EM gains less, in nats per sample.
        max_iter: most steps of EM in a start; a `ConvergenceWarning` tells of a fit that they ended.
        n_init: how many random starts; the best is kept.
        random_state: of the starts, and of `sample`.
        warm_start: begin from the parameters that the last fit ended with.

    Attributes that all have:
        model_: the fitted model of latentia.models, which the rest of the library takes.
        lower_bound_: log p(x) of the training data or its bound, in nats per sample; lower_bounds_: at each step.
        n_iter_: steps of EM in the best start; converged_: whether it converged.
        n_features_in_, feature_names_in_: of X, as everywhere in scikit-learn.
    """

    tol: float
    max_iter: int
    n_init: int
    random_state: Any
    warm_start: bool
    model_: Any

    def _model(self, batch: Batch) -> EMModel:
        """The model that the parameters ask for, for such data."""
        raise NotImplementedError(f"write {type(self).__name__}._model(batch)")

    def _attributes(self, model: Any) -> dict[str, Tensor]:
        """What has been learned, by the names of its attributes."""
        raise NotImplementedError(f"write {type(self).__name__}._attributes(model)")

    def _batch(self, X: Any, reset: bool) -> Batch:
        """X as the model sees it. `reset` while fitting: its columns become those that are expected afterwards."""
        return Batch.of(torch.from_numpy(self._table(X, reset)))

    def _dataset(self, batch: Batch) -> Dataset:
        """The data as learners and measures take them."""
        return as_dataset(batch)

    def _learner(self, fresh: bool) -> EM:
        restarts = self.n_init if fresh else 1
        return EM(steps=self.max_iter, tol=self.tol, restarts=restarts, fresh=fresh, progress=False)

    # ------------------------------------------------------------------------------------------------- learning

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn from X by EM.

        Args:
            X: (n_samples, n_features); NaN is a missing value, which is summed out.
            y: not used.
            sample_weight: (n_samples,), 0 = absent, 2 = seen twice.

        Raises:
            ValueError: data or parameters that cannot be used, saying why.
        """
        self._check_counts()
        batch = _weighted(self._batch(X, True), sample_weight)
        self._precision = np.float32 if _single(X) else np.float64
        self._check_enough(batch)
        model = self._model(batch).to(_dtype(batch))
        fresh = not (self.warm_start and hasattr(self, "model_"))
        if not fresh:
            _copy_parameters(self.model_, model)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            history = self._learner(fresh).fit(model, self._dataset(batch), seed=self._seed())
            self._online = Online(model, hard=self._learner(True).hard, fresh=False)
            self._online.seen(self._dataset(batch))
        self._learned(model, history)
        self._warn(caught)
        return self

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn from a chunk of data, which is not kept, by stepwise EM: `latentia.learners.Online`.

        The first chunk starts the model, and should show some of everything that is to come; after a `fit` it goes on
        from what has been learned, whose data are the first chunk. A sample counts the same in whatever chunk it comes.
        `n_iter_` counts the chunks, and `lower_bound_` is of the last one, by the model
        that had not learned from it yet.

        Args:
            X, y, sample_weight: as for `fit`.

        Raises:
            ValueError: data or parameters that cannot be used, saying why.
        """
        self._check_counts()
        fresh = not hasattr(self, "model_")
        batch = _weighted(self._batch(X, fresh), sample_weight)
        if fresh:
            self._check_enough(batch)
            self._precision = np.float32 if _single(X) else np.float64
            model = self._model(batch).to(_dtype(batch))
            self._online = Online(model, hard=self._learner(True).hard, seed=self._seed())
        self.lower_bound_ = self._online.partial_fit(self._dataset(batch))
        self.n_iter_ = self._online.chunks
        self._show(self._online.model)
        return self

    def _check_counts(self) -> None:
        for name, value in self.get_params().items():
            if name in COUNTS and not (isinstance(value, (int, np.integer)) and value >= 1):
                raise OptionError(f"{name}={value!r}: it must be a whole number of at least 1")

    def _check_enough(self, batch: Batch) -> None:
        """Raise `DataError` where there are too few samples to learn from."""

    def _learned(self, model: EMModel, history: History) -> None:
        best = int(np.argmax(history.restarts))
        records = [record for record in history.records if record["restart"] == best]
        self.lower_bounds_ = [record["log_marginal"] for record in records]
        self.lower_bound_ = self.lower_bounds_[-1]
        self.n_iter_ = records[-1]["step"]
        self.converged_ = history.stopped == "converged"
        self._show(model)

    def _show(self, model: Any) -> None:
        self.model_ = model
        for name, value in self._attributes(model).items():
            setattr(self, name, value.detach().numpy().astype(self._precision))

    def _warn(self, caught: list[warnings.WarningMessage]) -> None:
        """Say again what the learner has said; that EM was stopped, in scikit-learn's words."""
        for one in caught:
            if not str(one.message).startswith("EM stopped"):
                warnings.warn(one.message, one.category, stacklevel=3)
        if not self.converged_:
            warnings.warn(
                f"EM stopped after max_iter={self.max_iter} steps, before one gained less than tol={self.tol:g} nats "
                "per sample: raise max_iter or tol",
                ConvergenceWarning,
                stacklevel=3,
            )

    # ----------------------------------------------------------------------------------------------------- uses

    def score_samples(self, X: Any) -> Array:
        """log p(x) of each sample, (n_samples,), in nats; a lower bound on it where the posterior is approximate."""
        return self._each(X, _log_marginal)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The mean over the samples of log p(x) or its bound, in nats: what a grid search compares."""
        return float(np.average(self.score_samples(X).astype(np.float64), weights=sample_weight))

    def _each(self, X: Any, function: Callable[[Any, Batch], Tensor]) -> Array:
        """`function(model, batch)`, a row for each sample, computed for some samples at a time."""
        parts, positions = zip(*self._parts(X, function), strict=True)
        found = in_order(parts, positions).numpy()
        return as_given(found, X)

    def _parts(self, X: Any, function: Callable[[Any, Batch], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """`function(model, batch)` of some samples at a time, and which they are; sequences of like length together."""
        check_is_fitted(self)
        batch = self._batch(X, False)
        self.model_.check(batch.to(self.model_.anchor))
        for index, part in self._dataset(batch).by_length(ROWS):
            with using(self.model_, 0):
                found = function(self.model_, part.to(self.model_.anchor))
            yield found, index

    def _draw(self, n_samples: int, steps: int | None = None) -> tuple[Tensor, Any]:
        """n draws of x and z, of so many steps where x has some."""
        check_is_fitted(self)
        if n_samples < 1:
            raise OptionError(f"n_samples={n_samples}: at least 1 is drawn")
        with using(self.model_, self._seed()):
            batch, z = self.model_.generate(framed(self.model_, n_samples, steps, None))
        return batch.x, z

    # -------------------------------------------------------------------------------------------- scikit-learn's

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _table(self, X: Any, reset: bool, **options: Any) -> Array:
        """X as scikit-learn checks it: numbers in 32 or 64 bits, none of them infinite, and NaN allowed."""
        options = {"dtype": [np.float64, np.float32], "ensure_all_finite": "allow-nan"} | options
        table: Any = validate_data(self, X, reset=reset, **options)
        # a copy where X cannot be written to, as tensors must be
        return np.require(table, requirements=["C", "W"]) if isinstance(table, np.ndarray) else table

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def symbols(X: Array) -> Batch:
    """Whole numbers from 0, with NaN for what is missing, as symbols. Raises `DataError` for other numbers."""
    seen = ~np.isnan(X)
    if (X[seen] < 0).any():
        raise DataError("Negative values in data: symbols are whole numbers from 0, and NaN where missing")
    between = seen & (np.round(X) != X)
    if between.any():
        raise DataError(f"{X[between][0]:g} is no symbol: they are whole numbers from 0, and NaN where missing")
    x = torch.from_numpy(np.where(seen, X, 0).astype(np.int64))
    return Batch(x, None if seen.all() else torch.from_numpy(seen))


def levels(batch: Batch, asked: int | None) -> int:
    """How many symbols there are: as many as asked for, or up to the largest in the data."""
    return int(batch.x.max()) + 1 if asked is None else asked


def _weighted(batch: Batch, sample_weight: Any) -> Batch:
    """Raises `DataError` for weights that are not one number of 0 or more a sample, or all of them 0."""
    if sample_weight is None:
        return batch
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (batch.size,):
        raise DataError(f"sample_weight of shape {weight.shape} for {batch.size} samples: give a number for each")
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise DataError("sample_weight must be numbers of 0 or more")
    if not weight.any():
        raise DataError("sample_weight is zero everywhere: nothing is left to learn from")
    return batch._replace(weight=torch.from_numpy(weight))


def as_given(found: Array, X: Any) -> Array:
    """An answer in float32 where X is."""
    return found.astype(np.float32) if found.dtype == np.float64 and _single(X) else found


def _single(X: Any) -> bool:
    """Whether X is of float32 throughout: what is answered then is too."""
    if isinstance(X, (list, tuple)):
        return len(X) > 0 and all(_single(one) for one in X)
    kinds = getattr(X, "dtypes", None)
    kinds = [getattr(X, "dtype", None)] if kinds is None else list(kinds)
    return all(kind == np.float32 for kind in kinds)


def _dtype(batch: Batch) -> torch.dtype:
    return torch.float32 if batch.x.dtype == torch.float32 else torch.float64


def _copy_parameters(before: EMModel, model: EMModel) -> None:
    """Raises `OptionError` where the two models differ in their sizes."""
    old, new = before.state_dict(), model.state_dict()
    if {name: value.shape for name, value in old.items()} != {name: value.shape for name, value in new.items()}:
        raise OptionError("warm_start=True goes on from the last fit, whose model had other sizes: clone the estimator")
    model.load_state_dict(deepcopy(old))


def _log_marginal(model: Any, batch: Batch) -> Tensor:
    return model.posterior(batch).log_partition if isinstance(model, TractableModel) else model.bound(batch)
