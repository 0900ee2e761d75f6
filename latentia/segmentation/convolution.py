"""A causal convolutional coder for label maps: each pixel's label given those around it that come before.

    log2 p(y) = sum_ij log2 p(y_ij | labels at N places before it, and which band of rows and of columns it lies in)

p is a small masked convolution, sums over the places and two more layers at each pixel, trained by gradient on maps.
Its weights are then rounded to fixed point, and all that an encoder or a decoder computes with them is whole numbers
(`latentia.kernels.label_network`): a file is read back bit for bit on any machine that has the same weights, which
`save` keeps. Training is in floating point, and not the same on two machines: keep the weights with the files.

    van den Oord, Kalchbrenner and Kavukcuoglu (2016), "Pixel recurrent neural networks", section 3 (masked
    convolutions); Mentzer et al. (2019), "Practical full resolution learned lossless image compression", section 3.4,
    for why both sides must compute the same numbers
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from decimal import Decimal, localcontext
from functools import cache
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from latentia.errors import DataError, OptionError
from latentia.kernels import label_network as kernel
from latentia.kernels import range_coder
from latentia.kernels.label_maps import SCALE
from latentia.segmentation.context import SIZE, MapCoder, buffer, check_labels, opened, trimmed
from latentia.tensors import read_tensors, write_tensors

BANDS = 16
"""Of rows, and of columns: where in the map a pixel lies."""
PLAIN = 16
"""Of the pixels whose neighbours all have one label one in so many is learned from, and counts as so many."""
BATCH = 2048
LARGEST, WIDEST = 2**17, 128
"""Weights in fixed point, and places and units of a layer, are no more: sums of 64 bits then cannot overflow."""
NAMES = ("offsets", "near", "down", "across", "second", "second_bias", "third")


def template(reach: int = 5, far: int = 12) -> list[tuple[int, int]]:
    """The places before a pixel that are at most `reach` steps away, the nearest first, and a few as far as `far`."""
    around = [(down, right) for down in range(-reach, 1) for right in range(-reach, reach + 1)]
    near = [place for place in around if place < (0, 0) and abs(place[0]) + abs(place[1]) <= reach]
    near.sort(key=lambda place: abs(place[0]) + abs(place[1]))
    rays = [(0, -1), (-1, 0), (-1, -1), (-1, 1)]
    return near + [(step * down, step * right) for step in (reach + 3, far) if step > reach for down, right in rays]


class Network(nn.Module):
    """The convolution in floating point: contexts (M, N + 2), of labels and bands, to logits (M, L)."""

    first: Tensor

    def __init__(self, places: int, labels: int, hidden: tuple[int, int]):
        super().__init__()
        sizes = [*[labels + 1] * places, BANDS, BANDS]
        self.register_buffer("first", torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)
        # a sum over the places, whose units begin as small as those of a linear layer would
        self.look = nn.EmbeddingBag(sum(sizes), hidden[0] + labels, mode="sum")
        nn.init.normal_(self.look.weight, std=len(sizes) ** -0.5)
        self.look.weight.data[:, hidden[0] :] = 0.0
        self.second = nn.Linear(*hidden)
        self.third = nn.Linear(hidden[1], labels, bias=False)

    def forward(self, contexts: Tensor) -> Tensor:
        seen = self.look(contexts + self.first)
        hidden = self.second.in_features
        return seen[:, hidden:] + self.third(self.second(seen[:, :hidden].relu()).relu())


class ConvolutionCoder(MapCoder):
    """Label maps to bytes and back, by a masked convolution that is trained on maps.

    Args:
        maps: of training, (N, H, W) whole numbers 0..labels - 1, or a list of (H, W).
        labels: L, at most 255.
        hidden: units of the first layer and of the second.
        neighbours: steps (down, right) to pixels that come before in raster order; None: those of `template`.
        epochs: passes over the training maps.
        lr: of Adam, falling to 0 by a cosine.
        seed: of all that is random.

    Raises:
        DataError: labels out of range, or no map.
        OptionError: neighbours that do not come before, or sizes below 1.
    """

    def __init__(
        self,
        maps: np.ndarray | Sequence[np.ndarray],
        labels: int,
        hidden: tuple[int, int] = (48, 32),
        neighbours: Sequence[tuple[int, int]] | None = None,
        epochs: int = 8,
        lr: float = 4e-3,
        seed: int = 0,
    ):
        places = template() if neighbours is None else list(neighbours)
        if not places or not all(place < (0, 0) for place in map(tuple, places)):
            raise OptionError(f"neighbours={neighbours}: each comes before its pixel, (0, -1) or (-1, any)")
        if not 1 < labels <= 255 or not 1 <= min(hidden) <= max(*hidden, len(places)) <= WIDEST or epochs < 1:
            raise OptionError(
                f"labels={labels}, hidden={hidden}, epochs={epochs}, {len(places)} neighbours: 2 to 255 labels, 1 to "
                f"{WIDEST} units of a layer and neighbours, 1 or more epochs"
            )
        checked = [check_labels(one, labels) for one in maps]
        if not checked:
            raise DataError("no map to learn from")
        offsets = np.array(places, np.int64)
        self._set({"offsets": offsets, **_rounded(_trained(checked, offsets, labels, hidden, epochs, lr, seed))})

    def _set(self, network: dict[str, np.ndarray]) -> None:
        self.network = tuple(np.ascontiguousarray(network[name], np.int64) for name in NAMES)
        self.labels = network["third"].shape[1]
        units, middle = network["near"].shape[2], network["third"].shape[0]
        self.room = tuple(np.empty(size, np.int64) for size in (units, middle, self.labels))

    def encode(self, labels: np.ndarray) -> bytes:
        """The bytes of a map (H, W). Raises `DataError` for labels that the coder does not know."""
        found = check_labels(labels, self.labels)
        bits = buffer(found)
        size = kernel.encode_map(found, self.network, falling(), *self.room, range_coder.begin(), bits)
        return SIZE.pack(*found.shape) + trimmed(bits, size)

    def decode(self, data: bytes) -> np.ndarray:
        """The map (H, W), bytes, that `encode` was given. Raises `DataError` where the bytes begin with no size."""
        shape, bits = opened(data)
        found = np.empty(shape, np.uint8)
        kernel.decode_map(found, self.network, falling(), *self.room, range_coder.begin(), bits)
        return found

    def save(self, path: str | os.PathLike) -> None:
        """Write the weights, whole numbers, as safetensors."""
        write_tensors(path, {name: torch.from_numpy(part) for name, part in zip(NAMES, self.network, strict=True)}, {})

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """The coder of a file that `save` wrote. Raises `RunError` for a damaged one, `DataError` for another's."""
        tensors, _ = read_tensors(path)
        network = {name: tensors[name].numpy() for name in NAMES if name in tensors}
        if not _fits(network):
            raise DataError(f"{path} holds no weights of a ConvolutionCoder")
        coder = cls.__new__(cls)
        coder._set(network)
        return coder


def _fits(network: dict[str, np.ndarray]) -> bool:
    """Whether these are a network's weights: a kernel reads wherever they point."""
    ranks = {"offsets": 2, "near": 3, "down": 2, "across": 2, "second": 2, "second_bias": 1, "third": 2}
    if any(name not in network or network[name].ndim != rank for name, rank in ranks.items()):
        return False
    places, sizes, units = network["near"].shape
    hidden, middle = network["second"].shape
    labels = network["third"].shape[1]
    shapes = {
        "offsets": (places, 2),
        "near": (places, labels + 1, hidden + labels),
        "down": (network["down"].shape[0], units),
        "across": (network["across"].shape[0], units),
        "second_bias": (middle,),
        "third": (middle, labels),
    }
    alike = all(network[name].shape == shape for name, shape in shapes.items())
    return (
        alike
        and min(len(network["down"]), len(network["across"]), sizes - 1) > 0
        and max(places, hidden, middle) <= WIDEST
        and all(tuple(place) < (0, 0) for place in network["offsets"].tolist())
        and all(np.abs(network[name]).max(initial=0) <= LARGEST for name in NAMES)
    )


@cache
def falling() -> np.ndarray:
    """Frequencies of labels whose logits lie 0, 1, 2 ... steps below the largest, each at least 1. By decimal
    arithmetic, whose exponential is rounded correctly: that of a processor need not be the same on another."""
    with localcontext() as context:
        context.prec = 30
        steps = range(16 * kernel.STEPS + 1)
        return np.array([int(SCALE * (Decimal(-step) / kernel.STEPS).exp()) + 1 for step in steps], np.int64)


def contexts(labels: np.ndarray, offsets: np.ndarray, count: int, where: np.ndarray) -> np.ndarray:
    """What the network sees of the pixels `where` (M,), numbers of pixels of a map (H, W) of `count` labels: (M, N + 2)
    bytes, the labels at the offsets, then the bands of its row and its column."""
    height, width = labels.shape
    far = int(np.abs(offsets).max(initial=1))
    around = np.pad(labels, ((far, 0), (far, far)), constant_values=count)
    i, j = np.divmod(where, width)
    seen = around[i[:, None] + far + offsets[:, 0], j[:, None] + far + offsets[:, 1]]
    return np.column_stack([seen, i * BANDS // height, j * BANDS // width]).astype(np.uint8)


def _examples(maps: list[np.ndarray], offsets: np.ndarray, labels: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Contexts (M, N + 2), labels (M,) and weights (M,): all pixels whose nearest neighbours have several labels, and a
    few of the others, which weigh more."""
    rng, parts = np.random.default_rng(seed), []
    nearest = np.abs(offsets).sum(1).argsort(kind="stable")[:12]
    for one in maps:
        near = contexts(one, offsets[nearest], labels, np.arange(one.size))[:, :-2]
        plain = (near == near[:, :1]).all(1) & (near[:, 0] == one.ravel())
        where = np.flatnonzero(~plain | (rng.random(one.size) < 1 / PLAIN))
        weight = np.where(plain[where], float(PLAIN), 1.0)
        parts.append((contexts(one, offsets, labels, where), one.ravel()[where], weight))
    seen, label, weight = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
    return seen, label.long(), weight.float()


def _trained(
    maps: list[np.ndarray], offsets: np.ndarray, labels: int, hidden: tuple[int, int], epochs: int, lr: float, seed: int
) -> Network:
    """The network that says most of the maps, by Adam on nats per pixel."""
    seen, label, weight = _examples(maps, offsets, labels, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(len(offsets), labels, hidden)
        optimizer = torch.optim.Adam(network.parameters(), lr)
        steps = epochs * -(-len(seen) // BATCH)
        falls = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(epochs):
            for part in torch.randperm(len(seen)).split(BATCH):
                loss = nn.functional.cross_entropy(network(seen[part].long()), label[part], reduction="none")
                optimizer.zero_grad()
                ((weight[part] * loss).sum() / weight[part].sum()).backward()
                optimizer.step()
                falls.step()
    return network


def _rounded(network: Network) -> dict[str, np.ndarray]:
    """The weights in fixed point, as the kernel has them."""

    def fixed(part: Tensor) -> np.ndarray:
        return (part.detach().double() * 2**kernel.BITS).round().clamp(-LARGEST, LARGEST).long().numpy()

    places: Any = len(network.first) - 2
    look = fixed(network.look.weight)
    labels = network.third.out_features
    near, down, across = np.split(look, [places * (labels + 1), len(look) - BANDS])
    return {
        "near": near.reshape(places, labels + 1, -1),
        "down": down,
        "across": across,
        "second": fixed(network.second.weight.mT),
        "second_bias": fixed(network.second.bias),
        "third": fixed(network.third.weight.mT),
    }
