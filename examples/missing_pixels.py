"""Digits with holes: each missing pixel gets a Bernoulli of its own, fitted together with q(z), one datum at a time.

    python examples/missing_pixels.py

A VAE learns from whole digits; then the middle half of held-out ones is hidden. Three ways to guess it: the pixel's
frequency, one pass through encoder and decoder with zeros in the holes, and mean field (`latentia.inference.missing`).
"""

import torch

from latentia.data import as_dataset, load
from latentia.evaluate import log_marginal
from latentia.inference.missing import mean_field
from latentia.learners import Gradient
from latentia.model import Batch
from latentia.models import VAE


def main() -> None:
    train, held_out = load("digits", binarize="dynamic").split(0.1)
    model = VAE(event_shape=(8, 8), latent=8, hidden=(128,))
    Gradient(epochs=40, lr=3e-3, schedule="cosine", progress=False).fit(model, train)

    truth = held_out.frozen(seed=0).batch()
    mask = torch.ones_like(truth.x, dtype=torch.bool)
    mask[:, 2:6] = False
    seen = Batch.of(truth.x, mask)
    torch.manual_seed(0)
    found = mean_field(model, seen, steps=150)
    with torch.no_grad():
        once = model.likelihood(model.posterior(seen).mean.unsqueeze(0), seen.frame).mean.squeeze(0)
    guesses = {
        "the pixel's frequency": train.x.mean(0).clamp(1e-3, 1 - 1e-3).expand_as(truth.x),
        "encoder and decoder once": once,
        "mean field": found.probability,
    }
    hidden = (~mask).sum(dtype=torch.float64) / truth.size
    print(f"{truth.size} held-out digits, {hidden:.0f} of 64 pixels hidden")
    for name, probability in guesses.items():
        nats = torch.where(mask, 0.0, torch.distributions.Bernoulli(probability).log_prob(truth.x)).sum() / truth.size
        wrong = ((probability > 0.5) != (truth.x > 0.5))[~mask].double().mean()
        print(f"  {name:26} {nats:7.2f} nats a digit for what is hidden, {100 * wrong:4.1f} % of it wrong")

    sampled = log_marginal(model, as_dataset(seen), importance_samples=1000)
    print(f"log p(x_observed) {sampled.value.mean():.2f}, by importance sampling with the pixels left out")
    print(f"  bound, mean field        {found.bound.value.mean():.2f}")
    print(f"  bound, pixels left out   {sampled.elbo.mean():.2f}, the encoder reading zeros in the holes")


if __name__ == "__main__":
    main()
