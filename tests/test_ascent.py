"""One loop of ascent, and its rules of stepping."""

import pytest
import torch

from latentia.inference.ascent import Adam, adam_of_torch, ascend, clipped, freed, slopes_at


def climb(step, point, steps):
    """Up -(a - 1)^2 - 3 (b - 1)^2, whose top is at 1."""

    def slopes(at):
        with torch.enable_grad():
            free = freed(at)
            return slopes_at(free, -(free["a"] - 1).square().sum() - 3 * (free["b"] - 1).square().sum())

    return ascend(point, slopes, step, steps)


@pytest.fixture
def start():
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 2), "b": (3, 2, 2)}
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def test_our_adam_takes_the_steps_of_torchs(start):
    moved = freed({name: part.clone() for name, part in start.items()})  # it goes in place
    with torch.no_grad():
        ours = climb(Adam(0.1, 20, {}), start, 20)
        theirs = climb(adam_of_torch(moved, 0.1, 20), moved, 20)
    for name, part in ours.items():
        torch.testing.assert_close(part, theirs[name], rtol=1e-6, atol=1e-6)
        assert (part - 1).norm() < (start[name] - 1).norm()


def test_pace_slows_what_it_names(start):
    still = climb(Adam(0.1, 1, {"a": 0.0, "b": 0.5}), start, 1)
    whole = climb(Adam(0.1, 1, {}), start, 1)
    assert torch.equal(still["a"], start["a"])
    torch.testing.assert_close(2 * (still["b"] - start["b"]), whole["b"] - start["b"])


def test_a_clipped_step_is_no_longer_than_said_for_each_datum(start):
    found = climb(clipped(0.5, 2.0), start, 1)
    moves = torch.cat([(found[name] - start[name]).flatten(1) for name in start], 1).norm(dim=1)
    slope = torch.cat([2 * (1 - start["a"]), 6 * (1 - start["b"]).flatten(1)], 1).norm(dim=1)
    assert (slope > 2).any()
    torch.testing.assert_close(moves, 0.5 * slope.clamp(max=2.0))


def test_no_steps_give_the_start(start):
    assert climb(clipped(0.5, 2.0), start, 0) is start
