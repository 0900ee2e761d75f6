# pyright: reportMissingImports=false, reportMissingModuleSource=false
"""Topic models against tomotopy and scikit-learn: the same documents, sweeps and estimator of held-out probability.

    python benchmarks/lda.py            sweeps, E-steps and held-out articles; some minutes
    python benchmarks/lda.py --quick    small sizes, seconds

Gibbs sampling: 10,000 documents of 100 words from 50 topics over 5,000 words, a learned concentration, one core. The
value printed is a figure of each one's own. How good the topics are is told by the second halves of 1,000 new
documents, by `document_completion` with the topics and the concentration that each has learned: those of the last sweep
for both, and for latentia the mean over the second half of its sweeps too, which is what the learner `Gibbs` keeps.

The E-step is that of Blei, Ng and Jordan (2003) from the same start, to the same tolerance: its value is the sum of
gamma squared, which shows that both do the same.

The articles are those of the Associated Press (`--articles ap.tgz`): a tenth is held out, and its probability is told
by document completion and from left to right with 5 particles.
"""

from __future__ import annotations

import argparse
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from side_by_side import cores, installed, race, save
from sklearn.decomposition import LatentDirichletAllocation
from torch import Tensor

from latentia.data import Dataset, as_dataset, load
from latentia.kernels import lda
from latentia.learners import EM, Gibbs
from latentia.model import Batch, Frame
from latentia.models import LDA
from latentia.tasks import document_completion

CONCENTRATION, SMOOTHING, ROUNDS = 0.1, 0.05, 5


def drawn(documents: int, length: int, topics: Tensor, seed: int) -> Batch:
    """Documents of an LDA with these topics."""
    model = LDA(topics.shape[1], len(topics), concentration=CONCENTRATION, length=length).double()
    model.emissions.logits.data = topics.clamp(min=1e-30).log()
    torch.manual_seed(seed)
    return Batch(model.generate(Frame(documents))[0].x)


def with_parameters(topics: Tensor, concentration: Tensor) -> LDA:
    """A model whose held-out probability is to be told, whoever has learned it."""
    model = LDA(topics.shape[1], len(topics)).double()
    model.settle({"topics": topics.double().clamp(min=1e-30), "concentration": concentration.double()})
    return model


# ---------------------------------------------------------------------------------------------------- Gibbs sampling


def tomotopy_model(data: Dataset, topics: int) -> Any:
    import tomotopy

    model = tomotopy.LDAModel(k=topics, alpha=CONCENTRATION, eta=SMOOTHING, seed=1)
    model.optim_interval = 10
    for row, seen in zip(data.batch().x, data.batch().observed, strict=True):
        model.add_doc([str(v) for v in row[seen].tolist()])
    model.train(0, workers=1)
    return model


def parameters_of(model: Any, symbols: int) -> tuple[Tensor, Tensor]:
    """The topics (K, V) and concentration (K,) of tomotopy, smoothed over all words and not those it has seen only."""
    size = torch.from_numpy(np.array(model.get_count_by_topics())).double().unsqueeze(1)
    probs = torch.from_numpy(np.stack([model.get_topic_word_dist(k) for k in range(model.k)])).double()
    topics = torch.full((model.k, symbols), SMOOTHING, dtype=torch.float64)
    topics[:, [int(word) for word in model.used_vocabs]] = probs * (size + probs.shape[1] * SMOOTHING)
    return topics / topics.sum(1, keepdim=True), torch.from_numpy(np.array(model.alpha)).double()


def sampling(documents: int, length: int, topics: int, symbols: int, sweeps: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    truth = torch.from_numpy(random.dirichlet(np.full(symbols, SMOOTHING), topics))
    train, test = drawn(documents, length, truth, 1), drawn(documents // 10, length, truth, 2)
    chain = LDA(symbols, topics, CONCENTRATION, smoothing=SMOOTHING).double().sampler(train, 1)

    kept: list[dict[str, Tensor]] = []

    def ours() -> float:
        for sweep in range(1, sweeps + 1):
            chain.sweep()
            if sweep % 10 == 0:
                chain.learn()
                kept.append(chain.estimate())
        return float(chain.topic_total.max())

    contenders: dict[str, Callable[[], float]] = {"latentia": ours}
    peer = tomotopy_model(as_dataset(train), topics) if installed("tomotopy") else None
    if peer is not None:

        def theirs() -> float:
            peer.train(sweeps, workers=1)
            return peer.ll_per_word

        contenders["tomotopy"] = theirs
    # compiled, or read from the cache, before it is timed
    LDA(3, 2).sampler(Batch(torch.zeros(1, 3).long()), 0).sweep()
    repeats = dict.fromkeys(contenders, ROUNDS)
    found = race(
        f"{sweeps} sweeps: {documents:,} x {length}, {topics} topics, {symbols:,} words", contenders, repeats, 1
    )
    for row in found["contenders"].values():
        row["million_token_sweeps_per_second"] = documents * length * sweeps / row["median"] / 1e6
    last = kept[len(kept) // 2 :]
    mean = tuple(sum(some[name] for some in last) / len(last) for name in ("topics", "concentration"))
    learned: dict[str, Any] = {"truth": (truth, torch.full((topics,), CONCENTRATION)), "latentia": mean}
    learned["latentia, last sweep alone"] = tuple(kept[-1].values())
    if peer is not None:
        learned["tomotopy"] = parameters_of(peer, symbols)
    for name, parameters in learned.items():
        rest = document_completion(with_parameters(*parameters), as_sequences(test))
        found.setdefault("held_out", {})[name] = {"log_prob": rest.log_prob, "perplexity": rest.perplexity}
        print(f"  {name:42} second halves {rest.log_prob:.4f} nats a word, perplexity {rest.perplexity:.1f}")
    return found


def as_sequences(batch: Batch) -> Dataset:
    return load(list(batch.x.numpy()), kind="sequence")


# ------------------------------------------------------------------------------------------------------- the E-step


def expectation(documents: int, length: int, topics: int, symbols: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    x = drawn(documents, length, torch.from_numpy(random.dirichlet(np.full(symbols, SMOOTHING), topics)), 1).x
    components = torch.from_numpy(random.gamma(100.0, 0.01, (topics, symbols)))
    beta = (components.digamma() - components.sum(1, keepdim=True).digamma()).exp()
    rows = np.repeat(np.arange(documents), length)
    counts = csr_matrix((np.ones(len(rows)), (rows, x.flatten().numpy())), shape=(documents, symbols))
    peer = LatentDirichletAllocation(topics, doc_topic_prior=CONCENTRATION, max_doc_update_iter=100, n_jobs=1)
    peer._init_latent_vars(symbols, dtype=np.float64)
    peer.exp_dirichlet_component_ = beta.numpy()
    prior, one = torch.full((topics,), CONCENTRATION, dtype=torch.float64), torch.ones(documents, topics)

    def ours() -> float:
        gamma, _, _ = lda.posterior(x, None, beta, prior, one[:, 0], steps=100, tol=1e-3, start=one)
        return float((gamma**2).sum())

    def theirs() -> float:
        return float((peer._e_step(counts, cal_sstats=True, random_init=False)[0] ** 2).sum())

    ours()
    contenders = {"latentia": ours, "scikit-learn": theirs}
    words = f"an E-step: {documents:,} x {length}, {topics} topics, {symbols:,} words"
    return race(words, contenders, dict.fromkeys(contenders, ROUNDS), 1)


# ------------------------------------------------------------------------------------------------------ the articles


def articles(archive: Path, topics: int, sweeps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
        data = load(Path(folder) / "ap" / "ap.dat")
    train, test = data.split(0.1)
    symbols = data.schema.levels
    assert symbols is not None
    rows = torch.arange(len(train)).unsqueeze(-1).expand_as(train.x)[train.batch().observed]
    words = train.x[train.batch().observed]
    counts = csr_matrix((np.ones(len(rows)), (rows.numpy(), words.numpy())), shape=(len(train), symbols))

    def fitted(learner: Any, **options: Any) -> tuple[Tensor, Tensor]:
        model = LDA(symbols, **{"topics": topics, **options}).double()
        learner.fit(model, train)
        return model.topics.detach(), model.concentration.detach()

    def sklearn() -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = {"doc_topic_prior": 0.1, "topic_word_prior": 0.1, "max_iter": 60, "random_state": 0}
        components = LatentDirichletAllocation(topics, learning_method="batch", **options).fit(counts).components_
        beta = torch.from_numpy(components / components.sum(1, keepdims=True))
        return beta, torch.full((topics,), 0.1)

    def tomotopy() -> tuple[Tensor, Tensor]:
        model = tomotopy_model(train, topics)
        model.train(sweeps, workers=1)
        return parameters_of(model, symbols)

    fits: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "Gibbs": lambda: fitted(Gibbs(sweeps, sweeps // 2, progress=False), smoothing=SMOOTHING),
        "Gibbs, last sweep alone": lambda: fitted(Gibbs(sweeps, sweeps - 1, progress=False), smoothing=SMOOTHING),
        "one topic": lambda: fitted(Gibbs(10, 0, progress=False), topics=1, smoothing=SMOOTHING),
        "variational EM": lambda: fitted(EM(60, progress=False), smoothing=0.1),
        "scikit-learn": sklearn,
    }
    if installed("tomotopy"):
        fits["tomotopy"] = tomotopy
    found: dict[str, Any] = {"work": f"{topics} topics of {len(train):,} articles", "held_out": {}}
    print(f"\n{found['work']}")
    for name, fit in fits.items():
        model = with_parameters(*fit())
        rest = document_completion(model, test)
        each = model.left_to_right(test.batch(), particles=5)
        tokens = int(test.batch().observed.sum())
        found["held_out"][name] = {
            "completion_perplexity": rest.perplexity,
            "left_to_right_perplexity": float((-each.sum() / tokens).exp()),
        }
        print(f"  {name:42} {found['held_out'][name]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes; writes nothing")
    parser.add_argument("--articles", default="../shared/data/lda_ap/ap.tgz", help="the archive of the articles")
    parsed = parser.parse_args()
    if parsed.quick:
        sampling(500, 50, 10, 500, 10)
        expectation(500, 50, 10, 500)
        return
    content: dict[str, Any] = {"races": [sampling(10_000, 100, 50, 5_000, 20), expectation(2_000, 100, 50, 5_000)]}
    archive = Path(parsed.articles)
    if archive.exists():
        with cores(1):
            content["articles"] = articles(archive, 50, 500)
    else:
        print(f"{archive} is not here: the articles are left out")
    save("lda", content, ("tomotopy", "scikit-learn"))


if __name__ == "__main__":
    main()
