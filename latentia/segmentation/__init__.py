"""Label maps without loss: by causal coders, a table or a convolution, or by few labelled pixels and a local fill."""

from latentia.segmentation.context import ContextCoder
from latentia.segmentation.convolution import ConvolutionCoder
from latentia.segmentation.files import read_label_map, read_label_maps, write_label_map
from latentia.segmentation.sparse import Sparse, SparseCoder

__all__ = [
    "ContextCoder",
    "ConvolutionCoder",
    "Sparse",
    "SparseCoder",
    "read_label_map",
    "read_label_maps",
    "write_label_map",
]
