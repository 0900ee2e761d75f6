# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Codes of real data: their length beside the model's bound and beside general compressors, and where the time goes.

    python benchmarks/codec.py --minutes 15
    python benchmarks/codec.py --only vae --run runs/mnist     # a run that `latentia fit` made, on data like these

    vae       10,000 test images of the fixed binarized MNIST (Larochelle and Murray 2011), one layer of latents, by
              bits-back, and by its importance-sampled form
    ladder    the same with two layers, by Bit-Swap
    words     the test sentences of the Penn Treebank, by a language model, each with its end
    digits    scikit-learn's digits as a table of 64 categories of 17 values, by a mixture, half of them held out
    coder     Bernoullis with a probability each: this library's kernel beside constriction

`--minutes` is how long the networks are fitted, all together; what they would reach in more is not told. Everything is
decoded again and compared. Times are of the processor, as a machine may be busy. The model's own passes are one of the
encoder and one of the decoder for each datum, in the blocks and on the one thread that a codec has. Published for the
images: BB-ANS 0.19, gzip 0.33, WebP 0.44 bits a pixel (Townsend et al. 2019, table 2). The result goes to
benchmarks/results/codec*.json, with the minutes in its name.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nll import RESULTS, written
from scipy.io import loadmat

from latentia.codec import general
from latentia.codec.factors import Bits
from latentia.codec.message import BLOCK
from latentia.codec.stack import Stack
from latentia.codec.steady import steady
from latentia.data import Dataset, load
from latentia.distributions.joint import draw
from latentia.evaluate import exact_log_marginals
from latentia.learners import EM, Gradient
from latentia.model import LatentVariableModel
from latentia.models import VAE, LadderVAE, LanguageModel, MixtureOfCategoricals
from latentia.objectives import elbo, exact, iwae
from latentia.runs.saved import load_model
from latentia.tasks import compress, decompress

SHARES = {"vae": 0.45, "ladder": 0.3, "words": 0.25}
"""Of the minutes."""


def main() -> None:
    options = _options()
    wanted = options.only or ["coder", "digits", "vae", "ladder", "words"]
    minutes = options.minutes / max(sum(SHARES.get(name, 0.0) for name in wanted), 1e-9)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "coder": coders,
        "digits": digits,
        "vae": lambda: images(options, "vae", minutes * SHARES["vae"]),
        "ladder": lambda: images(options, "ladder", minutes * SHARES["ladder"]),
        "words": lambda: words(options, minutes * SHARES["words"]),
    }
    result: dict[str, Any] = {"minutes": options.minutes, "threads_of_fit": torch.get_num_threads()}
    for name in wanted:
        print(f"{name}", flush=True)
        result[name] = parts[name]()
    said = [("minutes", f"{options.minutes:g}", "15"), ("sampled", options.sampled, 10_000)]
    name = "_".join(
        ["codec", *(options.only or []), *(f"{name}-{value}" for name, value, usual in said if value != usual)]
    )
    print(written(name, result, Path(options.out)))


def images(options: argparse.Namespace, name: str, minutes: float) -> dict[str, Any]:
    folder = Path(options.data) / "binarized_mnist"
    if not folder.is_dir():
        sys.exit(f"{folder} is not here: name the folder that it is in with --data")
    train, test = (_images(folder, part) for part in ("train", "test"))
    test = test.subset(slice(0, options.images))
    model: Any = None if options.run is None else load_model(options.run)
    seconds = 0.0
    if model is None:
        torch.manual_seed(0)
        model = VAE((28, 28), latent=40) if name == "vae" else LadderVAE((28, 28), latents=(40, 20))
        seconds = _fitted(model, train, minutes, elbo, batch_size=100, lr=2e-3)
    found = {"fit_seconds": seconds, "bits_back": _coded(model, test, _bound(model, test, 1))}
    if name == "vae" and options.samples > 1:
        # like digits are together in the file
        some = test.subset(torch.linspace(0, len(test) - 1, min(options.sampled, len(test))).long())
        found["samples"] = options.samples
        found["sampled_images"] = len(some)
        found["sampled"] = _coded(model, some, _bound(model, some, options.samples), samples=options.samples)
    return found | {"general": _general(test)}


def words(options: argparse.Namespace, minutes: float) -> dict[str, Any]:
    folder = Path(options.data) / "ptb"
    train = load(folder / "ptb.train.txt", kind="text", ends=True)
    test = load(folder / "ptb.test.txt", schema=train.schema)
    torch.manual_seed(0)
    model = LanguageModel(train.schema.levels or 0, train.schema.end, embedding=128, hidden=128, dropout=0.2)
    seconds = _fitted(model, train, minutes, exact, batch_size=32, lr=3e-3)
    with torch.no_grad():
        bits = -float(exact_log_marginals(model.eval(), test).sum()) / math.log(2)
    return {"fit_seconds": seconds, "direct": _coded(model, test, bits), "general": _general(test)}


def digits() -> dict[str, Any]:
    x = torch.from_numpy(np.asarray(load("digits").decoded())).round().long().flatten(1)
    levels = x.amax(0) + 1
    train, test = x[::2], x[1::2]
    schema = load(x.numpy(), values="levels", kind="table").schema
    model = MixtureOfCategoricals([int(level) for level in levels], 64, components=20, smoothing=0.1).double()
    EM(steps=100, restarts=2, progress=False).fit(model, Dataset(train, None, schema))
    data = Dataset(test, None, schema, rows=torch.arange(1, len(test) + 1))
    bits = -float(exact_log_marginals(model, data).detach().sum()) / math.log(2)
    return {"direct": _coded(model, data, bits), "general": _general(data)}


def coders(count: int = 2_000_000) -> dict[str, float]:
    """Millions of symbols a second, the best of three."""
    draw = np.random.default_rng(0)
    probs = draw.beta(0.3, 0.3, count)
    x = draw.random(count) < probs
    values, factor, found = x.astype(np.int64), Bits(torch.from_numpy(probs)), {}
    with _timer() as spent:
        for _ in range(3):
            stack, begun = Stack(), sum(spent)
            factor.slots(values).push(stack)
            pushed = sum(spent) - begun
            factor.pop(stack)
            _best(found, {"push": count / pushed / 1e6, "pop": count / (sum(spent) - begun - pushed) / 1e6})
    import constriction

    model = constriction.stream.model.Bernoulli(perfect=False)
    for _ in range(3):
        theirs, begun = constriction.stream.stack.AnsCoder(), time.process_time()
        theirs.encode_reverse(x.astype(np.int32), model, probs)
        pushed = time.process_time() - begun
        theirs.decode(model, probs)
        rates = {"constriction_push": count / pushed / 1e6}
        _best(found, rates | {"constriction_pop": count / (time.process_time() - begun - pushed) / 1e6})
    print("  " + ", ".join(f"{name} {rate:.1f} M/s" for name, rate in found.items()), flush=True)
    return found


def _best(found: dict[str, float], rates: dict[str, float]) -> None:
    for name, rate in rates.items():
        found[name] = round(max(rate, found.get(name, 0.0)), 1)


def _coded(model: LatentVariableModel, data: Dataset, bound: float, samples: int = 1) -> dict[str, Any]:
    """Lengths and times of the code of the data, which are decoded again."""
    compress(model, data.subset(slice(0, 2)), samples=samples)  # compiled by now
    with _timer() as spent:
        begun = time.process_time()
        made = compress(model, data, samples=samples)
        encoding, pushed = time.process_time() - begun, sum(spent)
        begun = time.process_time()
        back = decompress(model, made.file)
        decoding, popped = time.process_time() - begun, sum(spent) - pushed
    if not torch.equal(back.x, data.x):
        sys.exit("the data that came back are others")
    passes = _passes(model, data)
    found = {
        "data": made.data,
        "values": made.values,
        "bits_a_value": made.bits_per_dim,
        "bound_a_value": bound / made.values,
        "length_above_bound": made.parts["all"] / bound - 1,
        "payload_above_parts_bits": made.net - made.parts["all"],
        "parts": {name: round(bits) for name, bits in made.parts.items()},
        "borrowed_bits": made.borrowed,
        "header_bits": made.header,
        "side_bits": made.side,
        "encoding_seconds": encoding,
        "decoding_seconds": decoding,
        "coder_share_of_encoding": pushed / encoding,
        "coder_share_of_decoding": popped / decoding,
        "decoding_over_encoding": decoding / encoding,
        "passes_seconds": passes,
        "encoding_over_passes": encoding / passes if passes else None,
    }
    print(
        f"  {made.data:,} data, {made.bits_per_dim:.4f} bits a value; bound {bound / made.values:.4f} "
        f"({found['length_above_bound']:+.2%}); borrowed {made.borrowed:,}, header {made.header:,} bits; encoding "
        f"{encoding:.2f} s (coder {pushed / encoding:.0%}), decoding {decoding:.2f} s, passes {passes:.2f} s",
        flush=True,
    )
    return found


def _passes(model: Any, data: Dataset) -> float:
    """Seconds of one pass of encoder and decoder; of an exact model of its posterior."""
    with steady(model):
        begun = time.process_time()
        for start in range(0, len(data), BLOCK):
            batch = data.batch(slice(start, start + BLOCK), model.anchor.dtype)
            q = model.posterior(batch)
            if isinstance(model, VAE):
                model.likelihood(draw(q, 1).z, batch.frame).probs  # noqa: B018  # logits are made when asked for
            else:
                q.log_partition  # noqa: B018
        return time.process_time() - begun


def _bound(model: LatentVariableModel, data: Dataset, samples: int) -> float:
    """Bits of the bound, the mean of several draws of each datum."""
    objective, turns = (elbo, 20) if samples == 1 else (partial(iwae, samples=samples), 2)
    total = 0.0
    with torch.no_grad():
        for _ in range(turns):
            for batch in data.batches(500, dtype=model.anchor.dtype):
                total += float(objective(model.eval(), batch).value.double().sum())
    return -total / turns / math.log(2)


def _general(data: Dataset) -> dict[str, float]:
    count = data.x.numel() if data.seen is None else int(data.seen.sum())
    found = {name: bits / count for name, bits in general.lengths(data).items()}
    print("  " + ", ".join(f"{name} {bits:.4f}" for name, bits in found.items()), flush=True)
    return found


def _fitted(model: LatentVariableModel, train: Dataset, minutes: float, objective: Any, **options: Any) -> float:
    """Fit for about so many minutes: a hundredth's time tells how many epochs there will be, or, where there is time
    for less than one, how much of the data. Seconds that it took."""
    begun = time.perf_counter()
    once = Gradient(objective, epochs=1, progress=False, patience=None, **options)
    some = train.subset(slice(0, len(train), 100))
    once.fit(model, some)  # the first steps take longer than all others
    known = time.perf_counter()
    once.fit(model, some)
    each = 100 * (time.perf_counter() - known)
    share = 60 * minutes / each
    epochs = max(int(share), 1)
    train = train if share >= 1 else train.subset(slice(0, max(int(share * len(train)), 1)))
    whole = Gradient(objective, epochs=epochs, schedule="cosine", progress=False, patience=None, **options)
    whole.fit(model, train)
    print(f"  fitted for {time.perf_counter() - begun:.0f} s, {epochs} epochs", flush=True)
    return round(time.perf_counter() - begun, 1)


@contextmanager
def _timer() -> Iterator[list[float]]:
    """Seconds that the coder itself took, call by call."""
    spent: list[float] = []
    before = Stack.push, Stack.pop

    def timed(function: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any) -> None:
            begun = time.process_time()
            function(*arguments)
            spent.append(time.process_time() - begun)

        return run

    Stack.push, Stack.pop = (timed(function) for function in before)  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        Stack.push, Stack.pop = before  # type: ignore[method-assign]


def _images(folder: Path, part: str) -> Dataset:
    x = loadmat(folder / f"binarized_mnist_{part}.mat")["X"].reshape(-1, 28, 28)
    return load(x, kind="image", values="binary")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder of binarized_mnist and ptb")
    parser.add_argument("--minutes", type=float, default=15.0, help="of fitting, all networks together")
    parser.add_argument("--run", help="a run, or a saved model, of images in the place of one that is fitted here")
    parser.add_argument("--only", nargs="+", choices=["coder", "digits", "vae", "ladder", "words"])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=20, help="of the importance-sampled form; 1 leaves it out")
    parser.add_argument("--sampled", type=int, default=10_000, help="images that are coded by it")
    parser.add_argument("--out", default=str(RESULTS))
    return parser.parse_args()


if __name__ == "__main__":
    main()
