"""Plain modules that know no probability."""

from latentia.networks.conv import ConvDecoder, ConvEncoder
from latentia.networks.mlp import MLP

__all__ = ["MLP", "ConvDecoder", "ConvEncoder"]
