"""Topic models: a sample is a document, by how often it has each word."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from torch import Tensor

from latentia.data.limits import judge_repeated
from latentia.errors import DataError, OptionError
from latentia.model import Batch, EMModel
from latentia.models.topics.lda import LDA as Model
from latentia.sklearn.base import Array, EMEstimator


class LDA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, EMEstimator):
    """`latentia.models.LDA`, learned by variational EM: documents to topics.

    X is (n_samples, n_features), dense or sparse: how often each document has each word, as scikit-learn's
    `CountVectorizer` counts them. The posterior is approximate: scores are lower bounds on log p(x), of the words in
    one given order, in nats per document.

    Args:
        n_components: K, the number of topics.
        doc_topic_prior: concentration of the Dirichlet prior on a document's topics, of every topic at the start.
        learn_doc_topic_prior: learn a concentration for each topic.
        smoothing: pseudo-count of every word in every topic.
        tol, max_iter, n_init, random_state, warm_start: see `EMEstimator`.

    Attributes, besides those of `EMEstimator`:
        components_: (K, n_features), the words of each topic; rows sum to one.
        doc_topic_prior_: (K,), the concentration.
    """

    components_: Array

    def __init__(
        self,
        n_components: int = 10,
        *,
        doc_topic_prior: float = 0.1,
        learn_doc_topic_prior: bool = True,
        smoothing: float = 0.01,
        tol: float = 1e-3,
        max_iter: int = 200,
        n_init: int = 1,
        random_state: Any = None,
        warm_start: bool = False,
    ):
        self.n_components = n_components
        self.doc_topic_prior = doc_topic_prior
        self.learn_doc_topic_prior = learn_doc_topic_prior
        self.smoothing = smoothing
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.warm_start = warm_start

    def transform(self, X: Any) -> Array:
        """The expected share of each topic in each document, (n_samples, n_components); rows sum to one."""
        return self._each(X, lambda model, batch: model.posterior(batch).mean)

    def score_samples(self, X: Any) -> Array:
        """A lower bound on log p(x) of each document, (n_samples,), in nats."""
        return self._each(X, _bounds)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The mean over the documents of the lower bound on log p(x), in nats."""
        if sample_weight is not None:
            return super().score(X, y, sample_weight)
        return self._total(X) / self._counts(X, False).shape[0]

    def perplexity(self, X: Any) -> float:
        """exp(-bound / words): an upper bound on the perplexity of a word."""
        counts = self._counts(X, False)
        return math.exp(-self._total(X) / max(counts.sum(), 1))

    def _total(self, X: Any) -> float:
        """The lower bound on log p(x) of all documents together, in nats."""
        return sum(float(bound.sum()) for bound, _ in self._parts(X, _bound))

    def sample(self, n_samples: int = 1, n_words: int = 50) -> tuple[Array, Array]:
        """Draws from p(x, theta): documents of `n_words` words, as counts, and their topics' shares, (n_samples, K)."""
        if n_words < 1:
            raise OptionError(f"n_words={n_words}: a document has at least 1")
        x, theta = self._draw(n_samples, n_words)
        count = self.components_.shape[1]
        return np.stack([np.bincount(row, minlength=count) for row in x.numpy()]), theta.numpy()

    def _batch(self, X: Any, reset: bool) -> Batch:
        counts = self._counts(X, reset)
        if reset:
            self._width = counts.shape[1]
        lengths = np.asarray(counts.sum(1)).ravel()
        most = int(lengths.max(initial=0))
        what = f"a document of {most:,} words, to which all others are padded: leave it out, or divide its counts"
        judge_repeated(f"row {int(lengths.argmax()) + 1}", len(lengths) * most, max(counts.nnz, len(lengths)), what)
        words = np.repeat(counts.indices, counts.data)
        mask = np.arange(max(int(lengths.max()), 1)) < lengths[:, None]
        x = np.zeros(mask.shape, dtype=np.int64)
        x[mask] = words
        return Batch(torch.from_numpy(x), lengths=torch.from_numpy(lengths))

    def _counts(self, X: Any, reset: bool) -> Any:
        """Raises `DataError` for what are no counts."""
        counts = scipy.sparse.csr_array(self._table(X, reset, accept_sparse="csr", ensure_all_finite=True))
        if (counts.data < 0).any():
            raise DataError("Negative values in data: a document has each word 0 or more times")
        wrong = counts.data[counts.data != np.round(counts.data)]
        if len(wrong):
            raise DataError(f"{wrong[0]:g} in the data: a document has each word a whole number of times")
        if (counts.data > 2**40).any():
            raise DataError(f"{counts.data.max():g} in the data: no document has a word so often")
        return counts.astype(np.int64)

    def _model(self, batch: Batch) -> EMModel:
        options = {"learn_concentration": self.learn_doc_topic_prior, "smoothing": self.smoothing}
        return Model(self._width, self.n_components, self.doc_topic_prior, **options)

    def _attributes(self, model: Model) -> dict[str, Tensor]:
        return {"components_": model.topics, "doc_topic_prior_": model.concentration}

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = False
        assert tags.transformer_tags is not None  # TransformerMixin has put them there
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.sparse = tags.input_tags.positive_only = True
        # of all tags the one that tells scikit-learn's checks to take whole numbers
        tags.input_tags.categorical = True
        return tags


def _bound(model: Model, batch: Batch) -> Tensor:
    """Of all the documents together, (1,)."""
    return model.expect(batch)[1].unsqueeze(0)


def _bounds(model: Model, batch: Batch) -> Tensor:
    """Of each document, (B,)."""
    return torch.stack([model.expect(batch.select(slice(i, i + 1)))[1] for i in range(batch.size)])
