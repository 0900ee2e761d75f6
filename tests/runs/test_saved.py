"""`model.save`, `latentia.load_model`, `latentia.open_run`: a model in a file is the model, with what its data are."""

import copy
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import latentia
from latentia.data import load
from latentia.errors import OptionError, RunError
from latentia.evaluate import evaluate
from latentia.learners import EM, Gradient, History
from latentia.models import HMM, VAE, GaussianMixture
from latentia.tasks import cluster, complete, decode_path, encode, generate
from latentia.tensors import read_tensors, write_tensors
from latentia.testing import all_models


@pytest.fixture
def table():
    draw = np.random.default_rng(0)
    which = draw.integers(2, size=80)
    return pd.DataFrame(
        {"age": 30 + 40 * which + draw.normal(0, 2, 80), "income": 2e4 + 3e4 * which + draw.normal(0, 900, 80)}
    )


@pytest.fixture
def fitted(table):
    data = load(table, scale="standard")
    model = GaussianMixture(features=2, components=2, covariance="diagonal").double()
    EM().fit(model, data)
    return model, data


@pytest.mark.parametrize("as_text", [str, lambda path: path], ids=["str", "Path"])
def test_a_saved_model_is_the_model(fitted, table, tmp_path, as_text):
    model, data = fitted
    model.save(as_text(tmp_path / "customers.safetensors"))
    again = latentia.load_model(as_text(tmp_path / "customers.safetensors"))
    assert type(again) is GaussianMixture
    assert again.schema == model.schema == data.schema
    assert again.schema.names == ("age", "income")
    assert not again.training
    assert again.anchor.dtype == torch.float64
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    # data in their own units, of whatever form, columns in another order and others beside them
    expected = cluster(model, data)
    more = table.assign(name="somebody")[["name", "income", "age"]]
    for given in (more, table.to_numpy(), table.to_numpy().tolist(), torch.tensor(table.to_numpy())):
        assert torch.equal(cluster(again, given), expected)
    assert evaluate(again, more).log_marginal == pytest.approx(evaluate(model, data).log_marginal, abs=1e-9)


def test_a_file_is_read_by_the_columns_of_the_fit(fitted, table, tmp_path):
    model, data = fitted
    table.assign(year=2001)[["year", "income", "age"]].to_csv(tmp_path / "new.csv", index=False)
    torch.testing.assert_close(encode(model, tmp_path / "new.csv"), encode(model, data))


@pytest.mark.parametrize("name", all_models())
def test_every_model_comes_back(name, tmp_path):
    model, batch = all_models()[name](0)
    model.save(tmp_path / "model.safetensors")
    again = latentia.load_model(tmp_path / "model.safetensors")
    assert again.schema is None
    torch.manual_seed(0)
    one = model.eval().posterior(batch)
    torch.manual_seed(0)
    other = again.posterior(batch)
    torch.testing.assert_close(one.mean, other.mean)


def test_words_and_categories_come_back(tmp_path):
    data = load([["red", "green", "red"], ["blue", "red"], ["green", "green", "blue", "red"]] * 4)
    model = HMM(symbols=data.schema.levels, states=2).double()
    EM(steps=5).fit(model, data)
    model.save(tmp_path / "colours")
    again = latentia.load_model(tmp_path / "colours")
    assert again.schema.vocabulary == data.schema.vocabulary
    paths = decode_path(again, [["blue", "green"]])
    assert torch.equal(paths[0], decode_path(model, load([["blue", "green"]], schema=data.schema))[0])


def test_a_copy_can_be_saved(fitted, tmp_path):
    copy.deepcopy(fitted[0]).save(tmp_path / "copy")
    assert latentia.load_model(tmp_path / "copy").schema == fitted[1].schema


def test_completion_and_drawing_read_frames(fitted, table):
    model, _ = fitted
    holed = table.copy()
    holed.loc[3, "income"] = np.nan
    found = complete(model, holed)
    filled = model.schema.decode(found.mean)[3, 1]
    which = int(cluster(model, holed)[3])
    centre = model.schema.decode(model.means)[which, 1]
    assert filled == pytest.approx(centre, rel=0.02)


def test_a_context_may_be_a_frame(tmp_path):
    draw = np.random.default_rng(1)
    frame = pd.DataFrame({"x": draw.normal(size=40), "y": draw.normal(size=40), "kind": ["a", "b"] * 20})
    data = load(frame, context="kind", scale="standard")
    assert data.context is not None
    assert data.schema.context is not None
    model = VAE(event_shape=(2,), latent=1, hidden=(4,), likelihood="gaussian", context=data.schema.context.columns)
    Gradient(epochs=1, progress=False).fit(model, data)
    model.save(tmp_path / "kinds")
    again = latentia.load_model(tmp_path / "kinds")
    given = pd.DataFrame({"other": [1], "kind": ["b"]})
    drawn, _ = generate(again, 3, context=given)
    as_batch, _ = generate(model, 3, context=data.context.batch([1]))
    torch.testing.assert_close(drawn.x, as_batch.x)
    torch.testing.assert_close(encode(again, frame), encode(model, data))


def test_a_batch_says_nothing_of_what_the_data_are(fitted):
    model, data = fitted
    EM(steps=1, fresh=False).fit(model, data.batch())
    assert model.schema is data.schema
    other = GaussianMixture(features=2).double()
    EM(steps=1).fit(other, data.batch())
    assert other.schema is None
    assert "schema" not in vars(other)


class Own(GaussianMixture):
    """A model that latentia does not have."""


def test_a_model_of_ones_own_is_loaded_by_its_class(tmp_path):
    Own(3, components=2).save(tmp_path / "own")
    with pytest.raises(RunError, match="give its class"):
        latentia.load_model(tmp_path / "own")
    assert type(latentia.load_model(tmp_path / "own", Own)) is Own


def test_a_network_of_ones_own_is_refused(tmp_path):
    model = VAE((3,), latent=1, encoder=nn.Linear(3, 5))
    with pytest.raises(OptionError, match=r"VAE\(encoder=\.\.\.\) is a Linear"):
        model.save(tmp_path / "own")
    assert not list(tmp_path.iterdir())


def damaged(path, tmp_path, **changed):
    tensors, state = read_tensors(path)
    out = tmp_path / "damaged"
    write_tensors(out, {**tensors, **changed.pop("tensors", {})}, {**state, **changed})
    return out


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": "os.system"}, "none of"),
        ({"model": 3}, "holds no model"),
        ({"options": [1]}, "holds no model"),
        ({"options": {"features": 10**5, "components": 10**6}}, "has not the shape"),
        ({"options": {"nope": 1}}, "can be made of its options"),
        ({"options": {}}, "can be made of its options"),
        ({"dtype": "object"}, "dtype"),
        ({"schema": {"kind": "table"}}, "damaged"),
        ({"tensors": {"logits": torch.full((2,), torch.nan, dtype=torch.float64)}}, "has a value of nan"),
        ({"tensors": {"logits": torch.zeros(9, dtype=torch.float64)}}, "has not the shape"),
    ],
)
def test_a_damaged_file_is_refused(fitted, tmp_path, changed, words):
    fitted[0].save(tmp_path / "model")
    with pytest.raises(RunError, match=words):
        latentia.load_model(damaged(tmp_path / "model", tmp_path, **changed))


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    for name in ("empty", "nowhere"):
        with pytest.raises(RunError, match="damaged or not latentia's"):
            latentia.load_model(tmp_path / name)
    write_tensors(tmp_path / "other", {}, {"records": 3})
    with pytest.raises(RunError, match="holds no model"):
        latentia.load_model(tmp_path / "other")
    with pytest.raises(RunError, match="not a run directory"):
        latentia.open_run(tmp_path)


def test_a_run_is_opened_and_its_model_loaded(table, tmp_path):
    from latentia.cli import main

    table.to_csv(tmp_path / "t.csv", index=False)
    words = ["fit", "--model", "GaussianMixture", "--data", str(tmp_path / "t.csv"), "--model.components", "2"]
    with pytest.raises(SystemExit) as end:
        main([*words, "--out", str(tmp_path / "run"), "--evaluation", "false"])
    assert not end.value.code
    run = latentia.open_run(str(tmp_path / "run"))
    model = latentia.load_model(tmp_path / "run")
    assert model.schema == run.schema
    assert torch.equal(cluster(model, table), cluster(run.model(), load(table, schema=run.schema)))
    # from the run to a file of its own
    model.save(tmp_path / "apart")
    assert torch.equal(cluster(latentia.load_model(tmp_path / "apart"), table), cluster(model, table))


def test_import_is_light_and_names_are_told():
    code = "import latentia, sys; print('torch' in sys.modules, 'load_model' in dir(latentia))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = latentia.nope


def test_reprs_are_short(fitted, table):
    model, data = fitted
    words = data.schema
    texts = load([["word" + str(i)] for i in range(500)])
    history = EM(steps=3).fit(GaussianMixture(2, 2).double(), data)
    assert isinstance(history, History)
    for thing in (data, words, texts, texts.schema, history, evaluate(model, table)):
        assert len(repr(thing)) < 1000
        assert "tensor(" not in repr(thing)
    assert "80 data" in repr(data)
    assert "age, income" in repr(words)
    assert "3 records, converged" in repr(history)
    assert f"{evaluate(model, table).log_marginal:.5g}" in repr(evaluate(model, table))
    holed = load(np.array([[1.0, np.nan], [2.0, 3.0]]))
    assert "1 values missing" in repr(holed)


def test_the_header_is_plain_json(fitted, tmp_path):
    fitted[0].save(tmp_path / "model")
    data = (tmp_path / "model").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    content = json.loads(header["__metadata__"]["latentia"])
    assert content["model"] == "GaussianMixture"
    assert content["options"] == {"features": 2, "components": 2, "covariance": "diagonal"}
