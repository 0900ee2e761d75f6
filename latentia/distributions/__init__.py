"""What torch.distributions lacks: structured latents, their semirings, joints and divergences."""

from latentia.distributions.alignment import LatentAlignment, Lattice, MonotoneAlignment
from latentia.distributions.chain import Chain
from latentia.distributions.joint import Joint
from latentia.distributions.onehot import OneHot
from latentia.distributions.structured import Structured

__all__ = ["Chain", "Joint", "LatentAlignment", "Lattice", "MonotoneAlignment", "OneHot", "Structured"]
