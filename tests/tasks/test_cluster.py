"""Clusters of any model that has some, and classes for them to agree with."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from latentia.data import as_dataset
from latentia.errors import CapabilityError, DataError
from latentia.models.mixtures import gaussian_mixture
from latentia.models.vaes import semi_supervised_vae, vae
from latentia.tasks import cluster, responsibilities
from latentia.tasks.cluster import classes


def test_a_finite_posterior_has_clusters():
    model, batch = gaussian_mixture.tiny(0)
    data = as_dataset(batch)
    found = responsibilities(model, data, batch_size=3)
    assert torch.allclose(found, model.posterior(batch).marginals)
    assert torch.equal(cluster(model, data), found.argmax(-1))


def test_a_model_may_say_its_clusters_itself():
    model, batch = semi_supervised_vae.tiny(0)
    data = as_dataset(batch._replace(known=None))
    found = responsibilities(model, data)
    assert torch.allclose(found, model.clusters(data.batch()))
    assert torch.allclose(found.sum(-1), torch.ones(5, dtype=torch.float64))


def test_what_has_no_clusters_is_told_what_to_write():
    model, batch = vae.tiny(0)
    with pytest.raises(CapabilityError, match=r"write VAE\.clusters\(batch\)"):
        cluster(model, as_dataset(batch))


def test_classes_are_numbered():
    data = as_dataset(vae.tiny(0)[1])
    assert classes(replace(data, labels=np.array(["b", "a", "c", "a", "b"]))).tolist() == [1, 0, 2, 0, 1]
    with pytest.raises(DataError, match="no labels"):
        classes(data)
