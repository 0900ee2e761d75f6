"""The verbs: each works on every model that has the capability it needs."""

from latentia.tasks.complete import Completion, complete
from latentia.tasks.encode import cluster, decode_path, encode
from latentia.tasks.forecast import Filter, Forecast, forecast
from latentia.tasks.generate import generate
from latentia.tasks.interpolate import interpolate
from latentia.tasks.topics import coherence, document_completion, top_words

__all__ = [
    "Completion",
    "Filter",
    "Forecast",
    "cluster",
    "coherence",
    "complete",
    "decode_path",
    "document_completion",
    "encode",
    "forecast",
    "generate",
    "interpolate",
    "top_words",
]
