"""The verbs: each works on every model that has the capability it needs."""

from latentia.tasks.align import align
from latentia.tasks.cluster import cluster, responsibilities
from latentia.tasks.complete import Completion, Conditional, complete, conditional_log_likelihood
from latentia.tasks.compress import Compressed, compress, decompress
from latentia.tasks.decode import decode
from latentia.tasks.detect import anomaly_scores, auroc, column_scores, step_scores
from latentia.tasks.encode import decode_path, encode
from latentia.tasks.forecast import Filter, Forecast, forecast
from latentia.tasks.gap import Gaps, gaps
from latentia.tasks.generate import generate
from latentia.tasks.hamming import hamming_neighbours
from latentia.tasks.interpolate import interpolate
from latentia.tasks.meanings import meanings
from latentia.tasks.parse import parse
from latentia.tasks.sentences import Neighbours, completed, homotopy, neighbours, written
from latentia.tasks.topics import coherence, document_completion, top_words
from latentia.tasks.traverse import Traversal, traverse

__all__ = [
    "Completion",
    "Compressed",
    "Conditional",
    "Filter",
    "Forecast",
    "Gaps",
    "Neighbours",
    "Traversal",
    "align",
    "anomaly_scores",
    "auroc",
    "cluster",
    "coherence",
    "column_scores",
    "complete",
    "completed",
    "compress",
    "conditional_log_likelihood",
    "decode",
    "decode_path",
    "decompress",
    "document_completion",
    "encode",
    "forecast",
    "gaps",
    "generate",
    "hamming_neighbours",
    "homotopy",
    "interpolate",
    "meanings",
    "neighbours",
    "parse",
    "responsibilities",
    "step_scores",
    "top_words",
    "traverse",
    "written",
]
