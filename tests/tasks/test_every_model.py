"""The uses, on every model's tiny instance: an answer that holds, or a `CapabilityError` that says what is missing."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch

from latentia.data import as_dataset, data_for, load
from latentia.errors import CapabilityError, DataError, LatentiaError
from latentia.inference.annealed import Annealing, annealed_log_marginal
from latentia.inference.missing import mean_field
from latentia.inference.refinement import refinable, refine
from latentia.measure.marginal import only_bounded
from latentia.model import TractableModel
from latentia.tasks import (
    anomaly_scores,
    auroc,
    cluster,
    coherence,
    complete,
    conditional_log_likelihood,
    decode_path,
    document_completion,
    encode,
    forecast,
    gaps,
    interpolate,
    responsibilities,
    top_words,
    traverse,
)
from latentia.tasks.agreement import adjusted_rand_index, many_to_one, one_to_one, v_measure
from latentia.testing import all_models


@pytest.fixture(params=all_models())
def tiny(request):
    model, batch = all_models()[request.param](0)
    return model, batch._replace(weight=None)


def refuses_weights(model, batch):
    """Whether only a bound of the model is known."""
    return only_bounded(model, as_dataset(batch._replace(known=None)))


def test_oddness(tiny):
    model, batch = tiny
    if refuses_weights(model, batch):
        with pytest.raises(CapabilityError, match="only a bound on it"):
            anomaly_scores(model, batch, importance_samples=30)
        return
    found = anomaly_scores(model, batch, importance_samples=30)
    assert found.shape == (batch.size,)
    assert torch.isfinite(found).all()


def test_what_is_hidden(tiny):
    """By the chain rule: what is hidden in two parts has the probability of both."""
    model, batch = tiny
    batch = batch._replace(known=None)
    observed = batch.observed
    first = torch.zeros_like(observed)
    first.flatten(1)[:, 0] = True
    rest = batch._replace(mask=observed & ~first, x=torch.where(first, torch.zeros_like(batch.x), batch.x))
    second = torch.zeros_like(observed)
    second.flatten(1)[:, 1] = True
    options = {"importance_samples": 4000, "steps": 0}
    if refuses_weights(model, batch):
        with pytest.raises(CapabilityError, match="only a bound on it"):
            conditional_log_likelihood(model, batch, first, **options)
        return
    both = conditional_log_likelihood(model, batch, first | second, **options)
    parts = conditional_log_likelihood(model, batch, first, **options)
    there = (observed & second & ~first).any()
    others = conditional_log_likelihood(model, rest, second, **options).value if there else 0.0
    assert torch.allclose(both.value, parts.value + others, atol=0.1)
    try:
        done = complete(model, rest, draws=2, sweeps=4)
    except DataError:
        pytest.skip("an autoregressive decoder fills in only what comes last")
    except CapabilityError:
        assert type(model).__name__ in WITHOUT_COMPLETION
        return
    assert torch.equal(done.draws[0][rest.observed], rest.x[rest.observed])
    assert done.expected.shape == done.draws.shape


def test_refinement_and_gaps(tiny):
    model, batch = tiny
    batch = batch._replace(known=None)
    if not isinstance(model, TractableModel) and not refinable(model, batch):
        with pytest.raises(CapabilityError, match=r"cannot be (reparameterised|refined)"):
            refine(model, batch)
        return
    q = refine(model, batch, steps=3)
    assert q.batch_shape[-1:] == (batch.size,)
    if refuses_weights(model, batch):
        with pytest.raises(CapabilityError, match="only a bound on it"):
            gaps(model, batch, steps=3, importance_samples=5)
        return
    found = gaps(model, batch, steps=60, importance_samples=2000)
    assert (found.amortization > -0.1).all()  # per-datum inference finds nothing worse
    assert (found.approximation > -0.1).all()  # and stays below log p(x)


WITHOUT_COMPLETION = {"PCFG", "NeuralPCFG", "CompoundPCFG", "URNNG", "LatentAttention", "VariationalAttention"}
"""A word that a grammar derives, or that is written after others, is not given those behind it."""
CLUSTERS = {
    "clustering_vae", "gaussian_mixture", "kmeans", "language_model", "masked_diffusion",
    "masked_diffusion:conditional",
    "mixture", "mixture:counts",
    "mixture_of_bernoullis",
    "mixture_of_categoricals", "mixture_of_language_models", "mixture_of_language_models:inferred",
    "mixture_of_language_models:shared", "semi_supervised_text_vae", "semi_supervised_vae",
}  # fmt: skip
# the posteriors of the tiny ConvLadder and MissingDataVAE hardly move, and that is said
ACTIVE = {
    "continuous_naive_bayes", "missing_data_vae:columns", "nvdm", "vae:columns",
    "clustering_vae", "discrete_vae:layers", "discrete_vae:values", "ladder_vae",
    "latent_diffusion", "latent_diffusion:conditional",
    "pixel_vae", "probabilistic_pca", "rate_distortion", "rate_distortion:values", "semi_supervised_vae",
    "text_vae:transformer", "transform_coder", "vae", "vae:conditional", "vamp_vae",
}  # fmt: skip


@pytest.mark.parametrize("name", all_models())
def test_clusters_and_traversals(name):
    model, batch = all_models()[name](0)
    data = as_dataset(batch._replace(weight=None, known=None))
    with nullcontext() if name in CLUSTERS else pytest.raises(CapabilityError):
        assert torch.allclose(responsibilities(model, data).sum(-1), torch.ones(len(data), dtype=torch.float64))
    with nullcontext() if name in ACTIVE else pytest.raises(CapabilityError):
        assert torch.isfinite(traverse(model, data, steps=3).x).all()


def same(one, other):
    """Whether two answers, whatever they are made of, hold the same numbers."""
    if isinstance(one, dict):
        return all(same(one[name], other[name]) for name in one)
    if isinstance(one, tuple):
        return all(same(*parts) for parts in zip(one, other, strict=True))
    return not isinstance(one, torch.Tensor) or torch.allclose(one.double(), other.double(), atol=1e-9, equal_nan=True)


TAKES_DATA = {
    "encode": encode,
    "decode_path": decode_path,
    "responsibilities": responsibilities,
    "cluster": cluster,
    "interpolate": interpolate,
    "document_completion": document_completion,
    "complete": partial(complete, draws=2, sweeps=2),
    "forecast": partial(forecast, draws=2),
    "traverse": partial(traverse, steps=2),
    "anomaly_scores": partial(anomaly_scores, importance_samples=3),
    "gaps": partial(gaps, steps=1, importance_samples=3),
    "conditional_log_likelihood": lambda model, data: conditional_log_likelihood(
        model, data, [True], importance_samples=3, steps=0
    ),
    "refine": lambda model, data: refine(model, data, steps=1).mean,
    "mean_field": lambda model, data: mean_field(model, data, steps=1, draws=2).probability,
}


def annealed(model, data):
    return annealed_log_marginal(model, data, Annealing(steps=2, chains=2, leapfrogs=1))


def answer(verb, model, data):
    """What the verb says, or the words with which it refuses: any other error is a fault."""
    torch.manual_seed(0)
    try:
        return (annealed if verb == "annealed" else TAKES_DATA[verb])(model, data)
    except LatentiaError as refused:
        return str(refused)


@pytest.mark.parametrize(
    ("name", "verb"),
    [(name, verb) for name in all_models() for verb in TAKES_DATA]
    + [("vae", "annealed"), ("probabilistic_pca", "annealed"), ("hmm", "annealed")],  # a gradient for each step
)
def test_data_in_any_form(name, verb):
    """A batch, a data set, an array, a tensor and lists are one thing, or are refused in words."""
    model, batch = all_models()[name](0)
    batch = batch.select(slice(0, 2))._replace(weight=None, known=None)
    x = batch.x.double().masked_fill(~batch.observed, torch.nan)
    found = answer(verb, model, batch)
    assert same(answer(verb, model, as_dataset(batch)), found)
    # NaN is a value that is hidden: where data end is said by where a row does
    rows = [row.numpy() if batch.lengths is None else row[: int(batch.ends[i])].numpy() for i, row in enumerate(x)]
    whole = () if batch.lengths is not None else (x.numpy(), x)
    for form in (*whole, rows, [row.tolist() for row in rows]):
        other = answer(verb, model, form)
        if verb == "anomaly_scores" and not isinstance(other, str):
            # a batch does not say that it is of sequences, whose scores are per step
            data = data_for(model, form)
            steps = data.batch().observed.unsqueeze(-1).flatten(2).any(-1).sum(1)
            other = other * steps if data.schema.kind == "sequence" and batch.lengths is None else other
        assert isinstance(other, str) or isinstance(found, str) or same(other, found), type(form)
    assert "data of type int are not read" in str(answer(verb, model, 3)) or isinstance(found, str)


def test_words_and_names_in_any_form():
    topics, words = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]]), ["a", "b", "c"]
    assert top_words(topics.numpy(), words, 2) == top_words(topics.tolist(), words, 2) == [["a", "b"], ["c", "b"]]
    documents = [[0, 1], [1, 2], [0, 1, 2], [2]]
    found = coherence(topics, load(documents), 2)
    assert coherence(topics.numpy(), documents, 2).npmi == found.npmi
    assert auroc([0.0, 1.0], np.array([2.0, 0.5])) == 0.75
    states = [0, 0, 1, 1, 2]
    for measure in (many_to_one, one_to_one, v_measure, adjusted_rand_index):
        assert measure(states, np.array([1, 1, 0, 0, 2])) == pytest.approx(1)
