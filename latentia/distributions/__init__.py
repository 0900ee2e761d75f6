"""What torch.distributions lacks: structured latents, their semirings, joints and divergences."""

from latentia.distributions.chain import Chain
from latentia.distributions.discrete import Bernoullis, Categoricals
from latentia.distributions.joint import Joint
from latentia.distributions.onehot import OneHot
from latentia.distributions.structured import Structured

__all__ = ["Bernoullis", "Categoricals", "Chain", "Joint", "OneHot", "Structured"]
