"""Hidden Markov models: a sample is a sequence, so that cross-validation and weights are over sequences.

Three forms of X:

- an array (n_samples, n_steps): a row is a sequence of numbers or symbols;
- an array (n_samples, n_steps, n_features): a sequence of vectors;
- a list of arrays, (n_steps,) or (n_steps, n_features) each, of any lengths.

NaN is a missing value; a sequence ends at its last step of which anything is observed, so that rows of different
lengths are filled up with NaN. What is asked about may be longer or shorter than what was fitted to.

A data frame is one sequence, a step a row, of as many features as it has columns.

Steps of several sequences in one long array or data frame, (n_steps,) or (n_steps, n_features), come with hmmlearn's
`lengths`, how many of them each sequence has. Answers are then one long array too.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, cast

import numpy as np
import torch
from sklearn.utils import Tags, check_array
from torch import Tensor

from latentia import models
from latentia.data import Dataset, Schema
from latentia.errors import DataError, OptionError
from latentia.model import Batch, EMModel, ends
from latentia.sklearn.base import Array, EMEstimator, as_given, levels, symbols
from latentia.sklearn.mixtures import compact, covariance


class SequenceEstimator(EMEstimator):
    """An estimator whose samples are sequences, and whose z has a state for each step."""

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, lengths: Any = None):
        """Learn from sequences by EM.

        Args:
            X: (n_samples, n_steps), (n_samples, n_steps, n_features), or a list of arrays of any lengths. NaN is a
                missing value, which is summed out, or what lies beyond a sequence's end. With `lengths` all steps of
                all sequences, (sum of lengths,) or (sum of lengths, n_features).
            y: not used; in the place where hmmlearn has its `lengths`, they are taken for that.
            sample_weight: (n_samples,), a number for each sequence: 0 = absent, 2 = seen twice.
            lengths: (n_samples,), how many steps of X each sequence has.

        Raises:
            ValueError: data or parameters that cannot be used, saying why.
        """
        return super().fit(_cut(X, lengths, y), None, sample_weight)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None, lengths: Any = None):
        return super().partial_fit(_cut(X, lengths, y), None, sample_weight)

    partial_fit.__doc__ = EMEstimator.partial_fit.__doc__

    def score_samples(self, X: Any, lengths: Any = None) -> Array:
        """log p(x) of each sequence or a lower bound on it, (n_samples,), in nats."""
        return super().score_samples(_cut(X, lengths))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None, lengths: Any = None) -> float:
        """The mean over the sequences of log p(x) or its bound, in nats: hmmlearn's is the sum over them."""
        return super().score(_cut(X, lengths, y), None, sample_weight)

    def predict(self, X: Any, lengths: Any = None) -> Any:
        """The most probable states of each sequence, all together, numbered from 0 (Viterbi).

        Returns:
            (n_samples, n_steps), -1 beyond a sequence's end; a list of arrays for a list; with `lengths` a state for
            each step, (sum of lengths,).
        """

        def path(model: Any, batch: Batch) -> Tensor:
            mode = model.posterior(batch).mode
            return torch.where(mode.sum(-1) > 0, mode.argmax(-1) + 1, 0)

        states = self._steps(X, lengths, path)
        return [one - 1 for one in states] if isinstance(states, list) else states - 1

    def predict_proba(self, X: Any, lengths: Any = None) -> Any:
        """p(z_t = k | x) of each step by itself.

        Returns:
            (n_samples, n_steps, n_components), 0 beyond a sequence's end; a list of arrays for a list; with `lengths`
            a row for each step, (sum of lengths, n_components).
        """
        return self._steps(X, lengths, lambda model, batch: model.posterior(batch).marginals)

    def sample(self, n_samples: int = 1, n_steps: int = 20) -> tuple[Array, Array]:
        """Draws from p(x, z): sequences of `n_steps` steps, and their states.

        Returns:
            (n_samples, n_steps), or (n_samples, n_steps, n_features) after a fit to vectors; (n_samples, n_steps).
        """
        if n_steps < 1:
            raise OptionError(f"n_steps={n_steps}: a sequence has at least 1")
        x, z = self._draw(n_samples, n_steps)
        return (x.squeeze(-1) if self._plain and x.ndim == 3 else x).numpy(), z.argmax(-1).numpy()

    def _batch(self, X: Any, reset: bool) -> Batch:
        if _is_list(X):
            return self._joined(X, reset)
        table = self._table(X, reset, allow_nd=True)
        if table.ndim > 3:
            raise DataError(f"X of shape {table.shape}: sequences have steps, and steps features, and nothing besides")
        if reset:
            self._plain = table.ndim == 2
            if table.ndim == 3:
                self.n_features_in_ = table.shape[2]
        # in one array a sequence can only be filled up, so it ends at its last step of which anything is observed
        batch = self._sequences(table)
        return _ending(batch, ends(batch.observed))

    def _joined(self, X: Any, reset: bool) -> Batch:
        """A list of sequences side by side. They are checked one after another, as a single one, and what lies behind
        their ends is never written to, so that it takes no memory: one of them may be very long."""
        if reset:
            vars(self).pop("n_features_in_", None)
        steps = _concatenated(X)
        options: dict[str, Any] = {"allow_nd": True, "ensure_2d": False, "ensure_all_finite": "allow-nan"}
        table = np.asarray(check_array(steps, **options))[None]
        if reset:
            self._plain = table.ndim == 2
        one, sizes = self._sequences(table), [len(part) for part in X]
        shape = len(sizes), max(sizes), *one.x.shape[2:]
        x = torch.from_numpy(np.zeros(shape, one.x.numpy().dtype))
        mask = None if one.mask is None else torch.ones(shape, dtype=torch.bool)
        for n, part in enumerate(one.x[0].split(sizes)):
            x[n, : sizes[n]] = part
        for n, part in enumerate([] if one.mask is None else one.mask[0].split(sizes)):
            mask[n, : sizes[n]] = part  # type: ignore[index]  # there is one
        return Batch(x, mask, None if min(sizes) == max(sizes) else torch.tensor(sizes))

    def _table(self, X: Any, reset: bool, **options: Any) -> Array:
        if reset:
            return super()._table(X, True, **options)
        # a step is no feature: a sequence may have more of them than those of the fit, or fewer
        of_any_length = copy(self)
        vars(of_any_length).pop("n_features_in_", None)
        return super(SequenceEstimator, of_any_length)._table(X, False, **options)

    def _sequences(self, table: Array) -> Batch:
        """Padded sequences (n_samples, n_steps) or (n_samples, n_steps, n_features) as the model sees them."""
        return Batch.of(torch.from_numpy(table if table.ndim == 3 else table[:, :, None]))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.estimator_type = "density_estimator"
        return tags

    def _dataset(self, batch: Batch) -> Dataset:
        # as sequences, which learners and measures take by their lengths
        count = batch.x.shape[-1] if batch.x.ndim == 3 else 0
        if count:
            schema = Schema("sequence", "real", (count,), shift=(0.0,) * count, scale=(1.0,) * count, source="X")
        else:
            schema = Schema("sequence", "symbols", (), levels=levels(batch, None), source="X")
        rows = torch.arange(1, batch.size + 1)
        return Dataset(batch.x, batch.mask, schema, batch.weight, rows=rows, lengths=batch.ends)

    def _steps(self, X: Any, lengths: Any, function: Callable[[Any, Batch], Tensor]) -> Any:
        """An answer for each step in the form of X, 0 beyond a sequence's end."""
        single = _is_frame(X)
        X = _cut(X, lengths)
        parts = list(self._parts(X, function))  # which has checked X
        ends = [len(one) for one in X] if _is_list(X) else [np.shape(X)[1]] * len(X)
        found: list[Any] = [None] * len(ends)
        for part, index in parts:
            for row, n in zip(as_given(part.numpy(), X), index.tolist(), strict=True):
                found[n] = np.zeros((ends[n], *row.shape[1:]), row.dtype)
                found[n][: len(row)] = row[: ends[n]]
        if lengths is not None or single:
            return np.concatenate(found)
        return found if _is_list(X) else np.stack(found)


class HMM(SequenceEstimator):
    """`latentia.models.HMM`, learned by Baum-Welch; X as `latentia.sklearn.sequences` tells.

    Args:
        n_components: K, the number of states.
        emissions: "gaussian", or "categorical" for symbols 0, 1, ...
        covariance_type: of Gaussian emissions: "full", "tied", "diag" or "spherical".
        n_symbols: how many symbols there are; None is up to the largest in the data.
        floor: least variance of a state in any direction, as a fraction of the data's own.
        smoothing: pseudo-count of every initial state, transition and symbol.
        tol, max_iter, n_init, random_state, warm_start: see `EMEstimator`.

    Attributes, besides those of `EMEstimator`:
        startprob_: (K,). transmat_: (K, K), row i is the distribution of the state after state i.
        means_: (K, D); covariances_: (K, D, D), or tied (D, D), diag (K, D), spherical (K,).
        emissionprob_: (K, V), of categorical emissions.
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        emissions: str = "gaussian",
        covariance_type: str = "diag",
        n_symbols: int | None = None,
        floor: float = 1e-6,
        smoothing: float = 0.01,
        tol: float = 1e-6,
        max_iter: int = 200,
        n_init: int = 1,
        random_state: Any = None,
        warm_start: bool = False,
    ):
        self.n_components = n_components
        self.emissions = emissions
        self.covariance_type = covariance_type
        self.n_symbols = n_symbols
        self.floor = floor
        self.smoothing = smoothing
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.warm_start = warm_start

    def _sequences(self, table: Array) -> Batch:
        if self.emissions == "gaussian":
            return super()._sequences(table)
        if self.emissions != "categorical":
            raise OptionError(f"emissions={self.emissions!r}: choose gaussian or categorical")
        if table.ndim == 3 and table.shape[2] == 1:
            table = table[:, :, 0]  # hmmlearn's X is a column
        if table.ndim != 2:
            raise DataError(f"X of shape {table.shape}: symbols come one a step, (n_samples, n_steps)")
        return symbols(table)

    def _model(self, batch: Batch) -> EMModel:
        if self.emissions == "categorical":
            size: dict[str, Any] = {"symbols": levels(batch, self.n_symbols)}
        else:
            size = {"features": batch.x.shape[-1], "covariance": cast(Any, covariance(self.covariance_type))}
        return models.HMM(states=self.n_components, floor=self.floor, smoothing=self.smoothing, **size)

    def _attributes(self, model: models.HMM) -> dict[str, Tensor]:
        chain = {"startprob_": model.initial, "transmat_": model.transition}
        emissions = cast(Any, model.emissions)
        if self.emissions == "categorical":
            return chain | {"emissionprob_": emissions.probs}
        covariances = compact(emissions.covariances, self.covariance_type)
        return chain | {"means_": emissions.means, "covariances_": covariances}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = tags.input_tags.positive_only = self.emissions == "categorical"
        return tags


class FactorialHMM(SequenceEstimator):
    """`latentia.models.FactorialHMM`, learned by variational EM; X as `latentia.sklearn.sequences` tells.

    The posterior is a structured mean field: `score_samples` is a lower bound on log p(x). `predict` and
    `predict_proba` have an axis for the chains: (n_samples, n_steps, n_chains), and the same with K behind.

    Args:
        n_chains: M.
        n_components: K, the number of states of each chain.
        covariance_type: "full" or "diag", of x given the states of all chains.
        floor: least variance of x given the states, as a fraction of the data's own.
        smoothing: pseudo-count of every initial state and transition.
        tol, max_iter, n_init, random_state, warm_start: see `EMEstimator`.

    Attributes, besides those of `EMEstimator`:
        startprob_: (M, K). transmat_: (M, K, K).
        mean_: (D,), of all the data. weights_: (M, K, D), what each state adds to it.
        covariance_: (D, D).
    """

    def __init__(
        self,
        n_chains: int = 2,
        n_components: int = 2,
        *,
        covariance_type: str = "full",
        floor: float = 1e-6,
        smoothing: float = 0.01,
        tol: float = 1e-6,
        max_iter: int = 200,
        n_init: int = 1,
        random_state: Any = None,
        warm_start: bool = False,
    ):
        self.n_chains = n_chains
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.floor = floor
        self.smoothing = smoothing
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.warm_start = warm_start

    def _model(self, batch: Batch) -> EMModel:
        kind = cast(Any, covariance(self.covariance_type))
        size = batch.x.shape[-1], self.n_chains, self.n_components
        return models.FactorialHMM(*size, covariance=kind, floor=self.floor, smoothing=self.smoothing)

    def _attributes(self, model: models.FactorialHMM) -> dict[str, Tensor]:
        chains = {"startprob_": model.initial, "transmat_": model.transition, "weights_": model.weights}
        return chains | {"mean_": model.center, "covariance_": model.scale_tril @ model.scale_tril.mT}


def _ending(batch: Batch, lengths: Tensor) -> Batch:
    """The same data of these lengths."""
    if bool((lengths == batch.x.shape[1]).all()):
        return batch
    batch = Batch.of(batch.x, batch.mask, lengths)
    return batch._replace(mask=batch.mask if bool(batch.hidden.any()) else None)


def _is_list(X: Any) -> bool:
    """Whether X is a list of sequences, and not an array or what becomes one."""
    return isinstance(X, (list, tuple)) and all(isinstance(one, np.ndarray) for one in X)


def _is_frame(X: Any) -> bool:
    """Whether X is a data frame, of pandas, polars or anyone: named columns, and a step in each row."""
    return hasattr(X, "columns") and hasattr(X, "shape")


def _cut(X: Any, lengths: Any, y: Any = None) -> Any:
    """X itself, or where there are `lengths` the list of its sequences. hmmlearn's users give them in the place of y.

    Raises:
        DataError: lengths that are not those of X, or a y that is neither a value for each sequence nor lengths.
    """
    lengths = [len(X)] if lengths is None and _is_frame(X) else lengths
    count = X.shape[0] if hasattr(X, "shape") and len(X.shape) else len(X) if hasattr(X, "__len__") else None
    if lengths is None and count is not None and np.ndim(y) and len(y) != count:
        if not _adds_up(y, count):
            raise DataError(
                f"y has {len(y)} values for {count} sequences: it is not used, leave it out; lengths of the sequences "
                f"in an array of {count} steps add up to {count}"
            )
        lengths = y
    if lengths is None:
        return X
    steps = np.empty(()) if _is_list(X) else np.asarray(X)
    if steps.ndim not in (1, 2):
        raise DataError(
            "lengths are for one array of all steps, (n_steps,) or (n_steps, n_features), and not for "
            f"{'a list of sequences' if _is_list(X) else f'X of shape {steps.shape}'}: leave them out"
        )
    if not _adds_up(lengths, len(steps)):
        raise DataError(
            f"lengths must be whole numbers of at least 1 that add up to the {len(steps)} steps of X; they add up to "
            f"{np.sum(lengths)}"
        )
    return np.split(steps, np.cumsum(lengths)[:-1])


def _adds_up(lengths: Any, count: int) -> bool:
    lengths = np.asarray(lengths)
    whole = lengths.ndim == 1 and lengths.dtype.kind in "iu" and bool((lengths >= 1).all())
    return whole and int(lengths.sum()) == count


def _concatenated(sequences: Any) -> Array:
    """The steps of all sequences one after another, (n_steps,) or (n_steps, n_features).

    Raises:
        DataError: no sequences, or steps of different sizes.
    """
    steps = {one.shape[1:] for one in sequences}
    if len(steps) != 1 or not 1 <= min(one.ndim for one in sequences) <= 2:
        raise DataError("sequences must be arrays (n_steps,) or (n_steps, n_features), with the same features in all")
    single = all(one.dtype == np.float32 for one in sequences)
    return np.concatenate([np.asarray(one, np.float32 if single else np.float64) for one in sequences])
