"""Two photographs coloured in by latent segments: half of their tiles to learn from, the others to be judged by.

    python examples/two_photographs.py [folder]        some seconds; with a folder, a picture is written there

The photographs are those that scikit-learn ships (China's palace, a flower; CC BY, see its documentation). Pixels are
symbols of a grid in the plane of (a, b) of CIE Lab, so that nats per pixel mean something: for a grid of this step.
"""

import sys
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from latentia.data.colour import ChromaGrid, pairs, pictures
from latentia.data.grids import sheet
from latentia.learners import Gradient
from latentia.models import LatentColorization
from latentia.objectives import exact

SIDE = 20
GRID = ChromaGrid(step=10, reach=80)


def tiles(photograph: np.ndarray) -> np.ndarray:
    """A photograph made small, as tiles of SIDE x SIDE pixels."""
    small = np.asarray(Image.fromarray(photograph).resize((160, 100), Image.Resampling.LANCZOS))
    apart = small.reshape(100 // SIDE, SIDE, 160 // SIDE, SIDE, 3)
    return apart.swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)


every = np.concatenate([tiles(photograph) for photograph in load_sample_images().images])
held = np.arange(len(every)) % 2 == 1
train, test = pairs(every[~held], GRID), pairs(every[held], GRID)
print(f"{len(train)} tiles of {SIDE} x {SIDE} to learn from, {len(test)} held out, {GRID.symbols} colours")


def learned(segments: int, coupling: Literal["none", "rows"]) -> LatentColorization:
    """A model of the first tiles; says what it makes of the others."""
    torch.manual_seed(0)
    model = LatentColorization(GRID.symbols, segments, coupling, channels=(8, 16), hidden=16)
    Gradient(objective=exact, epochs=15, batch_size=8, lr=0.01, schedule="cosine", progress=False).fit(model, train)
    with torch.no_grad():
        value = model.posterior(test.batch()).log_partition / SIDE**2
    print(
        f"{segments} segments, coupling {coupling}: log p(chroma | grey) = {float(value.mean()):.3f} ± "
        f"{float(value.std() / len(value) ** 0.5):.3f} nats per pixel"
    )
    return model


learned(1, "none")
learned(4, "none")
model = learned(4, "rows")

if len(sys.argv) > 1:
    batch = test.batch(slice(10, 18))
    with torch.no_grad():
        mean = model.probabilities(batch.frame).numpy() @ GRID.points
        drawn = GRID.points[model.generate(batch.frame)[0].x.numpy()]
    grey = batch.frame.given().x.numpy()
    lines = [pictures(grey, ab) / 255 for ab in (np.zeros_like(mean), mean, drawn, GRID.points[batch.x.numpy()])]
    path = Path(sys.argv[1]) / "two_photographs.png"
    path.write_bytes(sheet(np.stack(lines)))
    print(f"grey, mean, a draw and the truth of eight held-out tiles: {path}")
