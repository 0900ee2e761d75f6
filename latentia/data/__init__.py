"""Data at the door: `read` refuses what cannot be used, `Schema` knows what the data are, `Dataset` serves them.

`Stream` serves what is larger than memory.
"""

from latentia.data.builtin import BUILTIN
from latentia.data.dataset import Dataset, as_dataset, batch_for, context_for, data_for, in_order, load, remember
from latentia.data.raw import Raw
from latentia.data.readers import read
from latentia.data.schema import Schema
from latentia.data.stream import Stream

__all__ = [
    "BUILTIN",
    "Dataset",
    "Raw",
    "Schema",
    "Stream",
    "as_dataset",
    "batch_for",
    "context_for",
    "data_for",
    "in_order",
    "load",
    "read",
    "remember",
]
