"""Data larger than memory: a stream is a data set that is read again at every pass, and gives the same numbers."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from latentia import cli
from latentia.data import Dataset, Stream, as_dataset, load
from latentia.data.blocks import Rows, uniform
from latentia.data.stream import draw, survey
from latentia.errors import CapabilityError, DataError, OptionError, RunError
from latentia.evaluate import evaluate
from latentia.learners import EM, Gradient, Online
from latentia.model import EMModel
from latentia.models import HMM, VAE, GaussianMixture, KMeans, MixtureOfBernoullis
from latentia.runs.config import is_large
from latentia.runs.directory import Run
from latentia.tensors import read_tensors
from latentia.testing import all_models

ROOT = Path(__file__).parent.parent
N = 2500


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """Three clusters of three coordinates of very different size, with holes."""
    random = np.random.default_rng(0)
    centers = np.array([[0.0, 0.0, 0.0], [6.0, 0.0, 4.0], [0.0, 7.0, -4.0]])
    x = centers[random.integers(3, size=N)] + random.normal(size=(N, 3))
    x[random.random(x.shape) < 0.05] = np.nan
    return x * [1.0, 1e-3, 1e6] + [0.0, 5.0, 1e7]


@pytest.fixture(scope="module")
def files(values, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("streams")
    np.save(folder / "t.npy", values)
    frame = pd.DataFrame(values, columns=["a", "b", "c"])
    frame["n"] = np.random.default_rng(1).integers(0, 4, size=N)
    frame.to_parquet(folder / "t.parquet", row_group_size=300)
    return {"npy": folder / "t.npy", "parquet": folder / "t.parquet"}


def columns(name: str) -> dict:
    return {"columns": "a,b,c"} if name == "parquet" else {}


def joined(stream: Stream, size: int | None) -> torch.Tensor:
    return torch.cat([chunk.x for chunk in stream.chunks(size)])


# -------------------------------------------------------------------------------------------------- the same data


@pytest.mark.parametrize("name", ["npy", "parquet"])
@pytest.mark.parametrize("size", [1, 299, 301, 10_000, None])
def test_chunks_of_any_size_are_the_data(files, name, size):
    if size == 1:
        stream = Stream.open(files[name], **columns(name)).part(290, 310)
        whole = load(files[name], **columns(name)).subset(slice(290, 310))
    else:
        stream, whole = Stream.open(files[name], **columns(name)), load(files[name], **columns(name))
    assert len(stream) == len(whole)
    assert torch.equal(joined(stream, size), whole.x)
    assert torch.equal(torch.cat([chunk.rows for chunk in stream.chunks(size)]), whole.rows)
    assert stream.schema == whole.schema


@pytest.mark.parametrize("name", ["npy", "parquet"])
def test_the_first_pass_finds_the_scaling_that_memory_finds(files, name, monkeypatch):
    monkeypatch.setattr("latentia.data.blocks.VALUES", 300)
    streamed = Stream.open(files[name], scale="standard", **columns(name)).schema
    in_memory = load(files[name], scale="standard", **columns(name)).schema
    np.testing.assert_allclose(streamed.shift, in_memory.shift, rtol=1e-13)
    np.testing.assert_allclose(streamed.scale, in_memory.scale, rtol=1e-13)
    assert streamed.names == in_memory.names


@settings(max_examples=60, deadline=None)
@example([(0.0, 1.0), (0.0, 1.0), (0.0, 0.5), (0.0, 0.5), (0.0, -3.0)], "standard", 1)
@given(
    st.lists(
        st.tuples(*[st.sampled_from([0.0, 1.0, 0.5, math.nan, -3.0, 1e-200, 1e200, 7.25])] * 2), min_size=1, max_size=12
    ),
    st.sampled_from(["none", "standard"]),
    st.integers(1, 5),
)
def test_the_first_pass_is_the_schema_of_the_whole(tmp_path_factory, rows, scale, size):
    path = tmp_path_factory.mktemp("pass") / "x.npy"
    np.save(path, np.array(rows))
    blocks = pytest.MonkeyPatch()
    with blocks.context() as patch:
        patch.setattr("latentia.data.blocks.MOST", size)
        try:
            expected = load(path, scale=scale, values="real").schema
        except DataError:  # a column without a value
            with pytest.raises(DataError, match="no observed value"):
                Stream.open(path, scale=scale, values="real")
            return
        found = Stream.open(path, scale=scale, values="real").schema
        assert Stream.open(path).schema.values == load(path).schema.values
    # a mean of values that cancel is as exact as the largest of them allows
    largest = np.maximum(np.nanmax(np.abs(rows), axis=0), 1e-300) if scale == "standard" else 1.0
    np.testing.assert_allclose(
        np.divide(found.shift, largest), np.divide(expected.shift, largest), rtol=1e-10, atol=1e-14
    )
    np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-7)


def test_every_kind_of_array_streams(tmp_path):
    random = np.random.default_rng(0)
    holed = random.normal(size=(40, 7, 2))
    holed[3:9, 4:] = np.nan
    arrays = {
        "one": (random.normal(size=40), {}),
        "sequences": (holed, {"scale": "standard"}),
        "levels": (random.integers(0, 5, size=(40, 3)), {"values": "levels"}),
        "symbols": (random.integers(0, 6, size=(40, 8)), {"kind": "sequence"}),
        "images": (random.integers(0, 256, size=(40, 4, 4)).astype(np.uint8), {"scale": "auto"}),
        "drawn": (random.integers(0, 256, size=(40, 4, 4)).astype(np.uint8), {"binarize": "fixed", "seed": 3}),
        "bits": (random.integers(0, 2, size=(40, 5)), {}),
        "other end": (random.normal(size=(40, 2)).astype(">f4"), {}),
    }
    for name, (array, options) in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
        stream, whole = Stream.open(tmp_path / f"{name}.npy", **options), load(tmp_path / f"{name}.npy", **options)
        given = {"shift": whole.schema.shift, "scale": whole.schema.scale}
        assert replace(stream.schema, **given) == whole.schema, name
        torch.testing.assert_close(joined(stream, 7), whole.x, msg=name)
        assert stream.entries == whole.x[0].numel()


def test_a_stream_has_as_many_symbols_as_it_has_observations_for(tmp_path):
    symbols = np.arange(70_000).reshape(-1, 10)
    np.save(tmp_path / "many.npy", symbols)
    options = {"kind": "sequence", "values": "symbols"}
    stream, whole = Stream.open(tmp_path / "many.npy", **options), load(tmp_path / "many.npy", **options)
    assert stream.schema.levels == whole.schema.levels == 70_000


def test_parts_are_a_partition_that_needs_no_list(files):
    rows = Rows.open(files["npy"])
    rest, test = rows.split(0.2, seed=5)
    train, validation = rest.split(0.25, seed=5)
    numbers = [np.concatenate([raw.rows for raw in part.blocks(137)]) for part in (train, validation, test)]
    assert [len(part) for part in (train, validation, test)] == [len(found) for found in numbers]
    assert sorted(np.concatenate(numbers)) == list(range(1, N + 1))
    # 4 standard deviations of a binomial
    assert len(test) == pytest.approx(0.2 * N, abs=4 * math.sqrt(0.16 * N))
    assert len(validation) == pytest.approx(0.2 * N, abs=4 * math.sqrt(0.16 * N))
    assert set(numbers[2]) != set(np.concatenate([raw.rows for raw in rows.split(0.2, seed=6)[1].blocks()]))
    assert len(rows.split(0.0, seed=5)[1]) == 0
    with pytest.raises(OptionError, match="fraction"):
        rows.split(1.0, seed=5)


def test_row_numbers_draw_uniformly():
    for seed in (0, 1, 2**62):
        drawn = uniform(np.arange(100_000, dtype=np.uint64), seed)
        counts = np.histogram(drawn, 50, (0, 1))[0]
        assert ((counts - 2000) ** 2 / 2000).sum() < 110  # chi-square with 49 degrees: p < 1e-6
        assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02


@pytest.mark.parametrize(("count", "total"), [(5, 3), (100, 2**21), (2**17, 2**20 + 5), (0, 4)])
def test_draws_are_different_positions(count, total):
    found = draw(count, total, torch.Generator().manual_seed(0))
    assert len(found) == min(count, total)
    assert bool((found.diff() > 0).all())
    assert not len(found) or 0 <= int(found[0]) <= int(found[-1]) < total


def test_a_sample_is_of_the_data(files):
    stream = Stream.open(files["parquet"], columns="a,b,c")
    whole = load(files["parquet"], columns="a,b,c")
    sample = stream.sample(100, seed=1)
    assert isinstance(sample, Dataset)
    assert len(sample) == 100
    assert torch.equal(sample.x, whole.x[sample.rows - 1])
    assert torch.equal(stream.subset(slice(2, 5)).x, whole.x[2:5])
    assert len(stream.subset(slice(0))) == 0
    assert torch.equal(stream.batch(torch.tensor([3, 700, 2400])).x, whole.x[[3, 700, 2400]])


def test_shuffled_blocks_hold_every_datum_once(files):
    stream = Stream.open(files["npy"])
    orders = [list(stream.shuffled(torch.zeros((), dtype=torch.float64), 90, seed)) for seed in (0, 0, 1)]
    sums = [[float(batch.x.sum()) for batch in order] for order in orders]
    assert sums[0] == sums[1] != sums[2]
    assert sorted(sums[0]) == pytest.approx(sorted(sums[2]))
    assert sum(batch.size for batch in orders[0]) == N


# ------------------------------------------------------------------------------------------- what is no stream


def test_what_cannot_be_streamed_is_refused(files, tmp_path, values):
    def refused(source, *words: str, error=DataError, **options) -> None:
        with pytest.raises(error, match=".*".join(words)):
            Stream.open(source, **options)

    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    refused(tmp_path / "t.csv", "only .npy and .parquet", "convert it")
    refused(tmp_path / "absent.npy", "does not exist")
    refused("digits", "no stream", "path")
    refused(values, "ndarray is no stream")
    np.save(tmp_path / "f.npy", np.asfortranarray(values))
    refused(tmp_path / "f.npy", "Fortran", "ascontiguousarray")
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused(tmp_path / "o.npy", "o.npy")
    (tmp_path / "cut.npy").write_bytes(files["npy"].read_bytes()[:-9])
    refused(tmp_path / "cut.npy", "cut.npy")
    (tmp_path / "cut.parquet").write_bytes(files["parquet"].read_bytes()[:-9])
    refused(tmp_path / "cut.parquet", "cut.parquet", "Parquet")
    pd.DataFrame({"a": [1.0, 2.0], "w": ["x", "y"]}).to_parquet(tmp_path / "w.parquet")
    refused(tmp_path / "w.parquet", "column 'w' holds", "--columns a")
    refused(files["parquet"], "no column 'z'", columns="z")
    refused(files["npy"], "no named columns", columns="a")
    refused(files["npy"], "weights of shape", weight=np.ones(3))
    np.save(tmp_path / "inf.npy", np.where(np.arange(2 * N).reshape(-1, 2) == 4441, np.inf, 0.5))
    refused(tmp_path / "inf.npy", "row 2221", "column 2", "infinite")
    np.save(tmp_path / "grey.npy", np.full((4, 2, 2), 9, dtype=np.uint8))
    refused(tmp_path / "grey.npy", "dynamic", error=OptionError, binarize="dynamic")


def test_an_index_that_pandas_has_saved_is_no_column(tmp_path):
    frame = pd.DataFrame({"a": [1.5, 2.5, None]}, index=["x", "y", "z"])
    frame.to_parquet(tmp_path / "i.parquet")
    stream = Stream.open(tmp_path / "i.parquet")
    assert stream.schema.names == ("a",)
    assert joined(stream, None).tolist() == [[1.5], [2.5], [0.0]]


def test_learners_and_tasks_that_need_memory_say_so(files):
    stream = Stream.open(files["npy"])
    with pytest.raises(DataError, match="Stream"):
        Gradient(epochs=1).fit(VAE((3,), latent=1, likelihood="gaussian"), stream)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------- EM and evaluation


def models():
    return {
        "mixture": (lambda: GaussianMixture(3, 3).double(), {}),
        "k-means": (lambda: KMeans(3, 3).double(), {"hard": True}),
        "stepwise": (lambda: GaussianMixture(3, 3, covariance="diagonal").double(), {"stepwise": 0.7, "steps": 3}),
    }


@pytest.mark.filterwarnings("ignore:EM stopped")
@pytest.mark.parametrize("which", ["mixture", "k-means"])
@pytest.mark.parametrize("name", ["npy", "parquet"])
def test_em_on_a_stream_is_em_in_memory(files, name, which):
    make, options = models()[which]
    whole = load(files[name], scale="standard", **columns(name))
    stream = Stream(Rows.open(files[name], **columns(name)), whole.schema)
    fitted = [make(), make()]
    for model, data in zip(fitted, (whole, stream), strict=True):
        history = EM(restarts=2, batch_size=333, **options).fit(model, data, seed=3)
        assert len(history.restarts) == 2
    for key, value in fitted[0].state_dict().items():
        assert torch.allclose(value.double(), fitted[1].state_dict()[key].double(), atol=1e-10), key


@pytest.mark.filterwarnings("ignore:EM stopped")
def test_stepwise_em_on_a_stream_comes_near_the_optimum(files):
    stream = Stream.open(files["npy"], scale="standard")
    by_batch, by_steps = (GaussianMixture(3, 3).double() for _ in range(2))
    best = EM(restarts=3).fit(by_batch, stream).records[-1]["log_marginal"]
    near = EM(steps=5, tol=0, stepwise=0.7, batch_size=250).fit(by_steps, stream).records[-1]["log_marginal"]
    assert best - 0.02 < near <= best + 1e-9


def test_a_large_stream_starts_from_a_random_part(files, monkeypatch):
    seen = []

    class Spy(GaussianMixture):
        def start(self, batch, generator):
            seen.append(batch.size)
            super().start(batch, generator)

    monkeypatch.setattr("latentia.data.stream.START", 600)
    monkeypatch.setattr("latentia.data.stream.ROWS", 50)
    model = Spy(3, 3).double()
    stream = Stream.open(files["npy"], scale="standard")
    part = EM(restarts=3).fit(model, stream).restarts
    assert seen == [200, 200, 200]
    full = EM(restarts=3).fit(GaussianMixture(3, 3).double(), load(files["npy"], scale="standard")).restarts
    assert max(part) == pytest.approx(max(full), abs=1e-4)


def test_a_weighted_stream_is_weighted_data(files):
    whole = load(files["parquet"], weight="n", scale="standard")
    stream = Stream.open(files["parquet"], weight="n", scale="standard")
    np.testing.assert_allclose(stream.schema.scale, whole.schema.scale, rtol=1e-13)
    assert torch.equal(torch.cat([batch.weights for batch in stream.batches(177)]), whole.batch().weights)
    model = GaussianMixture(3, 3).double()
    EM().fit(model, stream)
    found, expected = evaluate(model, stream), evaluate(model, Stream(stream.rows, whole.schema).subset(slice(None)))
    assert found.log_marginal == pytest.approx(expected.log_marginal, rel=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_evaluation_of_a_stream_is_that_of_the_data(files, monkeypatch, weighted):
    monkeypatch.setattr("latentia.data.blocks.VALUES", 1000)
    options = {"weight": "n"} if weighted else {"columns": "a,b,c"}
    stream = Stream.open(files["parquet"], scale="standard", **options)
    whole = Stream(stream.rows, stream.schema).subset(slice(None))
    model = GaussianMixture(3, 2).double()
    EM(steps=5, tol=1e-2).fit(model, whole)
    expected = evaluate(model, whole, training=whole)
    same = evaluate(model, stream, training=stream)
    assert same.verdict == expected.verdict  # all of so small a stream is sampled
    monkeypatch.setattr("latentia.measure.evaluation.SAMPLE", 600)
    found = evaluate(model, stream, training=stream)
    assert found.criteria_on == expected.criteria_on
    for name in ("n", "log_marginal", "log_marginal_se", "total_log_marginal", "elbo", "aic", "bic"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-10), name
    assert found.verdict.endswith("All but log p(x) is of a random sample of 200 data.")


def test_bits_and_importance_samples_of_a_stream(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    np.save(tmp_path / "b.npy", (random.random((600, 6)) < [0.1, 0.5, 0.9, 0.2, 0.3, 0.7]).astype(np.uint8))
    stream, whole = Stream.open(tmp_path / "b.npy"), load(tmp_path / "b.npy")
    model = MixtureOfBernoullis((6,), 2).double()
    EM(tol=1e-3).fit(model, stream)
    monkeypatch.setattr("latentia.measure.evaluation.SAMPLE", 600)
    monkeypatch.setattr("latentia.data.blocks.VALUES", 600)
    found, expected = evaluate(model, stream), evaluate(model, whole)
    assert found.bits_per_dimension == pytest.approx(expected.bits_per_dimension, rel=1e-10)
    assert found.divided_by == expected.divided_by
    torch.manual_seed(0)
    sampled, exact = VAE((6,), latent=2, hidden=(4,)), evaluate
    found, expected = exact(sampled, stream, importance_samples=200), exact(sampled, whole, importance_samples=200)
    assert found.method == "importance sampling"
    noise = 5 * math.hypot(found.log_marginal_mc_se, expected.log_marginal_mc_se)
    assert found.log_marginal == pytest.approx(expected.log_marginal, abs=noise)
    # an error's own error: weights have heavy tails
    assert found.log_marginal_mc_se == pytest.approx(expected.log_marginal_mc_se, rel=0.5)


# ------------------------------------------------------------------------------------------------------- the command


def command(*words: object) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([str(word) for word in words])
    assert not left.value.code


@pytest.mark.parametrize("name", ["npy", "parquet"])
def test_the_command_streams(files, tmp_path, capsys, name, monkeypatch):
    monkeypatch.setattr("latentia.measure.evaluation.SAMPLE", 300)
    words = [
        "fit",
        "--model",
        "GaussianMixture",
        "--data",
        files[name],
        "--model.components",
        3,
        "--out",
        tmp_path / "r",
    ]
    command(*words, "--stream", "true", *(["--columns", "a,b,c"] if name == "parquet" else []))
    run = Run.open(tmp_path / "r")
    assert (tmp_path / "r" / "report.html").exists()
    found = json.loads((tmp_path / "r" / "evaluation.json").read_text())
    test = run.parts.test
    assert isinstance(test, Stream)
    assert 0.07 * N < found["n"] == len(test) < 0.13 * N
    assert len(test) + len(run.parts.train) == N
    whole = test.subset(slice(None))
    with torch.no_grad():
        exact = float((run.model().posterior(whole.batch()).log_partition + whole.log_det()).mean())  # type: ignore[attr-defined]
    assert found["log_marginal"] == pytest.approx(exact, rel=1e-9)
    assert found["evaluated_on"] == "held-out data"
    # only the training rows have shaped the schema
    train = np.concatenate(
        [raw.values for raw in run.config.data.rows().split(0.1, run.parts.train.rows.seed)[0].blocks()]
    )
    np.testing.assert_allclose(run.schema.shift, np.nanmean(train, 0), rtol=1e-12)
    command("encode", tmp_path / "r", "--out", tmp_path / "codes.csv")
    assert len((tmp_path / "codes.csv").read_text().splitlines()) == 1 + len(test)
    whole_file = files[name].read_bytes()
    middle = len(whole_file) // 2
    files[name].write_bytes(whole_file[:middle] + bytes([whole_file[middle] ^ 1]) + whole_file[middle + 1 :])
    try:
        with pytest.raises(RunError, match="has changed"):
            _ = Run.open(tmp_path / "r").parts
    finally:
        files[name].write_bytes(whole_file)


def test_large_files_are_streamed_unasked(files, tmp_path, monkeypatch, capsys):
    assert not is_large(str(files["npy"]))
    monkeypatch.setattr("latentia.runs.config.LARGE", 1000)
    assert is_large(str(files["npy"]))
    assert not is_large("digits")
    words = ["fit", "--model", "GaussianMixture", "--data", files["npy"], "--model.components", 2]
    words += ["--learner.steps", 2, "--evaluation", "false"]
    command(*words, "--out", tmp_path / "a")
    assert Run.open(tmp_path / "a").config.data.stream
    command(*words, "--stream", "false", "--out", tmp_path / "b")
    assert not Run.open(tmp_path / "b").config.data.stream
    with pytest.raises(SystemExit) as left:
        cli.main([*map(str, words[:5]), "--learner", "Gradient", "--stream", "true", "--out", str(tmp_path / "c")])
    assert left.value.code == 2
    assert "Gradient learns from data in memory" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_other_data_that_are_large_are_evaluated_as_a_stream(files, tmp_path, monkeypatch, capsys):
    words = ["fit", "--model", "GaussianMixture", "--data", files["parquet"], "--weight", "n", "--model.components", 2]
    command(*words, "--learner.tol", 1e-2, "--evaluation", "false", "--out", tmp_path / "r")
    found = []
    for large in (2**30, 1000):
        monkeypatch.setattr("latentia.runs.config.LARGE", large)
        monkeypatch.setattr("latentia.measure.evaluation.SAMPLE", large)
        capsys.readouterr()
        command("evaluate", tmp_path / "r", "--data", files["parquet"], "--weight", "n", "--json")
        found.append(json.loads(capsys.readouterr().out))
    assert "random sample" in found[1]["verdict"]
    assert "random sample" not in found[0]["verdict"]
    assert found[1]["log_marginal"] == pytest.approx(found[0]["log_marginal"], rel=1e-10)


@pytest.mark.slow
def test_memory_stays_flat_as_the_data_grow_tenfold(tmp_path):
    script = ROOT / "benchmarks" / "memory.py"
    words = ["--megabytes", "50", "500", "--out", tmp_path / "memory.json"]
    subprocess.run([sys.executable, str(script), *map(str, words)], check=True)
    fits = json.loads((tmp_path / "memory.json").read_text())["fits"]
    peak = {(fit["file"], fit["stream"], fit["megabytes"]): fit["peak_megabytes"] for fit in fits}
    for file in (".npy", ".parquet"):
        assert peak[file, True, 500] < peak[file, True, 50] + 50
        assert peak[file, False, 500] > peak[file, False, 50] + 500  # so that the measure can tell


# ------------------------------------------------------------------------------------------------- chunk by chunk


def test_equal_chunks_at_power_1_are_one_pass_over_all():
    """With one component z is known, so that the mean of the chunks' statistics is that of all data."""
    x = (
        torch.randn(600, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        @ torch.ones(3, 3).tril().double()
    )
    online = Online(model := GaussianMixture(3, 1).double(), power=1.0)
    for chunk in x.split(100):
        online.partial_fit(load(chunk))
    assert torch.allclose(model.means[0], x.mean(0), atol=1e-12)
    assert torch.allclose(model.covariances[0], x.T.cov(correction=0), atol=1e-10)
    assert (online.chunks, online.weight) == (6, 600.0)


@pytest.fixture(scope="module")
def sentences() -> tuple[Dataset, Dataset]:
    data = load("sentences", min_count=3)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return data.subset(order[400:]), data.subset(order[:400])


def per_sentence(model: HMM, data: Dataset) -> float:
    with torch.no_grad():
        return float(model.posterior(data.batch()).log_partition.mean())


def test_a_stream_of_sentences_comes_near_what_em_finds(sentences):
    train, test = sentences
    symbols = train.schema.levels

    def hmm() -> HMM:
        return HMM(symbols=symbols, states=4).double()

    EM(tol=1e-3).fit(by_batch := hmm(), train)
    online = Online(by_chunks := hmm(), power=0.6)
    first = [online.partial_fit(train.subset(part)) for part in torch.arange(len(train)).split(100)]
    once = per_sentence(by_chunks, test)
    assert sum(first[-5:]) / 5 > sum(first[1:6]) / 5  # on sentences that it has not seen before
    for _ in range(14):
        for part in torch.arange(len(train)).split(100):
            online.partial_fit(train.subset(part))
    EM(tol=1e-4).fit(by_few := hmm(), train.subset(slice(0, 100)))
    best, few, near = (per_sentence(model, test) for model in (by_batch, by_few, by_chunks))
    assert once > few + 1
    # whichever maximum each has found: most of the way from what a hundred sentences teach to what all do
    assert near > best - 0.3 * (best - few)


def test_online_goes_on_where_it_was_saved(files, tmp_path):
    chunks = list(Stream.open(files["npy"], scale="standard").chunks(400))
    through = Online(GaussianMixture(3, 3).double(), power=0.8, seed=4)
    values = [through.partial_fit(chunk) for chunk in chunks]
    first = Online(GaussianMixture(3, 3).double(), power=0.8, seed=4)
    for chunk in chunks[:3]:
        first.partial_fit(chunk)
    first.save(tmp_path / "online.safetensors")
    again = Online(GaussianMixture(3, 3).double())
    again.load(tmp_path / "online.safetensors")
    assert [again.partial_fit(chunk) for chunk in chunks[3:]] == values[3:]
    for key, value in through.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key])
    with pytest.raises(RunError, match="no state of this model"):
        Online(GaussianMixture(2, 3).double()).load(tmp_path / "online.safetensors")


def test_online_weights_are_repetitions(values):
    x = torch.from_numpy(np.nan_to_num(values / np.nanstd(values, 0)))[:300]
    count = torch.randint(0, 3, (300,), generator=torch.Generator().manual_seed(0))
    start = GaussianMixture(3, 2).double()
    start.start(load(x).batch(), torch.Generator().manual_seed(0))
    ends = []
    for data in (load(x, weight=count.double().numpy()), load(x.repeat_interleave(count, 0))):
        model = GaussianMixture(3, 2).double()
        model.load_state_dict(start.state_dict())
        online = Online(model, fresh=False)
        ends.append((online.partial_fit(data), online.partial_fit(data), model.means.detach()))
    assert ends[0][:2] == pytest.approx(ends[1][:2], rel=1e-10)
    assert torch.allclose(ends[0][2], ends[1][2], atol=1e-10)


@pytest.mark.parametrize("name", [name for name, tiny in all_models().items() if isinstance(tiny(0)[0], EMModel)])
def test_online_learns_every_model_that_em_learns(name):
    model, batch = all_models()[name](0)
    online = Online(model, passes=2)
    values = [online.partial_fit(as_dataset(batch)) for _ in range(6)]  # type: ignore[arg-type]
    assert all(map(math.isfinite, values))
    assert values[-1] > values[0]
    assert all(bool(value.isfinite().all()) for key, value in model.state_dict().items() if key != "emissions.visits")


def test_online_refuses_what_it_cannot_do(files):
    with pytest.raises(CapabilityError, match="make VAE an EMModel"):
        Online(VAE((3,), latent=1))
    for options in ({"power": 0.5}, {"power": 1.1}, {"passes": 0}):
        with pytest.raises(OptionError):
            Online(GaussianMixture(3, 2).double(), **options)
    with pytest.raises(DataError, match="every weight is 0"):
        Online(GaussianMixture(1, 2).double()).partial_fit(
            Dataset(
                *load(np.ones((4, 1))).batch()[:2], load(np.array([0.5, 1.5])).schema, weight=torch.zeros(4).double()
            )
        )


def test_survey_reads_no_schema_from_absent_rows(tmp_path):
    pd.DataFrame({"a": [1.0, 2.0, 1e9], "n": [1, 1, 0]}).to_parquet(tmp_path / "n.parquet")
    schema = survey(Rows.open(tmp_path / "n.parquet", weight="n"), scale="standard")
    assert (schema.shift, schema.scale) == ((1.5,), (0.5,))
    pd.DataFrame({"a": [1.0], "n": [0]}).to_parquet(tmp_path / "z.parquet")
    with pytest.raises(DataError, match="every weight is 0"):
        survey(Rows.open(tmp_path / "z.parquet", weight="n"))


def test_read_tensors_of_online_are_plain(files, tmp_path):
    online = Online(GaussianMixture(3, 2).double())
    online.partial_fit(next(Stream.open(files["npy"], scale="standard").chunks(500)))
    online.save(tmp_path / "o.safetensors")
    tensors, state = read_tensors(tmp_path / "o.safetensors")
    assert state["chunks"] == 1
    assert float(tensors["mean.count"].sum()) == pytest.approx(1.0)
