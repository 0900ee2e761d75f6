"""The verbs: each works on every model that has the capability it needs."""

from latentia.tasks.complete import Completion, complete
from latentia.tasks.encode import cluster, decode_path, encode
from latentia.tasks.forecast import Filter, Forecast, forecast
from latentia.tasks.generate import generate
from latentia.tasks.interpolate import interpolate

__all__ = [
    "Completion",
    "Filter",
    "Forecast",
    "cluster",
    "complete",
    "decode_path",
    "encode",
    "forecast",
    "generate",
    "interpolate",
]
