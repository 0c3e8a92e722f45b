"""Data sets in memory, validated, split and standardised: `load` is the way in.

    splits = load("digits")
    splits.train.x, splits.train.target

`import jaxnn` does not import this package, and this package imports scikit-learn and pooch only
where they are used: ``pip install "jaxnn[datasets]"``.
"""

from jaxnn.data.dataset import Dataset, validate_labels
from jaxnn.data.idx import read_idx
from jaxnn.data.loading import NAMES, are_images, is_mapped, load, read_features
from jaxnn.data.mapped import map_splits, write_mapped
from jaxnn.data.mapping import map_images
from jaxnn.data.preparation import Preparation, Standardization
from jaxnn.data.splitting import Splits
