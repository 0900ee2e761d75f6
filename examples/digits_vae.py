"""A variational autoencoder on scikit-learn's digits: fit it, measure it, complete the lower half of digits.

    python examples/digits_vae.py [PICTURE.png]

The picture has four rows: the digits, what the model was shown, and two draws of what it may have been.
"""

import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

from latentia.data import load
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.model import Batch
from latentia.models import VAE
from latentia.tasks import complete


def main() -> None:
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "completion.png"
    # every grey level is the probability of a 1, drawn anew at each step
    data = load("digits", binarize="dynamic")
    train, held_out = data.split(0.1)
    fit, validation = train.split(0.1)

    model = VAE(event_shape=(8, 8), latent=8, hidden=(128,))
    history = Gradient(epochs=60, lr=3e-3, schedule="cosine", progress=False).fit(model, fit, validation=validation)
    last = history.records[-1]
    print(f"{len(history.records)} epochs: bound {last['bound']:.2f} on the training data, KL {last['kl']:.2f}")

    found = evaluate(model, held_out, importance_samples=500)
    print(f"held out, {found.n} {found.units}")
    print(f"  log p(x) {found.log_marginal:.2f} ± {found.log_marginal_se:.2f} (K = {found.importance_samples})")
    print(f"  ELBO {found.elbo:.2f} = reconstruction {found.reconstruction:.2f} - KL {found.kl:.2f}")
    print(f"  {found.verdict}")

    batch = held_out.frozen(seed=0).batch(slice(0, 12))
    mask = torch.ones_like(batch.x, dtype=torch.bool)
    mask[:, 4:] = False
    seen = Batch.of(batch.x, mask)
    completion = complete(model, seen, draws=2)
    rows = [batch.x, torch.where(mask, batch.x, 0.5), *completion.draws]
    framed = [torch.nn.functional.pad(row, (1, 1, 1, 1), value=0.25) for row in rows]
    save(torch.cat([torch.cat(list(row), -1) for row in framed], -2), picture)
    print(f"wrote {picture}")


def save(grey: torch.Tensor, path: Path) -> None:
    """Dark on white, eight times as large."""
    levels = (255 * (1 - grey.clamp(0, 1))).round().byte().numpy()
    Image.fromarray(levels).resize((8 * levels.shape[1], 8 * levels.shape[0]), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    main()
