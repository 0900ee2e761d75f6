"""Digits in fewer bits: what two models make of the same images, beside gzip and its like.

    python examples/compressed_digits.py [where.png]

A mixture of Bernoullis codes each pixel by its probability given those before it; a VAE codes by bits-back, by one
sample and by ten. All held-out digits come back bit for bit. Where a name is given, a picture has the bits of each
pixel by the mixture: the border is free, and what costs is where digits differ.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from latentia.codec.general import lengths
from latentia.data import load
from latentia.data.grids import sheet
from latentia.learners import EM, Gradient
from latentia.models import VAE, MixtureOfBernoullis
from latentia.tasks import compress, decompress


def main() -> None:
    torch.set_num_threads(1)  # for so few data a second thread costs more than it brings
    train, test = load("digits", binarize="fixed").split(0.3)
    mixture = MixtureOfBernoullis((8, 8), components=40, smoothing=0.5).double()
    EM(restarts=2, steps=300, progress=False).fit(mixture, train, seed=0)
    vae = VAE((8, 8), latent=6, hidden=(100,))
    Gradient(epochs=80, batch_size=64, lr=2e-3, progress=False).fit(vae, train, seed=0)

    print(f"{len(test)} held-out digits of 8 x 8 pixels, black and white: bits a pixel")
    for name, bits in lengths(test).items():
        print(f"  {name:24} {bits / test.x.numel():.4f}")
    for name, model, samples in (("mixture", mixture, 1), ("VAE", vae, 1), ("VAE, ten samples", vae, 10)):
        made = compress(model, test, samples=samples)
        assert torch.equal(decompress(model, made.file).x, test.x)
        borrowed = f", {made.borrowed:,} bits borrowed" if made.borrowed else ""
        print(f"  {name:24} {made.bits_per_dim:.4f}{borrowed}")
    if len(sys.argv) > 1:
        bits = compress(mixture, test).content.columns.reshape(1, 1, 8, 8) / len(test)
        with open(sys.argv[1], "wb") as file:
            file.write(sheet(np.asarray(bits), float(bits.max())))


if __name__ == "__main__":
    main()
