"""Helpers of the seven notebooks: are CLIP's image features better than ImageNet's?

The way of the data: an index of images (a DataFrame) -> splits -> encoders -> features (a float32
array whose rows are the index's rows) -> classifiers -> a study's tidy rows of results -> figures.
The public names stand in ``__init__.pyi``, in this order; each is loaded when it is first used.
"""

import lazy_loader

from cliphelpers.memory import keep_freed

keep_freed()
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
