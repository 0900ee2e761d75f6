"""What topics are about, whether their words belong together, and how well they foretell the rest of a document."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentia.data import as_dataset, data_for
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.model import LatentVariableModel
from latentia.tasks.common import directed, using


def top_words(topics: Any, vocabulary: tuple[str, ...] | list[str], count: int = 10) -> list[list[str]]:
    """The commonest words of each topic, for topics (K, V)."""
    best: list[list[int]] = torch.as_tensor(topics).detach().argsort(descending=True, stable=True)[:, :count].tolist()
    return [[vocabulary[v] for v in row] for row in best]


@dataclass
class Coherence:
    """How often the top words of a topic stand in the same documents.

    Attributes:
        npmi: of each topic, the mean over pairs of its `words` top words, from -1, never together, to 1, always.
        mean: over topics.
        reference: the corpus in whose documents words were counted, and how many documents it has, a document of weight
            w counted w times: figures from another corpus, or from windows instead of documents, cannot be compared.
    """

    npmi: list[float]
    mean: float
    words: int
    reference: str
    documents: float


def coherence(topics: Any, reference: Any, words: int = 10) -> Coherence:
    """Normalised pointwise mutual information of the top words of topics (K, V) (Lau, Newman and Baldwin 2014):

        npmi(v, w) = log(p(v, w) / (p(v) p(w))) / -log p(v, w)

    with p the share of the reference's documents, by their weights, in which a word, or both of two, occur at all.

    Raises:
        DataError: the reference is no sequence of symbols, or is empty, or all its weights are 0.
        OptionError: fewer than two words.
    """
    if words < 2:
        raise OptionError(f"words={words}: a pair has two")
    topics, reference = torch.as_tensor(topics), as_dataset(reference)
    weight = reference.batch().weights.double().cpu()
    if reference.schema.values != "symbols" or not bool(weight.sum() > 0):
        raise DataError(f"{reference.schema.source} holds no documents of words in which pairs could be counted")
    best = topics.detach().cpu().argsort(descending=True, stable=True)[:, :words]
    used, place = best.unique(return_inverse=True)
    where = torch.full((topics.shape[1],), -1)
    where[used] = torch.arange(len(used))
    present = torch.zeros(len(reference), len(used), dtype=torch.float64)
    for row, batch in enumerate(reference.batches(1)):
        found = where[batch.x[batch.observed].long()]
        present[row, found[found >= 0]] = 1
    together = (weight / weight.sum() * present.T) @ present
    npmi = _npmi(together)
    pairs = torch.triu_indices(best.shape[1], best.shape[1], 1)
    values = npmi[place[:, pairs[0]], place[:, pairs[1]]].mean(1).tolist()
    mean = sum(values) / len(values)
    return Coherence(values, mean, words, reference.schema.source, _count(float(weight.sum())))


def _npmi(together: Tensor) -> Tensor:
    """Of all pairs, from p(v, w), whose diagonal is p(v). Words that are never together have -1."""
    single = together.diagonal()
    log_both = together.clamp(min=1e-300).log()
    gain = log_both - (single.unsqueeze(0) * single.unsqueeze(1)).clamp(min=1e-300).log()
    # both in every document: as much together as can be, and 0 / 0
    npmi = torch.where(together < 1, gain / -log_both.clamp(max=-1e-300), 1.0)
    return torch.where(together > 0, npmi, -1.0)


@dataclass
class HeldOutHalves:
    """The second halves of documents, given the first.

    Attributes:
        log_prob: mean log-probability of a word, nats; perplexity: exp of minus that.
        words: how many were predicted, those of a document of weight w counted w times.
    """

    log_prob: float
    perplexity: float
    words: float


def document_completion(
    model: LatentVariableModel, data: Any, *, batch_size: int = 256, seed: int = 0
) -> HeldOutHalves:
    """Document completion (Wallach, Murray, Salakhutdinov and Mimno 2009, section 5.1): the words of each document are
    parted at random into two halves; z is found from the one, and the words of the other are predicted by its mean,

        sum_t log p(x_t | z = E_q[z | first half]),

    which for LDA, where p(x_t | z) is linear in z, is the predictive probability of each word under q.

    Raises:
        CapabilityError: the model has no likelihood, or several latents.
        DataError: no document has two words, or the data are no documents.
    """
    likely = directed(model, "predict the rest of a document")
    data, total, words = data_for(model, data, seed), 0.0, 0.0
    if data.x.ndim != 2:
        raise DataError(f"document completion is of documents, x (N, T), and not of x of shape {tuple(data.x.shape)}")
    generator = torch.Generator().manual_seed(seed)
    with using(model, seed):
        for batch in data.batches(batch_size, dtype=model.anchor.dtype):
            seen = batch.observed
            # a random order of the observed words first, and the rest behind
            rank = torch.where(seen, torch.rand(seen.shape, generator=generator), 2.0).argsort(1).argsort(1)
            first = seen & (rank < (seen.sum(1, keepdim=True) + 1) // 2)
            given, rest = (batch._replace(mask=part).to(model.anchor) for part in (first, seen & ~first))
            mean = model.posterior(given).mean
            if isinstance(mean, dict):
                raise CapabilityError(f"{type(model).__name__} has several latents: what they foretell has no one mean")
            weight = batch.weights.double()
            value = likely.log_likelihood(rest, mean.unsqueeze(0))[0].double().cpu()
            # an absent document adds nothing, even when it is impossible
            total += float(torch.where(weight > 0, weight * value, 0.0).sum())
            words += float(weight @ (seen & ~first).sum(1).double())
    if not words:
        raise DataError("document completion needs documents of two words or more")
    return HeldOutHalves(total / words, math.exp(-total / words), _count(words))


def _count(value: float) -> float:
    """Whole where it is: without weights, or with those of repeated documents, one counts in whole numbers."""
    return int(value) if value == int(value) else value
