"""The semi-supervised text VAE: its class against enumeration, and sentences written given it."""

from __future__ import annotations

import itertools
import json
from functools import partial

import pytest
import torch

from latentia.batch import Batch
from latentia.data import load
from latentia.distributions.decoding import Decoding
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.learners import Gradient
from latentia.models import SemiSupervisedTextVAE, TextVAE
from latentia.models.text.semi_supervised_text_vae import tiny
from latentia.networks.decoder import encoder
from latentia.objectives import elbo, supervised
from latentia.tasks import cluster, completed, generate, written
from latentia.testing.brute_force import enumerate_latents, nodes


def unlabelled(seed: int = 0) -> tuple[SemiSupervisedTextVAE, Batch]:
    """With q(z | x, y) not far from the prior, and wider: importance samples of it reach all of p(z | x, y)."""
    model, batch = tiny(seed)
    last = model.code[-1]
    with torch.no_grad():
        last.weight.mul_(0.3)  # type: ignore[operator, union-attr]
        last.bias.copy_(torch.tensor([0.0, 0.2]))  # type: ignore[operator, union-attr]
    return model, batch._replace(known=None)


def every_sentence() -> Batch:
    """All of at most three symbols out of three, the last of which ends them; those of three may go on."""
    found = [[*words, 2] for length in range(3) for words in itertools.product(range(2), repeat=length)]
    found += [list(words) for words in itertools.product(range(2), repeat=3)]
    lengths = torch.tensor([len(x) for x in found])
    return Batch.of(torch.tensor([x + [0] * (3 - len(x)) for x in found]), lengths=lengths)


@torch.no_grad()
def joint_with_class(model: SemiSupervisedTextVAE, batch: Batch) -> torch.Tensor:
    """log p(x, y) for each y, by quadrature over the prior of z, (B, K)."""
    z, log_weight = enumerate_latents(model, batch)
    terms = (log_weight + model.log_likelihood(batch, z)).unsqueeze(-1)
    return (terms + z["y"].log()).logsumexp(0)  # type: ignore[call-overload]


@torch.no_grad()
def labelled_bounds(model: SemiSupervisedTextVAE, batch: Batch) -> torch.Tensor:
    """L(x, y) for each y, by quadrature over q(z | x, y), (B, K)."""
    found = []
    for y in torch.eye(model.classes, dtype=torch.float64).unsqueeze(1).expand(-1, batch.size, -1):
        code = model.posterior(batch).conditional("z", {"y": y.unsqueeze(0)})
        z, log_weight = nodes(code)
        z, log_weight = z.reshape(-1, batch.size, 1), log_weight.reshape(-1, batch.size)
        log_q = code.log_prob(z.unsqueeze(1)).reshape(-1, batch.size)
        value = model.log_joint(batch, {"y": y.expand(len(z), -1, -1), "z": z}) - log_q
        found.append((log_weight.exp() * value).sum(0))
    return torch.stack(found, -1)


@torch.no_grad()
def test_all_sentences_sum_to_one_and_so_do_those_of_each_class():
    model, _ = unlabelled()
    joint = joint_with_class(model, every_sentence())
    torch.testing.assert_close(joint.exp().sum(0), model.weights, rtol=0, atol=1e-9)
    assert abs(float(model.weights[0]) - 0.5) > 0.02


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_the_bound_and_the_posterior_of_the_class_are_those_of_enumeration(seed):
    model, batch = unlabelled(seed)
    joint, bounds, q = joint_with_class(model, batch), labelled_bounds(model, batch), model.clusters(batch)
    exact = (q * (bounds - q.log())).sum(-1)
    assert (exact < joint.logsumexp(-1)).all()
    torch.manual_seed(0)
    # five standard errors of 20,000 draws whose deviation is 0.3
    assert torch.allclose(elbo(model, batch, samples=20_000).value, exact, atol=0.01)
    assert torch.allclose(model.class_probabilities(batch, 20_000), joint.softmax(-1), atol=0.01)


@torch.no_grad()
def test_labels_enter_as_what_is_known():
    model, batch = unlabelled()
    bounds, q = labelled_bounds(model, batch), model.clusters(batch)
    for k in range(2):
        known = batch._replace(known={"y": torch.eye(2)[k].double().expand(batch.size, -1)})
        torch.manual_seed(0)
        found = supervised(model, known, alpha=3.0, samples=20_000).value
        assert torch.allclose(found, bounds[:, k] + 3 * q[:, k].log(), atol=0.01)


@torch.no_grad()
def test_sentences_given_a_class_have_the_frequencies_that_it_says():
    model, _ = unlabelled(1)
    every = every_sentence()
    for k in range(2):
        drawn, z = generate(model, 20_000, known=torch.eye(2)[k : k + 1], seed=1)
        assert isinstance(z, dict)
        assert bool((z["y"].argmax(-1) == k).all())
        share = (joint_with_class(model, every)[:, k] - model.weights[k].log()).exp()
        same = (drawn.x.unsqueeze(1) == every.x).all(-1) & (drawn.ends.unsqueeze(1) == every.ends)
        error = (share * (1 - share) / 20_000).sqrt()
        assert bool(((same.double().mean(0) - share).abs() < 5 * error).all())


@torch.no_grad()
def test_a_sentence_that_is_begun_goes_on_as_its_class_says():
    model, _ = unlabelled(1)
    every = every_sentence()
    begin = every.x[:, 0] == 0
    for k in range(2):
        begun = Batch.of(torch.zeros(1, 1, dtype=torch.long), known=torch.eye(2)[k : k + 1].double())
        found = completed(model, begun, draws=4000, seed=2)
        share = joint_with_class(model, every)[begin, k].softmax(0)
        same = (found.x.unsqueeze(1) == every.x[begin]).all(-1) & (found.ends.unsqueeze(1) == every.ends[begin])
        error = (share * (1 - share) / 4000).sqrt()
        assert bool(((same.double().mean(0) - share).abs() < 5 * error).all())
        assert bool(same.any(-1).all())


def test_a_sentence_may_be_read_whatever_its_order():
    one = encoder("mean", 6, 3, embedding=4, hidden=8, layers=1).double()
    x, lengths = torch.tensor([[1, 2, 3, 0], [3, 1, 2, 5]]), torch.tensor([3, 3])
    found = one(x, torch.arange(4) < lengths.unsqueeze(-1), lengths)
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], one(x, torch.ones(2, 4, dtype=torch.bool), torch.tensor([4, 4]))[1])


GOOD, BAD = ("good", "great", "nice"), ("bad", "awful", "rude")


def reviews() -> list[tuple[str, str]]:
    """150 sentences, one in five with its class."""
    found = []
    for i in range(150):
        words, thing = (GOOD, BAD)[i % 2], ("food", "staff", "soup", "place")[i % 4]
        text = f"the {thing} was {words[i % 3]} and {words[i // 3 % 3]}"
        found.append((text, "" if i % 10 > 1 else ("positive", "negative")[i % 2]))
    return found


def test_few_labels_teach_the_class_and_sentences_of_it_are_written():
    texts = [text for text, _ in reviews()]
    data = load(texts, labels=[label for _, label in reviews()], ends=True)
    assert data.schema.classes == ("negative", "positive")
    symbols = len(data.schema.vocabulary)
    model = SemiSupervisedTextVAE(symbols, data.schema.end, latent=1, embedding=12, hidden=12, length=8)
    learner = Gradient(partial(supervised, alpha=10.0), epochs=25, batch_size=25, lr=0.03, progress=False)
    learner.fit(model, data.labelled(), seed=0)
    truth = torch.tensor([1, 0] * 75)
    assert float((cluster(model, load(texts, schema=data.schema)) == truth).double().mean()) > 0.95
    for k, own in enumerate((BAD, GOOD)):
        batch = written(model, 40, Decoding(temperature=0.3), known=torch.eye(2)[k : k + 1])
        lines = data.schema.decode(batch.x, None, batch.lengths)
        said = [word for line in lines for word in line if word in GOOD + BAD]
        assert len(said) > 40
        assert sum(word in own for word in said) > 0.9 * len(said)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_labels_come_from_a_column_or_a_field_that_is_partly_empty(tmp_path, kind):
    path = tmp_path / f"reviews.{kind}"
    if kind == "csv":
        path.write_text("text,sentiment\n" + "".join(f"{text},{label}\n" for text, label in reviews()))
        data = load(path, kind="text", labels="sentiment", ends=True)
    else:
        lines = []
        for i, (text, label) in enumerate(reviews()):
            # not known: no such field, null, or an empty text
            empty = ({}, {"sentiment": None}, {"sentiment": ""})[i % 3]
            lines.append(json.dumps({"text": text, **({"sentiment": label} if label else empty)}))
        path.write_text("\n".join(lines))
        data = load(path, key="text", labels="sentiment", ends=True)
    known = data.labelled().batch().known
    assert isinstance(known, torch.Tensor)
    assert known.sum(0).tolist() == [15, 15]
    assert known[:2].tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(("labels", "words"), [("class", "no line has a field 'class'"), ("text", "label")])
def test_a_field_that_holds_no_labels_is_refused(tmp_path, labels, words):
    path = tmp_path / "x.jsonl"
    path.write_text('{"words": ["a", "b"], "text": ["a"]}\n')
    with pytest.raises(DataError, match=words):
        load(path, key="words", labels=labels)


def test_what_makes_no_sense_is_refused():
    model, batch = tiny(0)
    with pytest.raises(DataError, match="one-hot"):
        model.check(batch._replace(known={"y": torch.zeros(5, 3)}))
    with pytest.raises(OptionError, match="classes"):
        SemiSupervisedTextVAE(3, 2, classes=0)
    with pytest.raises(OptionError, match="network='mean'"):
        SemiSupervisedTextVAE(3, 2, network="mean")  # type: ignore[arg-type]
    with pytest.raises(CapabilityError, match="no class"):
        written(TextVAE(3, 2, latent=1), 2, Decoding(), known=torch.eye(2))
