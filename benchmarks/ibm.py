"""IBM Models 1 and 2 and the alignment HMM on Multi30k: log p(x | source), a dictionary, and alignments drawn.

    python benchmarks/ibm.py --data ../shared/data/multi30k/pairs --out benchmarks/results

Trained on 29,000 pairs, x German and the source English, or the other way round with `--reverse`; evaluated on the
1,000 of test_2016_flickr. Words are lower case, split at what is no letter or digit; those seen fewer than
`--min_count` times are one word. Model 1 begins twice, at starts far apart, and ends at the same log p(x).
"""

import argparse
import gzip
import json
import re
import time
from pathlib import Path

import torch

from latentia.data import load
from latentia.learners import EM
from latentia.models import HMMAlignment, IBMModel1, IBMModel2


def sentences(path: Path) -> list[list[str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [re.findall(r"\w+|[^\w\s]", line.lower()) for line in file]


@torch.no_grad()
def per_word(model, data) -> float:
    """log p(x | source) in nats a word."""
    total = sum(float(model.posterior(batch).log_partition.sum()) for batch in data.batches(500, sort=True))
    return total / float(data.lengths.sum())


def dictionary(model, data, count: int) -> list[tuple[str, str, float]]:
    """The likeliest translation of each of the commonest source words, which lead their vocabulary after <unk>."""
    source, words = data.context.schema.vocabulary, data.schema.vocabulary
    best = model.lexicon.probs[1 : count + 1].max(-1)
    return [
        (source[i + 1], words[int(best.indices[i])], round(float(best.values[i]), 2))
        for i in range(min(count, len(source) - 1))
    ]


def draw(models, data, rows, path: Path) -> None:
    """p(z_t = j | x, source): a column of words x for each model, a row for each sentence."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(rows), len(models), figsize=(5 * len(models), 4.4 * len(rows)), squeeze=False)
    for i, row in enumerate(rows):
        batch = data.batch([row])
        words, source = data.subset([row]).decoded()[0], data.context.subset([row]).decoded()[0]
        for axis, (name, model) in zip(axes[i], models.items(), strict=True):
            share = model.alignments(batch)[0].detach()
            axis.imshow(share.T.numpy(), cmap="Blues", vmin=0, vmax=1)
            axis.set_xticks(range(len(words)), words, rotation=60, ha="right")
            axis.set_yticks(range(len(source) + 1), ["nowhere", *source])
            axis.set_title(name)
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/multi30k/pairs"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--min_count", type=int, default=3)
    parser.add_argument("--reverse", action="store_true")
    asked = parser.parse_args()
    target, source = ("en", "de") if asked.reverse else ("de", "en")
    files = {
        part: [sentences(asked.data / f"{name}.{side}.gz") for side in (target, source)]
        for part, name in (("train", "train"), ("test", "test_2016_flickr"))
    }
    train = load(files["train"][0], context=files["train"][1], min_count=asked.min_count)
    test = load(files["test"][0], context=files["test"][1], schema=train.schema)
    sizes = {name: train.schema.sizes()[name] for name in ("symbols", "source_symbols")}
    assert train.lengths is not None
    found = {"direction": f"{source} to {target}", "pairs": len(train), "words": int(train.lengths.sum()), **sizes}
    made = {"Model 1": IBMModel1, "Model 2": IBMModel2, "HMM": HMMAlignment}
    models, found["nats_a_word"] = {}, {}
    for name, kind in [*made.items(), ("Model 1, from another start", IBMModel1)]:
        model = kind(**sizes).double()
        start = time.perf_counter()
        if name.endswith("start"):
            noise = torch.randn(model.lexicon.logits.shape, generator=torch.Generator().manual_seed(5))
            model.lexicon.logits.data = noise.double().log_softmax(-1)
        learner = EM(steps=asked.steps, tol=0, fresh=not name.endswith("start"), progress=False)
        learner.fit(model, train, seed=0)
        seconds = time.perf_counter() - start
        found["nats_a_word"][name] = {
            "train": round(per_word(model, train), 4),
            "test": round(per_word(model, test), 4),
            "seconds_a_step": round(seconds / asked.steps, 2),
        }
        print(name, json.dumps(found["nats_a_word"][name]), flush=True)
        if name in made:
            models[name] = model
    found["tension"], found["null"] = float(models["Model 2"].tension.detach()), float(models["HMM"].null.detach())
    found["dictionary"] = dictionary(models["HMM"], train, 50)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / f"ibm_{source}_{target}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False))
    draw(models, test, [2, 7, 11], asked.out / f"ibm_{source}_{target}.png")
    print(json.dumps(found, ensure_ascii=False))


if __name__ == "__main__":
    main()
