"""Handwritten digits as three words of sixteen: how many nats are in the words, and how many in the rest?

    python examples/digit_words.py

A vector-quantized VAE learns the words, then a model of the words alone; beside it one whose codes are a grid of
scalars, of which nothing is learned. Both bound log p(x), by the length of the words and that of x given them.
"""

import torch

from latentia.data import load
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.models import VectorQuantizedVAE
from latentia.report.codes import perplexity


def main() -> None:
    torch.set_num_threads(1)  # for so few data a second thread costs more than it brings
    train, test = load("digits", binarize="fixed").split(0.2, seed=0)
    for name, options in (("vq", {"codes": 16, "width": 4}), ("fsq", {"quantizer": "fsq", "levels": (4, 4)})):
        model = VectorQuantizedVAE((8, 8), places=3, hidden=(64,), prior_hidden=32, **options)  # type: ignore[arg-type]
        Gradient(epochs=30, lr=3e-3, progress=False).fit(model, train)
        model.freeze_codes()
        Gradient(epochs=10, lr=3e-3, fresh=False, progress=False).fit(model, train)
        found = evaluate(model, test, importance_samples=1)
        with torch.no_grad():
            count = torch.bincount(model.codes(test.batch()).flatten(), minlength=16)
        assert found.kl is not None
        assert found.reconstruction is not None
        words, rest = -found.kl, found.reconstruction
        print(f"{name:>4}: bound {found.elbo:.1f} nats: {words:.1f} of the words, {rest:.1f} of the rest;")
        print(f"      {int((count > 0).sum())} of 16 codes are used, perplexity {perplexity(count):.1f}")


if __name__ == "__main__":
    main()
