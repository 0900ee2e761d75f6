"""Checks that the same seed, file, dtype and device give the same answers."""

from __future__ import annotations

import safetensors.torch
import torch

from latentia.distributions.latents import each, flat, named
from latentia.model import ExactModel
from latentia.testing.answers import answers_of
from latentia.testing.expect import Tiny, frame_of, generated, require, require_equal, require_same_parameters, seeded
from latentia.testing.learning import em_step


def check_seed(tiny: Tiny, seed: int) -> None:
    """The same seed gives the same start, the same M-step and the same draws, whatever the global generator holds."""
    learned = []
    for noise in (1, 2):
        model, batch = tiny(seed)
        with seeded(noise):
            model.start(batch, torch.Generator().manual_seed(seed))
            if isinstance(model, ExactModel):
                em_step(model, batch)
        learned.append(model)
    require_same_parameters("same seed, same start", learned[0], learned[1], 0.0)
    for name, make in (
        ("generate", lambda m: generated(m, frame_of(batch, 4)).x),
        ("posterior", lambda m: m.posterior(batch).sample()),
    ):
        drawn = []
        for _ in range(2):
            with torch.no_grad(), seeded(seed):
                drawn.append(flat(make(tiny(seed)[0])))
        require_equal(f"same seed, same draws: {name}", drawn[0], drawn[1], 0.0)


def check_save(tiny: Tiny, seed: int) -> None:
    """What `state_dict` saves is all there is: loaded into another model, it gives the same log-joint."""
    model, batch = tiny(seed)
    model.start(batch, torch.Generator().manual_seed(seed))
    if isinstance(model, ExactModel):
        em_step(model, batch)
    other, _ = tiny(seed + 1)
    saved = safetensors.torch.save({name: value.contiguous() for name, value in model.state_dict().items()})
    other.load_state_dict(safetensors.torch.load(saved))
    with torch.no_grad(), seeded(seed):
        z = model.posterior(batch).sample((3,))
        answers = answers_of(other, batch, z)
        for name, value in answers_of(model, batch, z).items():
            require_equal(f"saved and loaded: {name}", answers[name], value, 0.0)


def check_moves(tiny: Tiny, seed: int) -> None:
    """float32, and another device where there is one, give nearly the same answers, in their own dtype."""
    _moved(tiny, seed, torch.device("cpu"), torch.float32, 1e-3)
    if torch.cuda.is_available():
        _moved(tiny, seed, torch.device("cuda"), torch.float64, 1e-6)
        _moved(tiny, seed, torch.device("cuda"), torch.float32, 1e-3)


def _moved(tiny: Tiny, seed: int, device: torch.device, dtype: torch.dtype, tolerance: float) -> None:
    model, batch = tiny(seed)
    with torch.no_grad(), seeded(seed):
        z = model.posterior(batch).sample((3,))
        here = answers_of(model, batch, z)
        model.to(device, dtype)
        batch = batch.to(model.anchor)
        there = answers_of(model, batch, each(lambda part: part.to(model.anchor), z))
        drawn = model.posterior(batch).sample()
    for part in named(drawn).values():
        require(part.dtype == dtype, f"draws follow the model to {dtype}: {part.dtype}")
    for name, value in there.items():
        require(value.dtype == dtype, f"moved to {dtype}: {name} is {value.dtype}")
        require_equal(f"moved to {device} and {dtype}: {name}", value.to(here[name]), here[name], tolerance)
