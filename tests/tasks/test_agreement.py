"""Agreement of clusters with classes, against scikit-learn and by hand."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.metrics import v_measure_score

from latentia.errors import DataError
from latentia.tasks.agreement import adjusted_rand_index, contingency, many_to_one, one_to_one, v_measure

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40)


@given(PAIRS)
def test_v_measure_is_that_of_scikit_learn(pairs):
    found, named = torch.tensor(pairs).unbind(1)
    assert v_measure(found, named) == pytest.approx(v_measure_score(named.numpy(), found.numpy()), abs=1e-9)


@given(PAIRS)
def test_many_to_one_names_each_cluster_by_its_commonest_class(pairs):
    found, named = torch.tensor(pairs).unbind(1)
    right = sum(int(torch.bincount(named[found == cluster]).max()) for cluster in found.unique())
    assert many_to_one(found, named) == pytest.approx(right / len(pairs))


def test_known_values():
    found, named = torch.tensor([[0, 0, 1], [1, 2, 2]]), torch.tensor([[0, 0, 0], [1, 1, 1]])
    assert contingency(found, named).tolist() == [[2, 0], [1, 1], [0, 2]]
    assert many_to_one(found, named) == pytest.approx(5 / 6)
    assert v_measure(named, named) == 1.0
    assert v_measure(torch.zeros_like(named), named) == 0.0
    assert many_to_one(torch.zeros_like(named), named) == 0.5
    # a cluster for each datum is homogeneous, but not complete
    each = torch.arange(6).view(2, 3)
    assert many_to_one(each, named) == 1.0
    assert 0 < v_measure(each, named) < 0.6


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match="alike"):
        many_to_one(torch.tensor([0]), torch.tensor([0, 1]))
    with pytest.raises(DataError, match="not empty"):
        v_measure(torch.tensor([]), torch.tensor([]))
    with pytest.raises(DataError, match="from 0"):
        many_to_one(torch.tensor([0, -1]), torch.tensor([0, 1]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40))
def test_clustering_measures_are_scikit_learns(pairs):
    found, named = torch.tensor(pairs).unbind(1)
    assert adjusted_rand_index(found, named) == pytest.approx(
        metrics.adjusted_rand_score(named.numpy(), found.numpy()), abs=1e-12
    )
    information = metrics.normalized_mutual_info_score(named.numpy(), found.numpy())
    assert v_measure(found, named) == pytest.approx(information, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_accuracy_is_the_best_of_all_matchings(pairs):
    found, named = torch.tensor(pairs).unbind(1)
    best = max(
        sum(order[f] == n for f, n in zip(found.tolist(), named.tolist(), strict=True))
        for order in itertools.permutations(range(4))
    )
    assert one_to_one(found, named) == pytest.approx(best / len(pairs))


def test_more_clusters_than_classes_leave_some_wrong():
    assert one_to_one(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 1, 1])) == 0.5
