"""Data at the door: `read` refuses what cannot be used, `Schema` knows what the data are, `Dataset` serves them."""

from latentia.data.builtin import BUILTIN
from latentia.data.dataset import Dataset, as_dataset, load
from latentia.data.raw import Raw
from latentia.data.readers import read
from latentia.data.schema import Schema

__all__ = ["BUILTIN", "Dataset", "Raw", "Schema", "as_dataset", "load", "read"]
