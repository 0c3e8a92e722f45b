"""The data sets that come with scikit-learn: small, real, and there without a download."""

import numpy as np

from jaxnn.data.dataset import Dataset, make_dataset
from jaxnn.data.optional import require_library

# The loader of each and its options. Diabetes is not to be scaled by its loader, which would fit
# that on the whole set and not on the training split.
BUNDLED = {
    "digits": ("load_digits", {}),
    "wine": ("load_wine", {}),
    "breast_cancer": ("load_breast_cancer", {}),
    "iris": ("load_iris", {}),
    "diabetes": ("load_diabetes", {"scaled": False}),
}

_LARGEST_DIGIT_PIXEL = 16


def read_bundled(name: str) -> Dataset:
    """One of `BUNDLED`, whole; digits are images [n, 8, 8, 1] in [0, 1]."""
    loader, options = BUNDLED[name]
    datasets = require_library("sklearn.datasets", f"data set {name!r}")
    bunch = getattr(datasets, loader)(**options)
    class_names = tuple(map(str, bunch.get("target_names", ())))  # a regression has none
    if "images" in bunch:
        x = (bunch.images / _LARGEST_DIGIT_PIXEL)[..., np.newaxis]
        return make_dataset(name, x, bunch.target, (), class_names)
    feature_names = tuple(map(str, bunch.feature_names))
    return make_dataset(name, bunch.data, bunch.target, feature_names, class_names)
