"""Label maps without loss: a causal context coder, and few labelled pixels from which a local fill gives the rest."""

from latentia.segmentation.context import ContextCoder
from latentia.segmentation.files import read_label_map, write_label_map
from latentia.segmentation.sparse import Sparse, SparseCoder

__all__ = ["ContextCoder", "Sparse", "SparseCoder", "read_label_map", "write_label_map"]
