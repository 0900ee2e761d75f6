"""Handwritten digits as words of bits: the nearest words are of the same digit.

    python examples/digit_codes.py

A discrete VAE learns 16 bits for each image, by the leave-one-out score function. The bits are an index: images whose
words differ in few places are neighbours, and mostly show the same digit. Which gradient estimator suits the model is
measured at the end, on a few images.
"""

from functools import partial

import torch

from latentia import gradients
from latentia.data import load
from latentia.learners import Gradient
from latentia.models import DiscreteVAE
from latentia.objectives import elbo
from latentia.tasks import encode, hamming_neighbours


def main() -> None:
    torch.set_num_threads(1)  # for so few data a second thread costs more than it brings
    train, test = load("digits", binarize="fixed").split(0.2, seed=0)
    model = DiscreteVAE((8, 8), latents=(16,), hidden=((64,),))
    Gradient(partial(elbo, samples=4, estimator=gradients.rloo), epochs=60, lr=3e-3, progress=False).fit(model, train)

    words, queries = encode(model, train), encode(model, test)
    assert isinstance(words, torch.Tensor)
    assert isinstance(queries, torch.Tensor)
    near, distance = hamming_neighbours(words > 0.5, queries > 0.5, 5)
    assert train.labels is not None
    assert test.labels is not None
    same = torch.from_numpy(train.labels)[near] == torch.from_numpy(test.labels).unsqueeze(-1)
    print(f"the five nearest words are {distance.double().mean():.1f} of 16 bits away on average,")
    print(f"and {same.double().mean():.0%} of them are of the same digit")

    estimators = {name: gradients.ESTIMATORS[name]() for name in ("rloo", "disarm", "straight_through")}
    found = gradients.study(model, test.batch(slice(0, 3)), estimators, 400, objective=elbo, parameters=["encoder"])
    print("\ngradients of the encoder, against the exact one over all 65,536 words:")
    for row in found.rows:
        bias, noise = row.relative_bias, row.bias_se / found.norm
        print(f"{row.name:>18}: bias {bias:4.0%} of the gradient, {noise:.0%} by chance; variance {row.variance:.3g}")


if __name__ == "__main__":
    main()
