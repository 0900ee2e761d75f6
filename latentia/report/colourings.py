"""Grey images coloured in: the segments that a model finds, what it draws, its mean, and the truth."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latentia.data import Dataset
from latentia.data.colour import coloured, pictures
from latentia.model import LatentVariableModel
from latentia.report import pictures as grids
from latentia.report.panel import Panel
from latentia.tasks import generate
from latentia.tasks.common import using

DRAWS = 3
RADIUS, LIGHT = 70, (0.45, 0.75)
"""Of the colours that segments are painted in: their chroma, and the two greys that take turns."""


def colourings(model: LatentVariableModel, data: Dataset, seed: int, draws: int = DRAWS) -> dict[str, np.ndarray]:
    """Pictures of each grey image, by what they show, sRGB (N, H, W, 3) in [0, 1].

    Segments are those of the posterior's mode, which has seen the chroma: they are left out of a model whose z is none
    of K values for each pixel. The mean, E[(a, b) | grey], is left out of one without `probabilities(frame)`.

    Args:
        data: whose schema says that they are chroma, see `latentia.data.colour`.
        draws: from p(chroma | grey).

    Raises:
        DataError: other data.
    """
    grid, batch = data.schema.grid, data.batch(dtype=model.anchor.dtype)
    given = batch.frame.given()
    grey, points = given.x.double().numpy(), torch.from_numpy(grid.points)
    found = {"grey": pictures(grey, np.zeros((*grey.shape, 2)))}
    on_device = batch.to(model.anchor)
    with using(model, seed):
        z = getattr(model.posterior(on_device), "mode", None)
        probabilities = getattr(model, "probabilities", None)
        share = None if probabilities is None else probabilities(on_device.frame).double().cpu()
    if isinstance(z, Tensor) and z.shape[:-1] == batch.x.shape and z.shape[-1] > 1:
        found["segments"] = painted(z.argmax(-1).cpu().numpy(), z.shape[-1])
    for i in range(draws):
        drawn, _ = generate(model, batch.size, context=given, seed=seed + i)
        found[f"draw {i + 1}"] = coloured(grey, drawn.x.cpu().numpy(), grid)
    if share is not None:
        found["mean"] = pictures(grey, (share @ points).numpy())
    found["truth"] = coloured(grey, batch.x.numpy(), grid)
    return {name: part / 255 for name, part in found.items()}


def painted(segments: np.ndarray, count: int) -> np.ndarray:
    """sRGB bytes (..., 3) of segments 0..count - 1 (...), each in a colour of its own."""
    hue = np.arange(count) * 2 * np.pi / count
    wheel = RADIUS * np.stack([np.cos(hue), np.sin(hue)], -1)
    return pictures(np.resize(LIGHT, count)[segments], wheel[segments])


def panel(model: LatentVariableModel, data: Dataset, seed: int) -> Panel:
    """The pictures of a few data, a line for each thing that they show."""
    found = colourings(model, data, seed)
    rows = [{"name": "\n".join(found), "picture": grids.grid(np.stack(list(found.values())), 1.0)}]
    step, reach = data.schema.grid
    caption = (
        "What is given, what the model makes of it, and the truth. The mean of what a thing's colours may be is next "
        "to grey: judge by the draws, and by log p(x). "
        f"Chroma is on a grid of step {step:g} and reach {reach:g} in Lab."
    )
    if "segments" in found:
        caption += " Segments are those of the posterior's mode, which has seen the chroma."
    return Panel("pictures", rows, caption, "Colourings")
