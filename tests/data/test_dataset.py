"""`Dataset`: batches, subsets, splits, and binarization drawn at each batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentia.data import Dataset, Schema, as_dataset, load
from latentia.errors import OptionError
from latentia.model import Batch

GREY = np.tile(np.array([0, 64, 128, 255], dtype=np.uint8), (500, 1)).reshape(500, 2, 2)
RAGGED = [[1, 2, 3], [1], [2, 2], [3, 0, 1, 2], [0]]


def test_a_batch_of_everything_and_of_a_part():
    values = np.arange(12.0).reshape(6, 2) / 2
    data = load(values, weight=np.arange(6.0), labels=list("abcdef"))
    assert len(data) == 6
    batch = data.batch()
    assert torch.equal(batch.x, torch.from_numpy(values))
    assert batch.mask is None
    assert batch.weight.tolist() == [0, 1, 2, 3, 4, 5]
    for index in (torch.tensor([4, 0]), [4, 0], np.array([4, 0])):
        part = data.batch(index)
        assert part.x.tolist() == values[[4, 0]].tolist()
        assert part.weight.tolist() == [4, 0]
    assert data.batch(slice(1, 3)).x.tolist() == values[1:3].tolist()
    assert data.batch(torch.arange(6) > 3).x.tolist() == values[4:].tolist()
    assert data.subset([4, 0]).labels.tolist() == ["e", "a"]
    assert data.subset(slice(1, 3)).rows.tolist() == [2, 3]
    assert len(data.subset([])) == 0


def test_floating_parts_take_the_dtype_asked_for():
    data = load(np.array([[1.5, 2.0]]), weight=[2.0])
    assert data.batch().x.dtype == data.batch().weight.dtype == torch.float64
    assert data.batch(dtype=torch.float32).x.dtype == torch.float32
    assert data.batch(dtype=torch.float32).weight.dtype == torch.float32
    symbols = load(RAGGED, weight=np.ones(5))
    assert symbols.batch(dtype=torch.float64).x.dtype == torch.int64
    assert symbols.batch(dtype=torch.float64).weight.dtype == torch.float64
    assert symbols.batch().weight.dtype == torch.get_default_dtype()


def test_batches_of_sequences_are_cut_to_their_longest():
    data = load(RAGGED)
    assert data.x.shape == (5, 4)
    assert data.lengths.tolist() == [3, 1, 2, 4, 1]
    batch = data.batch([0, 2])
    assert batch.x.tolist() == [[1, 2, 3], [2, 2, 0]]
    assert batch.mask is None
    assert batch.lengths.tolist() == [3, 2]
    assert batch.observed.tolist() == [[True, True, True], [True, True, False]]
    alike = data.batch([1, 4])
    assert alike.x.tolist() == [[1], [0]]
    assert alike.mask is None


def test_a_sequence_of_which_nothing_is_seen_keeps_its_steps():
    data = load([[1.5, 2.0], [np.nan, np.nan]])
    assert data.lengths.tolist() == [2, 2]
    batch = data.batch([1])
    assert batch.x.shape == batch.mask.shape == (1, 2, 1)
    assert not batch.mask.any()
    assert batch.hidden.all()


def test_tables_are_never_cut_and_have_no_lengths():
    data = load(np.array([[1.5, np.nan], [2.0, 3.0]]))
    assert data.batch([0]).x.shape == (1, 2)
    assert data.batch([0]).mask.tolist() == [[True, False]]
    assert data.batch([1]).mask is None
    assert data.lengths is None


def test_lengths_without_padding():
    data = load([[1, 2], [0, 1]])
    assert data.mask is None
    assert data.lengths.tolist() == [2, 2]
    assert load([[[1.5, np.nan], [np.nan, 2.0]], [[3.0, 4.0]]]).lengths.tolist() == [2, 1]


def test_a_hidden_last_step_is_no_shorter_sequence():
    data = load([[1.0, 2.0, np.nan], [1.0, 2.0]])
    assert data.lengths.tolist() == [3, 2]
    assert data.batch().hidden[..., 0].tolist() == [[False, False, True], [False, False, False]]
    assert [len(part) for part in data.decoded()] == [3, 2]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=20), st.integers(1, 7), st.booleans())
def test_batches_hold_every_datum_once(lengths, size, sort):
    data = load([[i] * length for i, length in enumerate(lengths)])
    batches = list(data.batches(size, sort=sort))
    seen = torch.cat([batch.x[:, 0] for batch in batches]).tolist()
    assert sorted(seen) == list(range(len(lengths)))
    assert all(batch.size <= size for batch in batches)
    assert sum(batch.observed.sum().item() for batch in batches) == sum(lengths)
    order = [lengths[i] for i in seen]
    assert order == sorted(order) if sort else seen == list(range(len(lengths)))


def test_sorting_saves_padding():
    lengths = [1, 9] * 8
    data = load([[1] * length for length in lengths])
    cells = {sort: sum(batch.x.numel() for batch in data.batches(4, sort=sort)) for sort in (False, True)}
    assert cells[True] == sum(lengths)
    assert cells[False] == 16 * 9


def test_a_batch_has_at_least_one_datum(refused):
    with refused("size=0", error=OptionError):
        load(RAGGED).batches(0)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.floats(0, 0.99), st.integers(0, 9))
def test_a_split_is_a_partition(n, fraction, seed):
    data = load(np.arange(n) + 0.5)
    rest, part = data.split(fraction, seed)
    assert sorted(rest.rows.tolist() + part.rows.tolist()) == list(range(1, n + 1))
    assert len(part) == (min(max(round(fraction * n), 1), n - 1) if fraction else 0)
    again = data.split(fraction, seed)
    assert torch.equal(again[1].rows, part.rows)


def test_splits_are_random_and_fraction_0_gives_nothing(refused):
    data = load(np.arange(100) + 0.5)
    _, first = data.split(0.3, seed=0)
    _, second = data.split(0.3, seed=1)
    assert not torch.equal(first.rows, second.rows)
    assert first.rows.tolist() != list(range(1, 31))
    rest, part = data.split(0.0)
    assert (len(rest), len(part)) == (100, 0)
    assert list(part.batches(3)) == []
    ragged = load(RAGGED).split(0.0)[1]
    assert ragged.batch().x.shape[0] == 0
    for fraction in (-0.1, 1.0, float("nan")):
        with refused("fraction", error=OptionError):
            data.split(fraction)


def test_splitting_does_not_touch_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    data = load(GREY, binarize="dynamic")
    data.split(0.5)
    data.frozen(1)
    assert torch.equal(torch.rand(3), expected)


def test_dynamic_binarization_draws_anew_with_the_mean_of_the_levels():
    data = load(GREY, binarize="dynamic")
    expected = torch.tensor([0, 64, 128, 255]) / 255
    torch.testing.assert_close(data.x[0].flatten(), expected)
    torch.manual_seed(0)
    first, second = data.batch().x, data.batch().x
    assert not torch.equal(first, second)
    assert set(first.unique().tolist()) == {0, 1}
    torch.testing.assert_close(
        torch.stack([data.batch().x for _ in range(20)]).mean((0, 1)).flatten(), expected, atol=0.02, rtol=0
    )
    torch.manual_seed(0)
    assert torch.equal(data.batch().x, first)
    assert data.batch(dtype=torch.float64).x.dtype == torch.float64


def test_frozen_draws_once():
    data = load(GREY, binarize="dynamic")
    frozen = data.frozen(7)
    assert torch.equal(frozen.batch().x, frozen.batch().x)
    assert torch.equal(frozen.batch().x, data.frozen(7).batch().x)
    assert not torch.equal(frozen.batch().x, data.frozen(8).batch().x)
    assert frozen.frozen(8) is frozen
    assert frozen.schema == data.schema
    assert abs(frozen.x[:, 1, 0].mean() - 128 / 255) < 0.1
    state = torch.get_rng_state()
    frozen.batch()
    assert torch.equal(torch.get_rng_state(), state)
    table = load(np.array([[1.5]]))
    assert table.frozen(0) is table


def test_splitting_then_encoding_is_encoding_then_splitting():
    from latentia.data import read

    raw = read(GREY)
    schema = Schema.of(raw, binarize="fixed")
    whole = schema.encode(raw)
    _, part = whole.split(0.2, seed=3)
    assert torch.equal(schema.encode(raw.take(part.rows.numpy() - 1)).x, part.x)


def test_as_dataset():
    data = load(RAGGED)
    assert as_dataset(data) is data
    assert torch.equal(as_dataset(RAGGED).x, data.x)
    batch = Batch(torch.randn(4, 3), known=torch.eye(4), weight=torch.ones(4), context=Batch(torch.zeros(4, 2)))
    made = as_dataset(batch)
    assert isinstance(made, Dataset)
    mine, theirs = made.batch([1, 3]), batch.select(torch.tensor([1, 3]))
    for name in ("x", "known", "weight"):
        assert torch.equal(getattr(mine, name), getattr(theirs, name))
    assert torch.equal(mine.context.x, theirs.context.x)
    assert made.log_det().tolist() == [0] * 4


@pytest.mark.parametrize(
    ("x", "kind", "values"),
    [
        (torch.randn(3, 2), "array", "real"),
        (torch.randn(3), "array", "real"),
        (torch.ones(3, 2), "array", "binary"),
        (torch.tensor([[0, 4], [1, 2]]), "array", "levels"),
        (torch.randn(3, 2, 2), "array", "real"),
        (torch.tensor([[0.0, float("nan")], [2.0, 1.0]]), "array", "real"),
    ],
)
def test_a_batch_without_a_schema(x, kind, values):
    data = as_dataset(Batch(x))
    assert (data.schema.kind, data.schema.values) == (kind, values)
    assert torch.equal(data.batch().x, torch.nan_to_num(x) if x.is_floating_point() else x)
    assert (data.mask is None) == (not x.isnan().any())
    assert data.log_det().shape == (len(x),)
    assert len(data.split(0.5)[0]) + len(data.split(0.5)[1]) == len(x)


def test_a_batch_with_ends_is_sequences():
    data = as_dataset(Batch(torch.tensor([[0, 4, 0], [1, 2, 3]]), lengths=torch.tensor([2, 3])))
    assert (data.schema.kind, data.schema.values) == ("sequence", "symbols")
    assert data.schema.unit == "nats per sequence, end of sequence not counted"
    assert data.batch([0]).x.tolist() == [[0, 4]]


def test_moving_to_a_device_moves_every_tensor():
    data = load(RAGGED, weight=np.ones(5)).to("meta")
    parts = (data.x, data.lengths, data.weight, data.rows)
    assert {part.device.type for part in parts} == {"meta"}
