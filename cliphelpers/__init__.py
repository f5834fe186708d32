"""Helpers of the seven notebooks: are CLIP's image features better than ImageNet's?

The way of the data: an index of images (a DataFrame) -> features (a float32 array whose rows
are the index's rows) -> a classifier -> tidy rows of results.
"""

from importlib.metadata import version

__version__ = version("cliphelpers")
