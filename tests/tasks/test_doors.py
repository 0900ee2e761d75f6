"""Symbols that the model does not know are refused at the door of every public function, and reach no kernel."""

import numpy as np
import pytest
import torch

from latentia import evaluate as evaluation
from latentia import tasks
from latentia.data import as_dataset
from latentia.distributions import Chain
from latentia.errors import DataError
from latentia.kernels import chain
from latentia.kernels import lda as lda_kernel
from latentia.model import Batch
from latentia.models.chains import hmm, neural_hmm
from latentia.models.mixtures import mixture_of_categoricals
from latentia.models.topics import lda
from latentia.models.vaes import vae

SYMBOLIC = {"HMM": hmm, "LDA": lda, "NeuralHMM": neural_hmm, "Mixture": mixture_of_categoricals}
BAD = {"below": -1, "above": 3, "far": 10**6}


def model_and_batch(name, bad, masked=False):
    model, batch = SYMBOLIC[name].tiny(0)
    x = batch.x.clone()
    x[1, 0] = bad
    return model, Batch(x, batch.mask, batch.lengths) if masked else Batch(x)


def z_of(model, batch):
    return model.posterior(batch._replace(x=torch.zeros_like(batch.x))).sample((1,))


# of Batch and model; each is called with symbols from Python, not from a file
METHODS = {
    "posterior": lambda model, batch: model.posterior(batch),
    "log_likelihood": lambda model, batch: model.log_likelihood(batch, z_of(model, batch)),
    "log_joint": lambda model, batch: model.log_joint(batch, z_of(model, batch)),
}
EM = {
    "expect": lambda model, batch: model.expect(batch),
    "start": lambda model, batch: model.start(batch, torch.Generator()),
}
LDA = {
    "left_to_right": lambda model, batch: model.left_to_right(batch),
    "sampler": lambda model, batch: model.sampler(batch, 0),
}
VERBS = {
    "encode": lambda model, batch: tasks.encode(model, as_dataset(batch)),
    "evaluate": lambda model, batch: evaluation.evaluate(model, as_dataset(batch), importance_samples=2),
    "log_marginal": lambda model, batch: evaluation.log_marginal(model, as_dataset(batch), importance_samples=2),
    "complete": lambda model, batch: tasks.complete(model, batch, draws=1, sweeps=2),
    "anomaly_scores": lambda model, batch: tasks.anomaly_scores(model, as_dataset(batch), importance_samples=2),
}
CALLS = [
    *((name, verb) for name in SYMBOLIC for verb in METHODS),
    *((name, verb) for name in ("HMM", "LDA", "Mixture") for verb in EM),
    *(("LDA", verb) for verb in LDA),
    *((name, verb) for name in SYMBOLIC for verb in VERBS if not (name == "LDA" and verb == "complete")),
]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize(("name", "verb"), CALLS)
def test_symbols_out_of_range_are_refused(name, verb, bad):
    call = {**METHODS, **EM, **LDA, **VERBS}[verb]
    for masked in (False, True):
        model, batch = model_and_batch(name, bad, masked)
        with pytest.raises(DataError, match=rf"symbol {bad} is outside 0\.\.2"):
            call(model, batch)


def test_what_lies_under_a_mask_is_not_looked_at():
    for name, module in SYMBOLIC.items():
        model, batch = module.tiny(0)
        other = batch._replace(x=torch.where(batch.observed, batch.x, 10**9))
        expected, found = (
            model.log_likelihood(one, model.posterior(batch).mean.unsqueeze(0)) for one in (batch, other)
        )
        assert torch.equal(expected, found), name


def test_a_symbol_of_one_column_is_not_taken_for_another_columns():
    model = mixture_of_categoricals.MixtureOfCategoricals(symbols=3, features=2, components=2)
    for bad in ([[3, 0]], [[0, -1]]):
        with pytest.raises(DataError, match=r"outside 0\.\.2"):
            model.posterior(Batch(torch.tensor(bad)))


def test_hard_em_is_checked_too():
    model, batch = model_and_batch("HMM", 3)
    with pytest.raises(DataError, match="symbol 3"):
        model.expect(batch, hard=True)


@pytest.mark.parametrize("verb", ["encode", "complete", "log_marginal", "interpolate"])
def test_a_vae_of_bits_does_not_encode_other_numbers(verb):
    model = vae.VAE(event_shape=(4,), latent=1, hidden=(3,))
    batch = Batch(torch.tensor([[0.0, 1.0, 7.0, 0.0], [0.0, 1.0, 0.0, 0.0]]))
    call = {**VERBS, "interpolate": lambda model, batch: tasks.interpolate(model, batch)}[verb]
    with pytest.raises(DataError, match="0 or 1"):
        call(model, batch)


@pytest.mark.parametrize("lengths", [[5], [-1]])
def test_a_chain_is_no_longer_than_its_potentials(lengths):
    potentials = {"initial": torch.zeros(2), "transition": torch.zeros(1, 2, 2), "node": torch.zeros(1, 3, 2)}
    with pytest.raises(DataError, match="chains of 3 steps"):
        _ = Chain(potentials, torch.tensor(lengths)).log_partition


def test_kernels_that_look_rows_up_unchecked_have_a_door():
    for row in (-1, 2):
        given = (torch.zeros(2), torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([[0, row]]))
        for count in (chain.expected_counts, chain.best_counts):
            with pytest.raises(DataError, match=r"outside 0\.\.1"):
                count(*given, torch.tensor([2]), torch.ones(1), False)
        with pytest.raises(DataError, match=r"outside 0\.\.1"):
            lda_kernel.posterior(torch.tensor([[0, row]]), None, torch.ones(3, 2), torch.ones(3), torch.ones(1))


def test_the_check_is_one_pass_over_whole_numbers(monkeypatch):
    from latentia.distributions.emissions import rows

    x = torch.zeros(4, 5, dtype=torch.long)
    passes = []
    real = torch.Tensor.aminmax
    monkeypatch.setattr(torch.Tensor, "aminmax", lambda self, **options: passes.append(self.shape) or real(self))
    assert rows.known_symbols(x, None, 1) is x
    assert passes == [x.shape]
    assert np.array_equal(rows.known_symbols(x, x == 0, 1), x)
