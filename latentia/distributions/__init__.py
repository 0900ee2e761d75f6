"""What torch.distributions lacks: structured latents, their semirings, joints and divergences."""

from latentia.distributions.alignment import LatentAlignment, Lattice, MonotoneAlignment
from latentia.distributions.brackets import Brackets
from latentia.distributions.chain import Chain
from latentia.distributions.dependencies import Dependencies
from latentia.distributions.discrete import Bernoullis, Categoricals
from latentia.distributions.joint import Joint
from latentia.distributions.onehot import OneHot
from latentia.distributions.segments import RowSegments, Segments
from latentia.distributions.structured import Structured
from latentia.distributions.tree import Tree

__all__ = [
    "Bernoullis",
    "Brackets",
    "Categoricals",
    "Chain",
    "Dependencies",
    "Joint",
    "LatentAlignment",
    "Lattice",
    "MonotoneAlignment",
    "OneHot",
    "RowSegments",
    "Segments",
    "Structured",
    "Tree",
]
