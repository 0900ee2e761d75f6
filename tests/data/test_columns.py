"""Columns of their own kind: told from types and values, corrected, numbered, and named again."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest

from latentia.data import Schema, load, read
from latentia.errors import DataError, OptionError
from latentia.learners import EM, Gradient
from latentia.models import HMM, GaussianMixture, Mixture, MixtureOfCategoricals

PLANS = ["basic", "pro", None, "plus"]


def customers(times: int = 6) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": [31.5, 20.25, np.nan, 44.0] * times,
            "plan": PLANS * times,
            "active": ["yes", "no", "no", "yes"] * times,
            "visits": [0, 3, 1, 7] * times,
            "vip": [True, False, True, True] * times,
            "tier": pd.Categorical(["b", "a", "b", None] * times, categories=["b", "a", "c"]),
            "door": [1, 2, 2, 2] * times,
            "paid": [1200, 300, 4, 98_000] * times,
        }
    )


def seen(data):
    return data.batch().observed


KINDS = ("real", "category", "binary", "count", "binary", "category", "category", "real")


def test_the_kinds_of_a_data_frame_are_told():
    schema = load(customers()).schema
    assert (schema.values, schema.kinds) == ("mixed", KINDS)
    assert schema.categories[1:3] == (("basic", "plus", "pro"), ("no", "yes"))
    # a pandas category keeps its order, and what no row has
    assert schema.categories[4:7] == (("False", "True"), ("b", "a", "c"), ("1", "2"))
    assert schema.sizes()["columns"] == ("real", 3, "binary", "count", "binary", 3, 2, "real")
    assert str(schema.fields[1]) == "plan (category: basic, plus, pro)"
    assert "plan (category: basic, plus, pro), active (yes/no: no, yes), visits (count)" in schema.describe()


@pytest.mark.parametrize("form", ["csv", "parquet", "arrow", "nullable", "polars"])
def test_every_form_of_table_says_the_same(form, tmp_path):
    frame = customers().drop(columns="tier")
    expected = load(frame)
    if form == "csv":
        frame.to_csv(source := tmp_path / "t.csv", index=False)
    elif form == "parquet":
        frame.to_parquet(source := tmp_path / "t.parquet")
    elif form == "arrow":
        source = pa.Table.from_pandas(frame)
    elif form == "nullable":
        source = frame.convert_dtypes()
    else:
        source = polars.from_arrow(pa.Table.from_pandas(frame))
    found = load(source)
    assert found.schema == expected.schema
    assert np.array_equal(found.x, expected.x)
    assert np.array_equal(seen(found), seen(expected))


def test_a_table_of_numbers_is_what_it_always_was():
    frame = customers()[["age", "visits", "vip", "paid"]]
    schema = load(frame).schema
    assert (schema.values, schema.kinds, schema.categories) == ("real", (), ())
    # and its columns have kinds where they are asked for
    schema = load(frame, values="mixed").schema
    assert schema.kinds == ("real", "count", "binary", "real")


def test_what_was_told_is_corrected():
    data = load(customers(), columns="visits:real,door:count,active:category", exclude="paid,tier")
    assert data.schema.names == ("age", "plan", "active", "visits", "vip", "door")
    assert data.schema.kinds == ("real", "category", "category", "real", "binary", "count")
    some = load(customers(), columns=["plan", "visits:category"])
    assert some.schema.names == ("plan", "visits")
    assert some.schema.categories[1] == ("0", "1", "3", "7")
    # a name with a colon is a name first
    colon = customers().rename(columns={"plan": "plan:real"})
    assert load(colon, columns="plan:real,visits").schema.names == ("plan:real", "visits")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"columns": "visits:size"}, ["'size' is none of real, category, binary, count"]),
        ({"columns": "plan:real"}, ["row 1, column 'plan' holds text", "'basic'"]),
        ({"columns": "plan:binary"}, ["column 'plan'", "yes or no has two values, and this has 3"]),
        ({"columns": "paid:count,sum:real"}, ["no column 'sum'"]),
        ({"exclude": "sum"}, ["no column 'sum'"]),
        ({"values": "real"}, ["column 'plan'", "--exclude"]),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises((DataError, OptionError)) as caught:
        load(customers(), **options)
    for word in words:
        assert word in str(caught.value)


def test_words_that_are_no_categories_are_refused(tmp_path):
    frame = customers(10).assign(name=[f"customer {i}" for i in range(40)])
    with pytest.raises(DataError, match=r"column 'name': 40 different words in 40 cells.*--exclude name"):
        load(frame)
    assert load(frame, exclude="name").schema.kinds == KINDS
    # a word among numbers is a mistake, unless it is said to be none
    path = tmp_path / "t.csv"
    path.write_text("zone,plan\n1,a\n2,a\n3,b\n3a,b\n")
    with pytest.raises(DataError, match=r"line 5, column 'zone' holds text, '3a'.*--columns zone:category"):
        load(path)
    assert load(path, columns="zone:category").schema.categories == (("1", "2", "3", "3a"), ("a", "b"))
    for cell in ("1_000", "1.234.567"):
        path.write_text(f'paid,plan\n"{cell}",a\n"{cell}",b\n')
        with pytest.raises(DataError, match="holds text"):
            load(path)


def test_names_come_back(tmp_path):
    data = load(customers())
    given = data.decoded()
    assert given[0].tolist() == [31.5, "basic", "yes", 0, "True", "b", "1", 1200]
    assert [row[1] for row in given[:4]] == ["basic", "pro", pytest.approx(np.nan, nan_ok=True), "plus"]
    data.schema.write(data.x, tmp_path / "out.csv", data.mask)
    back = load(tmp_path / "out.csv", schema=data.schema)
    assert np.array_equal(back.x, data.x)
    assert np.array_equal(seen(back), seen(data))
    with pytest.raises(DataError, match=r"no names of categories.*\.csv"):
        data.schema.write(data.x, tmp_path / "out.npy")


def test_numbers_are_scaled_and_counted_in_the_units_of_the_data():
    data = load(customers(), scale="standard")
    x, age = data.x[:, 0][seen(data)[:, 0]], customers()["age"].dropna()
    assert float(x.mean()) == pytest.approx(0, abs=1e-12)
    assert float(data.x[0, 0]) == pytest.approx((31.5 - age.mean()) / age.std(ddof=0))
    assert data.x[:4, 3].tolist() == [0, 3, 1, 7]
    paid = customers()["paid"].std(ddof=0)
    assert float(data.log_det()[0]) == pytest.approx(-np.log(age.std(ddof=0)) - np.log(paid))
    assert float(data.log_det()[2]) == pytest.approx(-np.log(paid))


def test_other_data_are_read_as_the_run_was(tmp_path):
    schema = load(customers()).schema
    # other columns first, one of the two answers alone, and numbers for words
    other = customers()[["paid", "door", "tier", "vip", "visits", "active", "plan", "age"]].iloc[[0, 3]]
    found = load(other, schema=schema)
    assert np.array_equal(found.x, load(customers()).x[[0, 3]])
    for change, words in (
        ({"plan": "gold"}, r"row 1, column 'plan': 'gold' is none of basic, plus, pro"),
        ({"visits": 1.5}, r"row 1, column 'visits': '1.5' is no count"),
        ({"visits": -1}, "no count"),
        ({"door": 3}, r"'3' is none of 1, 2"),
        ({"active": "perhaps"}, r"'perhaps' is none of no, yes"),
    ):
        with pytest.raises(DataError, match=words):
            load(customers().assign(**change), schema=schema)
    with pytest.raises(DataError, match="holds text"):
        load(customers().assign(age="old"), schema=schema)
    numbers = load(customers()[["age", "paid"]]).schema
    with pytest.raises(DataError, match=r"column 'age': holds text, 'old', where the run was fitted on numbers"):
        load(customers().assign(age="old")[["age", "paid"]], schema=numbers)


def test_a_schema_comes_back_and_one_from_before_is_read():
    schema = load(customers()).schema
    content = json.loads(json.dumps(schema.to_json()))
    assert Schema.from_json(content) == schema
    old = load(customers()[["age", "visits", "paid"]]).schema.to_json()
    del old["kinds"]
    assert Schema.from_json(old).kinds == ()
    for broken in ({"kinds": ["real"]}, {"kinds": [*KINDS[:-1], "word"]}, {"categories": []}, {"kinds": []}):
        with pytest.raises(DataError, match="damaged"):
            Schema.from_json({**content, **broken})


def test_rows_of_mixed_columns_are_steps_of_a_series():
    frame = customers().assign(who=["a", "b", "b"] * 8)
    data = load(frame, group="who", columns="visits,plan,age")
    assert (data.schema.kind, data.schema.kinds) == ("sequence", ("count", "category", "real"))
    assert data.x.shape == (2, 16, 3)
    assert data.decoded()[1][:2, 1].tolist() == ["pro", pytest.approx(np.nan, nan_ok=True)]
    again = load(frame.iloc[:9], schema=data.schema, group="who", columns="visits,plan,age")
    assert np.array_equal(again.x[0, :3], data.x[0, :3])
    with pytest.raises(DataError, match=r"row 1, step 3, column 'plan': 'gold' is none of basic, plus, pro"):
        load(frame.replace({"plan": {None: "gold"}}), schema=data.schema, group="who", columns="visits,plan,age")
    model = HMM(columns=data.schema.sizes()["columns"], states=2).double()
    EM(steps=3, tol=0.5, progress=False).fit(model, data)


def test_the_fingerprint_tells_what_a_position_means():
    frame = customers()
    other = frame.replace({"plan": {"basic": "free"}})
    assert read(frame).fingerprint() == read(customers()).fingerprint() != read(other).fingerprint()


def test_a_model_of_numbers_refuses_positions_of_categories():
    data = load(customers()[["age", "plan"]])
    for learner in (EM(steps=2, progress=False), Gradient(epochs=1, progress=False)):
        with pytest.raises(DataError, match=r"GaussianMixture takes numbers, and column plan \(category"):
            learner.fit(GaussianMixture(2, 2).double(), data)
    with pytest.raises(DataError, match=r"the model has the columns \['real', 2\]"):
        EM(steps=2, progress=False).fit(Mixture(("real", 2), 2).double(), data)


def test_categories_of_a_table_are_a_mixture_of_categoricals():
    data = load(customers()[["plan", "active", "door"]])
    assert data.schema.sizes()["symbols"] == (3, 2, 2)
    model = MixtureOfCategoricals(symbols=(3, 2, 2), features=3, components=2).double()
    EM(steps=50, tol=1e-3, progress=False).fit(model, data)
    assert model.free_parameters() == 1 + 2 * (2 + 1 + 1)
