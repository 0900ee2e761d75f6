"""`Schema`: what the training data say, the way there and back, and log-determinants."""

import json
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from latentia.data import Raw, Schema, load, read
from latentia.errors import DataError, OptionError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 3, 4)).astype(np.uint8)
TABLE = RNG.normal(3.0, 2.0, (30, 2))
FLOATS = st.floats(-1e6, 1e6) | st.just(float("nan"))


def table(values, names=(), **options):
    return Raw("table", np.asarray(values, dtype=float), names, source="t.csv", **options)


# ---------------------------------------------------------------- what the data say


@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        (TABLE, {}, {"kind": "table", "values": "real", "event_shape": (2,), "levels": None}),
        (TABLE > 3, {}, {"values": "binary", "levels": 2, "scale": ()}),
        (np.array([[0.0, np.nan], [1.0, 1.0]]), {}, {"values": "binary"}),
        (np.array([[0, 5], [1, 2]]), {"values": "levels"}, {"values": "levels", "levels": 6}),
        (GREY, {}, {"kind": "image", "values": "real", "event_shape": (3, 4), "shift": (0.0,), "scale": (255.0,)}),
        (GREY, {"values": "levels"}, {"values": "levels", "levels": 256}),
        (GREY, {"binarize": "dynamic"}, {"values": "binary", "levels": 256, "binarize": "dynamic"}),
        (GREY.astype(int), {"values": "levels"}, {"levels": 1 + int(GREY.max())}),
        (GREY > 100, {"binarize": "dynamic"}, {"values": "binary", "levels": 2, "binarize": "none"}),
        ("digits", {}, {"scale": (16.0,), "event_shape": (8, 8)}),
        ("digits", {"values": "levels"}, {"levels": 17}),
        ("digits", {"scale": "none"}, {"scale": (1.0,)}),
        ([[0, 3], [1]], {}, {"kind": "sequence", "values": "symbols", "levels": 4, "event_shape": ()}),
        ([[[0.5, 1.0]]], {}, {"kind": "sequence", "values": "real", "event_shape": (2,)}),
        ([[[0, 1], [1, 0]]], {}, {"kind": "sequence", "values": "binary", "event_shape": (2,)}),
    ],
)
def test_what_the_data_say(source, options, expected):
    schema = Schema.of(read(source), **options)
    assert {name: getattr(schema, name) for name in expected} == expected


def test_standard_scaling_uses_the_observed_entries_only():
    values = TABLE.copy()
    values[3, 0] = np.nan
    schema = Schema.of(table(values))
    seen = np.delete(TABLE[:, 0], 3)
    assert schema.shift == pytest.approx((seen.mean(), TABLE[:, 1].mean()))
    assert schema.scale == pytest.approx((seen.std(), TABLE[:, 1].std()))
    x = schema.encode(table(TABLE)).x
    assert x[:, 1].mean().abs() < 1e-12
    assert x[:, 1].std(correction=0) == pytest.approx(1)


def test_standard_scaling_of_ragged_sequences_counts_every_step_once():
    raw = read([[[1.0, 5.0], [2.0, 5.0]], [[6.0, 5.0]]])
    schema = Schema.of(raw)
    assert schema.shift == pytest.approx((3, 5))
    assert schema.scale == pytest.approx((np.std([1, 2, 6]), 1))
    padded = np.array([[[1.0, 5.0], [2.0, 5.0]], [[6.0, 5.0], [np.nan, np.nan]]])
    assert Schema.of(read(padded)) == schema


def test_a_constant_column_keeps_its_scale():
    schema = Schema.of(table(np.full((7, 1), 0.1)))
    assert schema.scale == (1.0,)
    assert schema.encode(table([[0.1]])).x.item() == pytest.approx(0)


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_standard_scaling_of_values_of_any_size(size):
    schema = Schema.of(table(np.array([[0.0], [2.0]]) * size))
    assert schema.shift == pytest.approx((size,))
    assert schema.scale == pytest.approx((size,))


def test_the_vocabulary_is_by_count_then_by_letter():
    raw = read(["b b b a a c", "d d a <unk>"])
    assert Schema.of(raw).vocabulary == ("<unk>", "a", "b", "d")
    assert Schema.of(raw, min_count=1).vocabulary == ("<unk>", "a", "b", "d", "c")
    assert Schema.of(raw, max_vocabulary=3).vocabulary == ("<unk>", "a", "b")
    assert Schema.of(raw).sizes() == {"event_shape": (), "features": None, "symbols": 4}


def test_unknown_words_are_unk():
    schema = Schema.of(read(["a a b b"]))
    data = schema.encode(read(["b z a", "<unk>"]))
    assert data.x.tolist() == [[2, 0, 1], [0, 0, 0]]
    assert data.lengths.tolist() == [3, 1]
    assert data.mask is None
    assert data.decoded() == [["b", "<unk>", "a"], ["<unk>"]]


@pytest.mark.parametrize(
    ("source", "options", "part"),
    [
        (TABLE, {"values": "reel"}, "real"),
        (TABLE, {"scale": "max"}, "standard"),
        (TABLE, {"binarize": "yes"}, "dynamic"),
        (TABLE, {"seed": -1}, "seed"),
        (TABLE, {"values": "symbols"}, "levels"),
        ([[0, 1]], {"values": "levels"}, "symbols"),
        (TABLE > 3, {"scale": "standard"}, "values='real'"),
        (TABLE, {"values": "real", "binarize": "fixed"}, "binarize"),
        (["a a"], {"values": "real"}, "text"),
        (["a a"], {"binarize": "fixed"}, "text"),
        (["a a"], {"max_vocabulary": 1}, "max_vocabulary"),
    ],
)
def test_options_that_make_no_sense_are_refused(refused, source, options, part):
    with refused(part, error=OptionError):
        Schema.of(read(source), **options)


@pytest.mark.parametrize(
    ("source", "options", "parts"),
    [
        (
            table([[0, 1], [1, 3]], ("a", "b")),
            {"values": "binary"},
            ["t.csv", "row 2", "'b'", "3 is outside", "0 to 1"],
        ),
        (table([[0, 1], [1.5, 3]]), {"values": "levels"}, ["row 2", "column 1", "1.5", "whole numbers from 0 to 3"]),
        (table([[0, -1]]), {"values": "levels"}, ["row 1", "column 2", "-1"]),
        (table([[0, 0.5], [7, 0]]), {"binarize": "fixed"}, ["row 2", "column 1", "7", "probabilities"]),
        ([[0, 1], [2, -3]], {}, ["row 2", "step 2", "-3"]),
        (GREY.astype(int) - 300, {"values": "levels"}, ["row 1", "pixel (1, 1)"]),
        (table([[1.0, np.nan]]), {}, ["column 2", "no observed value"]),
        ([[[1.0, np.nan]], [[2.0, np.nan]]], {}, ["column 2", "no observed value"]),
        (["a b"], {}, ["min_count"]),
    ],
)
def test_values_of_another_kind_are_refused(refused, source, options, parts):
    with refused(*parts):
        Schema.of(read(source), **options)


# ---------------------------------------------------------------- checks of new data


def test_new_data_must_have_the_columns_of_the_run(refused):
    schema = Schema.of(table(TABLE, ("duration", "waiting")))
    with refused("the run was fitted on 2 columns (duration, waiting), t.csv has 3 columns (a, b, c)"):
        schema.encode(table(np.ones((1, 3)), ("a", "b", "c")))
    with refused("2 columns (duration, waiting)", "2 columns (duration, other)"):
        schema.encode(table(np.ones((1, 2)), ("duration", "other")))
    with refused("2 columns (duration, waiting)", "1 column"):
        schema.encode(table(np.ones((1, 1))))


def test_columns_are_put_in_the_order_of_the_run_and_unnamed_ones_match_by_count():
    schema = Schema.of(table(TABLE, ("a", "b")))
    expected = schema.encode(table(TABLE, ("a", "b"))).x
    assert torch.equal(schema.encode(table(TABLE[:, ::-1], ("b", "a"))).x, expected)
    assert torch.equal(schema.encode(table(TABLE)).x, expected)
    assert torch.equal(Schema.of(table(TABLE)).encode(table(TABLE, ("p", "q"))).x, expected)


@pytest.mark.parametrize(
    ("fitted", "given", "parts"),
    [
        (TABLE, ["a b"], ["fitted on a table", "holds text"]),
        (GREY, GREY[:, :2], ["(3, 4)", "(2, 4)"]),
        ([[[1.0, 2.5]]], [[[1.0]]], ["(2,)", "(1,)"]),
        ([[[1.0, 2.5]]], [[1.0]], ["(2,)", "(1,)"]),
        ([[0, 1, 2]], [[0, 1], [1, 3]], ["row 2", "step 2", "3", "0 to 2"]),
        ([[0, 1, 2]], [[[0, 1]]], ["vectors"]),
        (TABLE > 3, table([[0, 1], [1, 2]]), ["t.csv", "row 2", "column 2", "2"]),
    ],
)
def test_new_data_unlike_the_old_are_refused(refused, fitted, given, parts):
    schema = Schema.of(read(fitted))
    with refused(*parts):
        schema.encode(read(given))


def test_load_with_a_schema_reads_data_as_its_kind():
    schema = load(np.eye(9), kind="image").schema
    assert load(np.eye(9), schema=schema).x.shape == (9, 3, 3)
    assert load(GREY, schema=load(GREY, kind="table").schema).x.shape == (5, 12)


# ---------------------------------------------------------------- there and back


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=FLOATS),
    st.sampled_from(["none", "standard"]),
)
def test_tables_go_there_and_back(values, scale):
    values[0] = np.arange(values.shape[1]) + 0.5  # a column without a value is refused
    raw = Raw("table", values)
    schema = Schema.of(raw, scale=scale)
    data = schema.encode(raw)
    back = schema.decode(data.x, data.mask)
    assert np.array_equal(np.isnan(back), np.isnan(values))
    np.testing.assert_allclose(back, values, rtol=1e-12, atol=1e-9)
    assert data.x[~data.mask].eq(0).all() if data.mask is not None else not np.isnan(values).any()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=5), min_size=1, max_size=6))
def test_symbols_go_there_and_back(sequences):
    data = load(sequences)
    assert [part.tolist() for part in data.decoded()] == sequences


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        arrays(np.float64, st.tuples(st.integers(1, 4), st.just(2)), elements=st.floats(-99, 99)),
        min_size=1,
        max_size=5,
    )
)
def test_vectors_go_there_and_back(sequences):
    raw = read(sequences)
    schema = Schema.of(raw, values="real")
    data = schema.encode(raw)
    for back, part in zip(data.decoded(), sequences, strict=True):
        np.testing.assert_allclose(back, part, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["a", "b", "longer", "ü"]), min_size=1, max_size=5), min_size=1, max_size=6))
def test_text_goes_there_and_back(sentences):
    data = load(sentences)
    assert data.decoded() == sentences


def test_images_go_there_and_back():
    for options in ({}, {"scale": "standard"}, {"scale": "none"}, {"values": "levels"}):
        schema = Schema.of(read(GREY), **options)
        data = schema.encode(read(GREY))
        assert data.x.dtype == (torch.int64 if options.get("values") else torch.float32)
        np.testing.assert_allclose(schema.decode(data.x), GREY, rtol=1e-5, atol=1e-4)
    assert Schema.of(read(GREY)).encode(read(GREY)).x.max() <= 1


def test_decoding_marks_what_is_missing():
    schema = Schema.of(read([[1.5, 2.0, 3.0]]), scale="none")
    mask = torch.tensor([[[True], [False], [True]], [[True], [True], [False]]])
    first, second = schema.decode(torch.ones(2, 3, 1), mask, torch.tensor([3, 2]))
    assert np.isnan(first[:, 0]).tolist() == [False, True, False]
    assert second.tolist() == [[1], [1]]
    whole = schema.decode(torch.ones(2, 3, 1), mask)[1]
    assert np.isnan(whole[:, 0]).tolist() == [False, False, True]
    assert schema.decode(torch.ones(1, 3, 1, dtype=torch.bfloat16))[0].shape == (3, 1)


# ---------------------------------------------------------------- binarizing


@pytest.mark.parametrize("source", [GREY, GREY / 255.0])
def test_the_fixed_draw_does_not_depend_on_the_rows_beside_it(source):
    raw = read(source, kind="image")
    schema = Schema.of(raw, binarize="fixed", seed=3)
    data = schema.encode(raw)
    assert set(data.x.unique().tolist()) == {0, 1}
    index = np.array([4, 1, 2])
    assert torch.equal(schema.encode(raw.take(index)).x, data.subset(torch.from_numpy(index)).x)
    assert torch.equal(schema.encode(raw).x, data.x)
    assert not torch.equal(replace(schema, seed=4).encode(raw).x, data.x)


def test_two_rows_alike_are_drawn_apart():
    data = load(np.full((2, 8, 8), 128, dtype=np.uint8), binarize="fixed")
    assert not torch.equal(data.x[0], data.x[1])


def test_the_fixed_draw_has_the_mean_of_the_grey_levels():
    levels = np.tile(np.array([0, 64, 128, 255], dtype=np.uint8), (2000, 1)).reshape(2000, 2, 2)
    mean = load(levels, binarize="fixed").x.mean(0).flatten()
    np.testing.assert_allclose(mean, [0, 64 / 255, 128 / 255, 1], atol=0.04)
    assert mean[0] == 0
    assert mean[3] == 1


def test_binarizing_leaves_0_and_1_alone():
    binary = (GREY > 100).astype(np.uint8)
    for binarize in ("none", "fixed", "dynamic"):
        data = load(binary, binarize=binarize)
        assert torch.equal(data.x, torch.from_numpy(binary).float())
        assert data.schema.describe() == "images of 3 x 4, of 0 and 1"


# ---------------------------------------------------------------- densities


def test_metres_and_millimetres_give_the_same_density_up_to_the_units():
    metres = np.abs(TABLE)
    total = {}
    for unit, factor in {"m": 1.0, "mm": 1000.0}.items():
        raw = table(metres * factor)
        data = Schema.of(raw).encode(raw)
        normal = torch.distributions.Normal(0, 1).log_prob(data.x).sum(1)
        total[unit] = normal + data.log_det()
        direct = torch.distributions.Normal(torch.tensor(data.schema.shift), torch.tensor(data.schema.scale).double())
        torch.testing.assert_close(
            total[unit], direct.log_prob(torch.from_numpy(raw.values)).sum(1), atol=1e-5, rtol=1e-5
        )
    torch.testing.assert_close(total["m"] - total["mm"], torch.full((30,), 2 * np.log(1000.0), dtype=torch.float64))


def test_log_det_counts_what_is_observed():
    schema = Schema("table", "real", (2,), shift=(0.0, 0.0), scale=(2.0, 8.0))
    mask = torch.tensor([[True, True], [False, True], [False, False]])
    assert schema.log_det(mask).tolist() == pytest.approx([-np.log(16), -np.log(8), 0])
    assert schema.log_det((3, 2)).tolist() == pytest.approx([-np.log(16)] * 3)
    assert schema.log_det((3, 2)).dtype == torch.float64
    image = Schema.of(read(GREY))
    assert image.log_det((5, 3, 4)).tolist() == pytest.approx([-12 * np.log(255)] * 5)
    ragged = Schema.of(read([[[1.0], [4.0]], [[7.0]]]))
    data = ragged.encode(read([[[1.0], [4.0]], [[7.0]]]))
    assert data.log_det().tolist() == pytest.approx([-2 * np.log(ragged.scale[0]), -np.log(ragged.scale[0])])


@pytest.mark.parametrize("source", [GREY > 100, [[0, 1, 2], [1]], ["a b", "c"]])
def test_discrete_values_have_no_log_det(source):
    data = load(source)
    assert data.log_det().tolist() == [0.0] * len(data)


# ---------------------------------------------------------------- JSON, words, files


ALL = [
    Schema.of(table(TABLE, ("a", "b"))),
    Schema.of(read(GREY), binarize="fixed", seed=5),
    Schema.of(read(["a a b b"])),
    Schema.of(read([[0, 1], [2]])),
    Schema.of(read([[[0.5, 1.0]]])),
    Schema.of(read(GREY), values="levels"),
]


@pytest.mark.parametrize("schema", ALL)
def test_json_round_trip(schema):
    again = Schema.from_json(json.loads(json.dumps(schema.to_json())))
    assert again == schema
    assert again.to_json() == schema.to_json()
    assert again.source == schema.source
    assert hash(again) == hash(schema)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "tables"},
        {"kind": 3},
        {"values": "float"},
        {"event_shape": [0]},
        {"event_shape": "2"},
        {"event_shape": [2.0]},
        {"names": ["a"]},
        {"names": [1, 2]},
        {"levels": "many"},
        {"levels": True},
        {"vocabulary": ["a"]},
        {"scale": [1.0]},
        {"scale": [1.0, 0.0]},
        {"scale": [1.0, float("nan")]},
        {"shift": [float("inf"), 0.0]},
        {"shift": [None, 0.0]},
        {"binarize": None},
        {"seed": "0"},
        {"source": None},
        {"extra": 1},
    ],
)
def test_damaged_json_is_refused(refused, change):
    with refused("damaged"):
        Schema.from_json({**ALL[0].to_json(), **change})


def test_incomplete_json_is_refused(refused):
    content = ALL[0].to_json()
    del content["scale"]
    for bad in (content, [], None, "schema"):
        with refused("damaged"):
            Schema.from_json(bad)
    with refused("levels"):
        Schema("table", "binary", (2,), levels=1)


def test_schemas_are_equal_by_what_they_do():
    assert replace(ALL[0], source="elsewhere") == ALL[0]
    assert replace(ALL[0], names=("a", "c")) != ALL[0]


@pytest.mark.parametrize(
    ("source", "options", "line", "unit"),
    [
        (
            "digits",
            {"binarize": "dynamic"},
            "images of 8 x 8, binarized dynamically (each",
            "image, of the binarized values",
        ),
        (
            "digits",
            {"binarize": "fixed"},
            "images of 8 x 8, binarized once with seed 0",
            "image, of the binarized values",
        ),
        ("digits", {}, "images of 8 x 8, real values divided by 16", "image, in the units of the data as given"),
        ("digits", {"values": "levels"}, "images of 8 x 8, of 17 levels", "image"),
        (TABLE, {}, "a table of 2 columns, real values, standardized", "row, in the units of the data as given"),
        (TABLE, {"scale": "none"}, "a table of 2 columns, real values", "row, in the units of the data as given"),
        ([[0, 1, 2]], {}, "sequences of 3 symbols", "sequence, end of sequence not counted"),
        ([[[0.5, 2.0]]], {}, "sequences of vectors of 2, real", "sequence, in the units of the data as given"),
        (["a a"], {}, "sentences over 2 words", "sentence, end of sentence not counted"),
    ],
)
def test_words(source, options, line, unit):
    schema = Schema.of(read(source), **options)
    assert schema.describe().startswith(line)
    assert schema.unit == f"nats per {unit}"


def test_what_is_written_reads_back(tmp_path):
    values = TABLE.copy()
    values[2, 1] = np.nan
    cases = {
        "t.csv": (table(values, ("a", "b")), {}),
        "t.npy": (table(values, ("a", "b")), {}),
        "s.jsonl": (read([[1.5, 2.0, np.nan, 4.0], [3.0]]), {}),
        "v.jsonl": (read([[[1.5, 2.0]], [[3.0, 1.0], [0.1, 0.2]]]), {}),
        "i.jsonl": (read([[1, 2, 0], [3]]), {}),
        "s.npy": (read([[1.5, 2.0], [3.0]]), {"kind": "sequence"}),
        "w.txt": (read(["a b ü", "b"]), {}),
        "w.jsonl": (read(["a b ü", "b"]), {}),
        "g.npy": (read(GREY), {"kind": "image"}),
    }
    for name, (raw, options) in cases.items():
        schema = Schema.of(raw, min_count=1)
        data = schema.encode(raw)
        schema.write(data.x, tmp_path / name, data.mask, data.lengths)
        again = schema.encode(read(tmp_path / name, **options))
        torch.testing.assert_close(again.x, data.x, msg=name)
        assert (again.mask is None) == (data.mask is None), name
        assert data.mask is None or torch.equal(again.mask, data.mask), name
        assert data.lengths is None or torch.equal(again.lengths, data.lengths), name
    assert (tmp_path / "s.jsonl").read_text().splitlines()[0] == "[[1.5], [2.0], [null], [4.0]]"  # JSON has no NaN


def test_a_grid_of_images(tmp_path):
    schema = Schema.of(read(GREY))
    schema.write(schema.encode(read(GREY)).x, tmp_path / "g.png")
    grid = np.array(Image.open(tmp_path / "g.png"))
    assert grid.shape == (2 * 4 + 1, 3 * 5 + 1)
    assert np.array_equal(grid[1:4, 1:5], GREY[0])
    assert np.array_equal(grid[5:8, 6:10], GREY[4])
    assert (grid[5:8, 11:15] == 128).all()


@pytest.mark.parametrize(
    ("options", "white"), [({"binarize": "fixed"}, 255), ({"values": "levels"}, 255), ({"scale": "none"}, 255)]
)
def test_white_is_the_largest_level(tmp_path, options, white):
    schema = Schema.of(read("digits"), **options)
    schema.write(schema.encode(read("digits").take(slice(0, 9))).x, tmp_path / "g.png")
    assert np.array(Image.open(tmp_path / "g.png")).max() == white


def test_colour_images_are_written(tmp_path, refused):
    colour = RNG.integers(0, 256, (2, 3, 4, 3)).astype(np.uint8)
    schema = Schema.of(read(colour))
    schema.write(schema.encode(read(colour)).x, tmp_path / "g.png")
    assert np.array_equal(np.array(Image.open(tmp_path / "g.png"))[1:4, 1:5], colour[0])
    two = Schema("image", "real", (3, 4, 2), shift=(0.0,), scale=(1.0,))
    with refused("(3, 4, 2)"):
        two.write(np.ones((1, 3, 4, 2)), tmp_path / "h.png")


def test_a_suffix_that_does_not_fit_is_refused(refused, tmp_path):
    schema = Schema.of(table(TABLE))
    with refused("x.png", "table", ".csv, .npy"):
        schema.write(TABLE, tmp_path / "x.png")
    with refused("text", ".txt, .jsonl"):
        ALL[2].write(np.zeros((1, 2), int), tmp_path / "x.csv")
    with refused("nothing to write"):
        schema.write(np.empty((0, 2)), tmp_path / "x.csv")
    with refused("cannot write"):
        schema.write(TABLE, tmp_path / "nowhere" / "x.csv")
    assert list(tmp_path.iterdir()) == []


def test_names_are_quoted_in_csv(tmp_path):
    schema = Schema.of(table(TABLE, ("a,b", 'say "c"')))
    schema.write(TABLE, tmp_path / "t.csv")
    assert read(tmp_path / "t.csv").names == ("a,b", 'say "c"')


def test_errors_are_value_errors():
    assert issubclass(DataError, ValueError)
