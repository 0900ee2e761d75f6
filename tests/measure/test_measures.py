"""The list of measures, and how often a posterior is asked for to find them."""

from __future__ import annotations

import pytest
import torch

from latentia.cli.measuring import show_table
from latentia.data import load
from latentia.errors import OptionError
from latentia.evaluate import Evaluation, evaluate, measures
from latentia.learners import EM, Gradient
from latentia.measure.measures import FIGURES, PLAIN, check_comparable
from latentia.model import LatentVariableModel
from latentia.models import VAE, GaussianMixture, LadderVAE
from latentia.report.quality import evaluated


def counted(monkeypatch, model: LatentVariableModel) -> list[int]:
    """How many data each call of `posterior` is for."""
    sizes: list[int] = []
    posterior = type(model).posterior

    def noted(self, batch):
        sizes.append(batch.size)
        return posterior(self, batch)

    monkeypatch.setattr(type(model), "posterior", noted)
    return sizes


def few(n: int) -> torch.Tensor:
    return (torch.rand(n, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()


@pytest.mark.parametrize("kind", [VAE, LadderVAE])
def test_an_evaluation_asks_for_each_posterior_twice(monkeypatch, kind):
    """Once for what it says of z, once for the importance weights; and of a few data to see what they are like."""
    options = {"latents": (2, 1), "hidden": ((4,), (4,))} if kind is LadderVAE else {"latent": 2, "hidden": (4,)}
    model, data = kind((6,), **options), load(few(3000))
    sizes = counted(monkeypatch, model)
    evaluate(model, data, importance_samples=2)
    assert 2 * 3000 <= sum(sizes) <= 2 * 3000 + 20


def test_an_exact_model_is_asked_once(monkeypatch):
    model = GaussianMixture(features=6, components=2)
    data = load(few(3000) + 0.1 * torch.randn(3000, 6, generator=torch.Generator().manual_seed(1)))
    EM(steps=2, progress=False).fit(model, data)
    sizes = counted(monkeypatch, model)
    evaluate(model, data)
    assert 3000 <= sum(sizes) <= 3000 + 20


def test_a_step_asks_for_each_posterior_once(monkeypatch):
    model, data = VAE((6,), latent=2, hidden=(4,)), load(few(200))
    sizes = counted(monkeypatch, model)
    Gradient(epochs=3, batch_size=50, progress=False).fit(model, data)
    assert sum(sizes) == 3 * 200


def found() -> Evaluation:
    torch.manual_seed(0)
    return evaluate(VAE((6,), latent=2, hidden=(4,)), load(few(100)), importance_samples=50, naive=True)


def test_every_figure_has_a_name_a_unit_and_what_it_says():
    for measure in found().measures:
        assert all([measure.name, measure.says, measure.group]), measure
        assert measure.unit in ("nats", "nats in all", "bits", "units", "samples", "share", "")
        assert f"{measure.key}_se" not in PLAIN or measure.se is not None, measure.key


def test_what_is_measured_is_what_is_shown(capsys):
    """The list is that of the JSON, of the table and of the report; a figure that comes new is in all of them."""
    content = found().to_json()
    listed = measures(content)
    assert {one.key for one in listed} == {name for name in FIGURES if content[name] is not None}
    assert [one.value for one in listed] == [content[one.key] for one in listed]
    show_table(content)
    table = " ".join(capsys.readouterr().out.replace("│", " ").split())
    rows = evaluated(content)[0].content["rows"]
    for measure in listed:
        assert " ".join(measure.name.split()) in table
    assert [row[0] for row in rows] == [measure.name for measure in listed]


def test_groups_are_together():
    groups = [measure.group for measure in found().measures]
    assert groups == sorted(groups, key=groups.index)


def test_what_is_not_finite_is_listed_as_nothing():
    content = found().to_json() | {"log_marginal": None, "gain": None}
    by_key = {one.key: one for one in measures(content)}
    assert by_key["log_marginal"].value is None
    assert "gain" not in by_key


def test_figures_of_different_things_are_not_compared():
    texts = ["a b", "b a b"]
    plain, ended = (load(texts, ends=ends).schema.unit for ends in (False, True))
    check_comparable([plain, plain, None])
    with pytest.raises(OptionError, match="pays for that, and one that is given its length does not"):
        check_comparable([plain, ended])
    with pytest.raises(OptionError, match="different things"):
        check_comparable(["nats per row", "nats per image"])
