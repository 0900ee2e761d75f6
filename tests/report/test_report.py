"""The page: what is on it for each kind of model, and that nothing given to it breaks it or gets out of hand."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from latentia.data import load
from latentia.errors import CapabilityError
from latentia.models import HMM, VAE, GaussianMixture
from latentia.report import build
from latentia.report.words import end, number, spread, story, with_error

EVIL = "<script>alert('$x_{$')</script>"
FULL = {
    "log_marginal": -3.2, "log_marginal_se": 0.01, "log_marginal_mc_se": 0.002, "elbo": -3.5, "reconstruction": -3.0,
    "kl": 0.5, "mutual_information": 0.4, "active_units": 1, "n": 30, "units": "nats per row", "method":
    "importance sampling", "importance_samples": 100, "effective_sample_size": 40.0, "naive_log_marginal": None,
    "latent_units": 3, "kl_per_unit": [0.4, 0.05, 0.05], "verdict": "1 of 3 units active.", "evaluated_on": "test data",
    "seed": 3, "bits_per_dimension": 0.5, "something_new": 7.0,
}  # fmt: skip
EPOCHS = [
    {"epoch": i, "step": 9 * i, "bound": -4 + i / 10, "reconstruction": -3.0, "kl": 0.1 * i, "validation_bound": -4.1,
     "lr": 1e-3, "gradient_norm": 1.0, "seconds": 0.1} for i in range(1, 8)
]  # fmt: skip
STEPS = [
    {"restart": r, "step": s, "log_marginal": -5 + s / 9 - r, "change": None, "seconds": 0.1}
    for r in range(2)
    for s in range(6)
]


def page(model, data, **changes) -> str:
    arguments = {
        "title": "runs/one", "model": model, "options": {"latent": 3}, "history": EPOCHS, "evaluation": FULL,
        "train": data, "test": data, "environment": {"torch": "2.6"}, "command": "latentia fit",
        "on_training_data": False,
    }  # fmt: skip
    return build(**{**arguments, **changes})


def started(model, data):
    model.start(data.batch().to(model.anchor), torch.Generator().manual_seed(0))
    return model


def mixture():
    generator = np.random.default_rng(0)
    x = np.concatenate([generator.normal(0, 1, (20, 2)), generator.normal(6, 1, (20, 2))])
    x[3, 1] = np.nan
    data = load(x, scale="standard", labels=np.repeat(["a", "b"], 20))
    return started(GaussianMixture(features=2, components=2).double(), data), data


def hmm():
    data = load("sentences", min_count=3).subset(slice(0, 60))
    return started(HMM(symbols=data.schema.levels, states=3).double(), data), data


def vae():
    data = load("digits", binarize="dynamic").subset(slice(0, 40))
    return started(VAE(event_shape=(8, 8), latent=3, hidden=(8,)), data), data


@pytest.fixture(scope="module", params=[mixture, hmm, vae])
def html(request):
    history = EPOCHS if request.param is vae else STEPS
    return request.param.__name__, page(*request.param(), history=history)


WANTED = {
    "mixture": [
        "Clusters",
        "ellipses",
        "Samples against data",
        "Oddest rows",
        "label in each cluster",
        "EM step",
        "p(x) = log sum_k",
    ],
    "hmm": [
        "The words of each state",
        "most favoured",
        "Transitions",
        "Sentences drawn",
        "EM step",
        "Decoded",
        "<sub>",
    ],
    "vae": [
        "Units",
        "Map",
        "Samples",
        "Reconstructions",
        "Interpolations",
        "Traversals",
        "Completions",
        "Oddest and",
        "epoch",
        "a draw",
    ],
}
UNWANTED = {
    "mixture": ["Completions", "Transitions", "Interpolations"],
    "hmm": ["Clusters", "Completions", "Map", "Interpolations", "Samples against"],
    "vae": ["Clusters", "Transitions", "EM step"],
}


def test_each_model_has_its_sections(html):
    name, text = html
    for heading in ("The model", "How well", "Learning", "What the latents do", "What the model makes", "How it was"):
        assert f"<h2>{heading}" in text
    for words in WANTED[name]:
        assert words in text
    for words in UNWANTED[name]:
        assert f">{words}" not in text
    assert "could not be made" not in text


def test_the_page_stands_alone(html):
    _, text = html
    assert "://" not in text
    assert not re.search(r"<(script|link|iframe|object|embed|base)\b", text)
    assert not re.findall(r'(?:src|href)="(?!data:image/png|#)', text)
    assert "url(" not in text.replace("url(#", "")
    assert len(text) < 2e6


def test_nothing_is_named_twice(html):
    _, text = html
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    for reference in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text):
        assert "".join(reference) in ids


def test_every_figure_and_picture_has_a_name(html):
    _, text = html
    for drawn in re.findall(r"<svg[^>]*>", text):
        assert re.search(r'aria-label="[^"]{5,}"', drawn)
    assert not re.findall(r'<img(?![^>]*alt="[^"]*\w)[^>]*>', text)
    assert 'class="pictures plain"' not in text  # rows of pictures say what they are


def test_transitions_have_numbers_and_series_are_decoded():
    rng = np.random.default_rng(0)
    series = [np.cumsum(rng.normal(size=(30, 2)), 0) for _ in range(5)]
    data = load(series, scale="standard")
    model = started(HMM(features=2, states=3).double(), data)
    text = page(model, data, history=STEPS)
    figure = text[text.index("<h3>Transitions") : text.index("<h3>Decoded")]
    assert len(re.findall(r">\s*[01]\.\d\d\s*</text>", figure)) >= 9
    assert "state 0" in text[text.index("<h3>Decoded") :]
    assert "could not be made" not in text


def test_same_page_twice():
    model, data = vae()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert page(model, data) == page(model, data)
    assert torch.equal(state, torch.get_rng_state())


def test_the_model_is_described_and_not_the_few_data_held_out():
    """A mixture of 70 % and 30 %, and held-out data of the second cluster alone."""
    model, data = mixture()
    model.logits.data = torch.tensor([0.7, 0.3]).double().log()
    model.means.data = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    text = page(model, data, test=data.subset(slice(20, 40)))
    rows = [re.findall(r">([^<>]+)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]
    table = [row for row in rows if len(row) == 4 and row[1].endswith(" %")]
    assert [row[:2] for row in table] == [["0", "70.0 %"], ["1", "30.0 %"]]
    shift, scale = np.array(data.schema.shift), np.array(data.schema.scale)
    for row, mean in zip(table, (shift - scale, shift + scale), strict=True):
        assert [float(cell.split(" ")[0].replace("−", "-")) for cell in row[2:]] == pytest.approx(mean, rel=0.01)
    assert "the 20 held out" in text


def test_states_are_those_of_the_parameters():
    model, data = hmm()
    model.initial_logits.data = torch.tensor([0.0, 0.0, 60.0]).double()
    model.transition_logits.data = torch.tensor([[0.0, -60, -60], [-60, 0, -60], [-60, -60, 0]]).double()
    word = data.schema.vocabulary.index("the")
    model.emissions.logits.data[2] = -60.0
    model.emissions.logits.data[2, word] = 0.0
    # the other two states show words, too: the data would be said to be theirs
    text = page(model, data, test=data.subset(slice(0, 5)), history=STEPS)
    assert re.findall(r"<b>(\d)</b> <span class=\"share\">([^<]+)</span>", text)[0] == ("2", "100.0 %")


def test_what_costs_more_than_a_tenth_of_the_fit_is_left_out_and_said(monkeypatch):
    """Of images of 256 levels a step of the chains costs as much as an epoch of a few data."""
    x = np.random.default_rng(0).integers(0, 256, (30, 16, 16)).astype(np.uint8)
    data = load(x, kind="image", values="levels")
    model = VAE((16, 16), symbols=256, latent=2, hidden=(8,), likelihood="categorical")
    asked = []

    def complete(*_, sweeps, **__):
        asked.append(sweeps)
        raise CapabilityError("enough is known")

    monkeypatch.setattr("latentia.report.uses.complete", complete)
    text = page(model, data)
    assert not asked
    assert "Completions are left out, so that the report costs no more than a tenth of the fit" in text
    # 30 data, 7 epochs: the samples that 0.3 of the cheap passes pay for, each a quarter of one
    assert "importance samples, and not 64" in text
    page(model, data, history=EPOCHS * 50)
    assert asked
    assert 10 <= asked[0] < 100


def test_numbers_of_the_headline():
    text = page(*mixture())
    assert "−3.200 ± 0.010" in text
    assert "importance sampling, 100 samples each" in text
    assert "on test data" in text
    assert "something new" in text
    assert "1 of 3" in text


def test_training_data_are_called_so():
    assert "No data were held out" in page(*mixture(), on_training_data=True)
    assert "No data were held out" not in page(*mixture())


def test_hostile_words_stay_words():
    data = load(
        pd.DataFrame({EVIL: np.arange(12.0) ** 1.5, "$b": np.arange(12.0) % 5}), labels=np.array([EVIL, "$y^"] * 6)
    )
    model = started(GaussianMixture(features=2, components=2).double(), data)
    evaluation = {**FULL, "verdict": EVIL, "units": EVIL, EVIL: EVIL, "method": EVIL, "evaluated_on": EVIL}
    hostile = {"options": {EVIL: EVIL}, "environment": {EVIL: EVIL}, "evaluation": evaluation}
    text = page(model, data, title=EVIL, command=EVIL, history=STEPS, **hostile)
    assert "<script" not in text
    assert text.count("&lt;script") > 10


def test_hostile_vocabulary():
    data = load("sentences", min_count=3).subset(slice(0, 20))
    vocabulary = tuple(f"{EVIL}{i}" for i in range(data.schema.levels))
    data = replace(data, schema=replace(data.schema, vocabulary=vocabulary))
    text = page(started(HMM(symbols=data.schema.levels, states=2).double(), data), data, history=STEPS)
    assert "<script" not in text
    assert "&lt;script" in text


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -float("inf")])
def test_what_is_not_a_number_does_not_crash(value):
    numbers = {k: value for k, v in FULL.items() if not isinstance(v, str)}
    history = [dict.fromkeys(line, value) for line in EPOCHS]
    model, data = vae()
    text = page(model, data, evaluation={**FULL, **numbers}, history=history)
    text += page(*mixture(), evaluation={**FULL, "kl_per_unit": [0.4, value, 0.1]}, history=[*EPOCHS, *history])
    steps = [*STEPS, {"restart": 5, "step": 0, "log_marginal": value, "change": value, "seconds": value}]
    text += page(*mixture(), history=steps)
    assert number(value) in text


def test_nothing_at_all():
    text = page(*mixture(), evaluation={}, history=[], options={}, environment={})
    assert "<h2>How well" in text
    assert "<h2>Learning" not in text


def test_a_diverged_model_still_gets_its_page():
    model, data = vae()
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    assert "<h2>What the model makes" in page(model, data)


def test_other_kinds_of_data():
    generator = np.random.default_rng(0)
    vectors = load([generator.normal(size=(n, 2)) for n in (4, 6, 3)], scale="standard")
    text = page(started(HMM(features=2, states=2).double(), vectors), vectors, history=STEPS)
    assert "in each state" in text
    colour = load(generator.integers(0, 255, (12, 4, 4, 3)).astype(np.uint8), scale="auto")
    model = started(VAE(event_shape=(4, 4, 3), latent=2, hidden=(4,), likelihood="gaussian").double(), colour)
    assert "Completions" in page(model, colour)
    binary = load(generator.integers(0, 2, (30, 3)))
    assert "Samples against data" in page(started(VAE(event_shape=(3,), latent=1, hidden=(4,)), binary), binary)
    images = load(generator.random((12, 3, 3)), kind="image")
    model = started(GaussianMixture(features=9, components=2, covariance="diagonal").double(), images)
    assert "mean image of each cluster" in page(model, images)


def test_numbers_in_words():
    assert [number(v) for v in (None, 3, 1234567, -0.5, 1e-5, True, "a", float("nan"))] == [
        "–", "3", "1,234,567", "−0.5000", "1e−05", "yes", "a", "not a number",
    ]  # fmt: skip
    assert with_error(-12.3456, 0.0123) == "−12.346 ± 0.012"
    assert with_error(1234.5, 56.0) == "1,234 ± 56"
    assert with_error(1.5, None) == "1.500"


def test_story_tells_prose_from_formula():
    blocks = story(GaussianMixture(features=1))
    assert [block.formula for block in blocks] == [False, True, False]
    assert blocks[1].text.startswith("z ~ Categorical")


def test_the_spread_of_restarts():
    said = spread([-4.5, -4.1004, -4.1, -6.0])
    assert said == (
        "4 restarts ended at −4.100 (best), −4.300 (median) and −6.000 (worst) nats per datum, "
        "2 of them within 0.001 of the best"
    )
    assert "only one found it" in spread([-4.5, -4.1, -6.0])


def test_how_learning_ended_is_said():
    learned = {"stopped": "steps", "restarts": [-4.5, -4.1]}
    text = page(*mixture(), history=STEPS, learned=learned)
    assert "larger --learner.steps" in text
    assert "2 restarts ended at −4.100 (best)" in text
    assert "restarts ended" not in page(*mixture(), history=STEPS, learned={"stopped": "converged", "restarts": [-4.1]})
    assert end("something new") == "something new"


def test_the_restart_that_was_kept_is_the_best_with_its_prior():
    """By log p(x) alone restart 0 would be it."""
    kept = page(*mixture(), history=STEPS, learned={"restarts": [-5.0, -4.0]})
    assert "It ended at −5.444" in kept
    assert "It ended at −4.444" in page(*mixture(), history=STEPS)


def test_criteria_and_naive_sampling_in_the_table():
    told = {
        "aic": 20.5, "bic": 30.25, "free_parameters": 7, "criteria_on": "81 training data",
        "naive_log_marginal": -3.9, "naive_log_marginal_se": 0.2, "naive_log_marginal_mc_se": 0.25,
        "naive_effective_sample_size": 4.5,
    }  # fmt: skip
    text = page(*mixture(), evaluation={**FULL, **told})
    for words in (
        "−3.90 ± 0.20",
        "Naive sampling adds an error of 0.25",
        "AIC and BIC: of 81 training data",
        "4.500 of 100",
        ">30.25<",
    ):
        assert words in text


def test_the_page_of_a_text_vae_has_sentences_and_ways_between_them():
    from latentia.models.text import text_vae
    from latentia.report.uses import uses

    model, _ = text_vae.tiny(0)
    data = load(["a b", "b a a", "a", "b b"], ends=True)
    # the tiny model knows two words and the end, and no unknown one
    schema = replace(data.schema, vocabulary=("a", "b", "</s>"), levels=3)
    data = replace(data, x=(data.x - 1).clamp(min=0), schema=schema)
    panels = uses(model, data, 0)
    assert [panel.title for panel in panels] == ["Samples", "Homotopy", "Homotopy"]
    for panel in panels[1:]:
        assert len(panel.content) == 6
        assert set(" ".join(panel.content).split()) <= {"a", "b"}
