"""Plain modules that know no probability."""

from latentia.networks.mlp import MLP

__all__ = ["MLP"]
