"""Two stochastic layers on scikit-learn's digits, beside one: what each layer costs, and what each decides.

    python examples/digit_ladder.py [PICTURE.png]

Each row of the picture keeps one draw of the upper layer z2 and draws the lower one, z1, anew from column to column.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from latentia.data import load
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.model import Frame
from latentia.models import VAE, LadderVAE
from latentia.objectives import iwae

ROWS, COLUMNS = 6, 8


def main() -> None:
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "layers.png"
    train, held_out = load("digits", binarize="dynamic").split(0.1)
    ladder = LadderVAE((8, 8), latents=(16, 8), hidden=((100,), (50,)))
    for name, model in {"one layer": VAE((8, 8), latent=16, hidden=(100,)), "two layers": ladder}.items():
        objective = partial(iwae, samples=5, gradient="dreg")
        Gradient(objective, epochs=40, batch_size=50, lr=3e-3, schedule="cosine", progress=False).fit(model, train)
        found = evaluate(model, held_out, importance_samples=500)
        print(f"{name}: held-out log p(x) {found.log_marginal:.2f} ± {found.log_marginal_se:.2f} nats")
        for layer, part in (found.layers or {}).items():
            print(f"  {layer}: KL {part['kl']:.2f} nats, {part['active_units']} of {part['latent_units']} units active")
    kept, spread = decided(ladder)
    print(f"given z2, z1 still moves a pixel by {kept:.3f} on average; z2 and z1 together by {spread:.3f}")
    save(layers(ladder), picture)
    print(f"wrote {picture}")


@torch.no_grad()
def layers(model: LadderVAE, rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    """E[x | z], (rows, columns, 8, 8): a draw of z2 for each row, draws of z1 given it along the row."""
    torch.manual_seed(0)
    prior = model.prior(Frame(rows))
    upper = {"z2": prior.conditional("z2", {}).sample((1,)).expand(columns, -1, -1)}
    z = {**upper, "z1": prior.conditional("z1", upper).sample()}
    return model.likelihood(z, Frame(rows)).mean.transpose(0, 1)


def decided(model: LadderVAE) -> tuple[float, float]:
    """How far a pixel's probability is spread within a z2, and over all: mean standard deviations."""
    means = layers(model, rows=100, columns=20)
    return float(means.std(1).mean()), float(means.flatten(0, 1).std(0).mean())


def save(grey: torch.Tensor, path: Path) -> None:
    """(rows, columns, 8, 8) as one picture, dark on white, four times as large."""
    framed = torch.nn.functional.pad(grey, (1, 1, 1, 1), value=0.25)
    levels = (255 * (1 - framed.clamp(0, 1))).round().byte().transpose(1, 2).flatten(2).flatten(0, 1).numpy()
    Image.fromarray(levels).resize((4 * levels.shape[1], 4 * levels.shape[0]), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    main()
