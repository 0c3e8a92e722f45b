"""What turns the examples of a file into what a network is trained on, and its answers back."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxnn.core.validation import unknown_name
from jaxnn.data import encoding
from jaxnn.data.dataset import Dataset, as_features
from jaxnn.data.encoding import (
    BY_DEFAULT,
    Embedded,
    Encoder,
    encode,
    fit_encoders,
    to_facts,
)
from jaxnn.data.facts import BAD_FACTS
from jaxnn.data.images import Pixels
from jaxnn.data.tables.columns import Column
from jaxnn.data.threads import in_threads

VERSION = 1
"""Of what `Preparation.facts` returns."""
_SHOWN = 40
_CHUNK = 1 << 22
"""How many numbers are brought to float64 at a time, where they are added up."""
_BLOCK = 1 << 17
"""How many, where they are not: they stay in the cache."""


class Standardization(NamedTuple):
    """x ↦ (x − mean) / deviation, computed in float64 and rounded to float32 once at the end.

    A column such as seconds since 1970 has no room in float32 for what tells its values apart.
    """

    mean: np.ndarray
    """float64, of the shape of one example; [] where one number serves all of x."""
    deviation: np.ndarray
    """float64, of the same shape."""

    def apply(self, x: np.ndarray, index: np.ndarray | None = None) -> np.ndarray:
        """(x − mean) / deviation in float32, of the examples at ``index`` if it is given.

        Raises ValueError for examples of another shape.
        """
        self._require_examples(x)
        if self.is_identity:
            return np.asarray(x if index is None else x[index], np.float32)
        z = np.empty((len(x if index is None else index), *x.shape[1:]), np.float32)
        rows = max(_BLOCK // max(int(np.prod(x.shape[1:])), 1), 1)

        def write(start: int) -> None:
            part = slice(start, start + rows)
            own = np.asarray(x[part if index is None else index[part]], np.float64)
            z[part] = (own - self.mean) / self.deviation

        in_threads(write, range(0, len(z), rows))
        return z

    def invert(self, z: np.ndarray) -> np.ndarray:
        """Back to the original units in float64, z · deviation + mean; raises as `apply` does."""
        self._require_examples(z)
        return np.asarray(z, np.float64) * self.deviation + self.mean

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return self.mean.ndim == 0 and bool(self.mean == 0) and bool(self.deviation == 1)

    def _require_examples(self, x: np.ndarray) -> None:
        if isinstance(x, tuple):
            raise TypeError(
                "standardization: expected numbers, got a tuple, whose codes stand for categories"
            )
        if self.mean.ndim and x.shape[1:] != self.mean.shape:
            raise ValueError(
                f"standardization: expected examples of shape {self.mean.shape}, as those it was "
                f"fitted on, got {x.shape[1:]}"
            )


IDENTITY = Standardization(np.zeros(()), np.ones(()))
PIXELS = Standardization(np.zeros(()), np.full((), 255.0))
"""From the pixels of image files to 0 to 1."""


def _fit(x: Iterable[np.ndarray], axis: int | None) -> Standardization:
    """By x in blocks, which are gone through twice."""
    count, total, low, high = 0, 0.0, np.inf, -np.inf
    for part in x:
        count += part.size if axis is None else len(part)
        total = total + np.sum(part, axis, dtype=np.float64)
        low, high = np.minimum(low, np.min(part, axis)), np.maximum(high, np.max(part, axis))
    mean = np.asarray(total / count)
    # Without another array of the size of x, as `numpy.std` has one.
    with np.errstate(over="ignore"):  # what is as large as that is refused with its place
        squares = sum(_squares(part, mean, axis) for part in x)
    deviation = np.asarray(np.sqrt(squares / count))
    # Rounding leaves a constant feature a tiny deviation, so it is recognised by its range.
    constant = (high == low) | (deviation == 0)
    # So has its mean: of 1e30 everywhere it would leave 1e14.
    return Standardization(
        np.where(constant, low, mean).astype(np.float64), np.where(constant, 1.0, deviation)
    )


def _squares(part: np.ndarray, mean: np.ndarray, axis: int | None) -> Any:
    distance = np.asarray(part, np.float64) - mean
    return np.sum(np.square(distance, out=distance), axis)


class Blocks:
    """An array in blocks of rows, as often as one likes."""

    def __init__(self, x: np.ndarray):
        self._x = x

    def __iter__(self) -> Iterator[np.ndarray]:
        every = _slices(len(self._x), int(np.prod(self._x.shape[1:])))
        return (self._x[rows] for rows in every)


class EncodedBlocks:
    """The features of the examples at an index in such blocks, none of which is kept."""

    def __init__(self, x: np.ndarray, index: np.ndarray, encoders: tuple[Encoder, ...]):
        self._x, self._index, self._encoders = x, index, encoders

    def __iter__(self) -> Iterator[np.ndarray]:
        features = sum(len(encoder.names) for encoder in self._encoders)
        for rows in _slices(len(self._index), features):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they are told where the features are written
                part = encode("fit", self._x[self._index[rows]], self._encoders)[0]
            yield part


def _slices(count: int, numbers: int) -> Iterator[slice]:
    """Of the rows of so many numbers each; both kinds of blocks have the same, and so the sums."""
    rows = max(_CHUNK // max(numbers, 1), 1)
    return (slice(start, start + rows) for start in range(0, count, rows))


STANDARDIZATIONS: dict[str, Callable[[Iterable[np.ndarray]], Standardization]] = {
    "none": lambda x: IDENTITY,
    "features": lambda x: _fit(x, 0),
    "all": lambda x: _fit(x, None),
}


def require_standardization(where: str, name: str) -> None:
    """Raise ValueError unless ``name`` is a key of `STANDARDIZATIONS`."""
    if name not in tuple(STANDARDIZATIONS):  # a tuple, since any object can be sought in it
        raise ValueError(f"{where}: {unknown_name('standardize', name, STANDARDIZATIONS)}")


def are_features(examples: Dataset) -> bool:
    """Whether the columns of a table are features as they are: numbers without gaps."""
    if not all(column.kind in ("number", "boolean") for column in examples.columns):
        return False
    largest = np.finfo(np.float32).max
    x = examples.x
    return bool(examples.columns and x.min() >= -largest and x.max() <= largest)  # NaN is nowhere


class Preparation(NamedTuple):
    """All that was found out on the training examples: it needs no data to be applied."""

    shape: tuple[int, ...]
    """Of one example as its file has it."""
    feature_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()
    """One for each output of a regression, where they have names."""
    task: str = ""
    """See `Dataset`."""
    encoders: tuple[Encoder, ...] = ()
    """Of the columns of a table, which has no other shape than theirs."""
    standardization: Standardization = IDENTITY
    """Of the shape that the network is given."""
    target_standardization: Standardization = IDENTITY
    flatten: bool = False
    images: Pixels | None = None
    """Of image files, how they become pixels."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of a table."""
        return tuple(encoder.column for encoder in self.encoders)

    @property
    def network_shape(self) -> tuple[int, ...]:
        """Of the numbers of one example as the network is given it."""
        if self.encoders:
            return (len(self.feature_names),)
        return (int(np.prod(self.shape)),) if self.flatten else self.shape

    @property
    def embedded(self) -> tuple[Encoder, ...]:
        """Of the columns whose codes the network is given beside the numbers."""
        return tuple(encoder for encoder in self.encoders if encoder.width)

    def together(self, numbers: Any, codes: Sequence[Any]) -> Any:
        """What the network takes: the numbers or, where columns are embedded, a tuple of them (if
        there are any) and of the codes of each such column."""
        if not codes:
            return numbers
        return (numbers, *codes) if self.network_shape[0] else tuple(codes)

    @property
    def x_names(self) -> tuple[str, ...]:
        """Of the arrays that x is kept as in files: of numbers alone, "x"."""
        codes = [f"x_codes_{place}" for place in range(len(self.embedded))]
        return (*["x"] * (not codes or bool(self.network_shape[0])), *codes)

    def apart(self, x: Any) -> dict[str, Any]:
        """These arrays of what the network takes,"""
        return dict(zip(self.x_names, x if self.embedded else (x,), strict=True))

    def joined(self, arrays: Mapping[str, Any]) -> Any:
        """and what it takes of them."""
        parts = tuple(arrays[name] for name in self.x_names)
        return parts if self.embedded else parts[0]

    def sample(self, examples: int = 1) -> Any:
        """Zeros of the shapes and dtypes that the network takes."""
        codes = [np.zeros(examples, np.int32) for _ in self.embedded]
        return self.together(np.zeros((examples, *self.network_shape), np.float32), codes)

    def inputs(self, where: str, x: np.ndarray) -> Any:
        """x of a file as the network takes it: see `together`; numbers are float32, codes int32.

        Raises:
            ValueError: Examples have another shape than those it was fitted on.
        """
        if x.shape[1:] != self.shape:
            raise ValueError(f"{where}: expected examples of shape {self.shape}, got {x.shape[1:]}")
        codes = ()
        if self.encoders:
            x, codes = encode(where, x, self.encoders)
            x = as_features(where, x, self.feature_names) if x.size else x
        numbers = self.standardization.apply(flattened(x) if self.flatten else x)
        return self.together(numbers, codes)

    def targets(self, where: str, target: np.ndarray) -> np.ndarray:
        """Targets of a regression as the network is to predict them, float32; raises ValueError
        where one is too large for that."""
        with np.errstate(over="ignore"):
            found = self.target_standardization.apply(target)
        if len(bad := np.argwhere(~np.isfinite(found))):
            way_out = "; --data.standardize-target brings them into its range"
            raise ValueError(
                f"{where}: expected targets that are finite in float32, got "
                f"{target[tuple(bad[0])]} (and {len(bad) - 1} more)"
                + way_out
                * self.target_standardization.is_identity
            )
        return found

    def apply(self, where: str, examples: Dataset, index: np.ndarray | None = None) -> Dataset:
        """Examples of a file as the network takes them; those at ``index``, of which no other
        copy is made, where they `are_features`."""
        target, weights = examples.target, examples.weights
        if index is not None:
            target, weights = target[index], None if weights is None else weights[index]
        if not self.class_names:
            target = self.targets(where, target)
        if index is None:
            x = self.inputs(where, examples.x)
        else:
            x = self.standardization.apply(examples.x, index)
        names = self.feature_names, self.class_names, self.target_names
        return Dataset(x, target, *names, self.task, weights=weights)

    def describe(self) -> str:
        """What has become of the columns of a table or of images, for people; "" for others."""
        if self.images is not None:
            height, width, channels = self.shape
            resized = ", resized" * self.images.resized
            colors = "gray" if channels == 1 else "RGB"
            is_plain = all(map(np.array_equal, self.standardization, PIXELS))
            scaled = "from 0 to 1" if is_plain else "standardised"
            return f"images of {height} × {width} pixels{resized}, {colors}, {scaled}"
        if not self.encoders:
            return ""
        rows = [encoder.describe() for encoder in self.encoders]
        if len(rows) > _SHOWN:
            left = f"… and {len(rows) - _SHOWN} more columns"
            rows = [*rows[:_SHOWN], (left, "", "", "")]
        scaled = "not standardised" if self.standardization.is_identity else "standardised"
        table = [("column", "kind", "becomes", "gaps"), *rows]
        widths = [max(len(row[place]) for row in table) for place in range(4)]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        )
        head, *rest = lines
        return "\n".join(
            [
                head,
                "─" * sum(widths, 6),
                *rest,
                f"{len(self.feature_names)} features, {scaled}"
                + f", and {len(self.embedded)} embedded" * bool(self.embedded),
            ]
        )

    def flattening(self) -> "Preparation":
        """The same, and then examples of more than one axis become vectors."""
        mean, deviation = (a.ravel() if a.ndim else a for a in self.standardization)
        return self._replace(flatten=True, standardization=Standardization(mean, deviation))

    def facts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What JSON holds of it, and the arrays: `from_facts` makes it of these."""
        facts = {
            "version": VERSION,
            "shape": list(self.shape),
            "flatten": self.flatten,
            "feature_names": list(self.feature_names),
            "class_names": list(self.class_names),
            "target_names": list(self.target_names),
            "task": self.task,
            "columns": to_facts(self.encoders),
            "images": None if self.images is None else self.images._asdict(),
        }
        return facts, {
            "mean": self.standardization.mean,
            "deviation": self.standardization.deviation,
            "target_mean": self.target_standardization.mean,
            "target_deviation": self.target_standardization.deviation,
        }


def fit(
    examples: Dataset,
    features: str,
    target: bool,
    flatten: bool,
    missing: str = "fill",
    embedded: Embedded = BY_DEFAULT,
) -> Preparation:
    """The preparation by the mean and deviation of these examples, as their file has them.

    Args:
        examples: The training examples.
        features: "none"; "features", each element of x by its own mean and deviation; "all", all
            of x by one. What is constant gets deviation 1.
        target: Whether to standardise the (regression) target too, each output by its own.
        flatten: Whether examples of more than one axis become vectors.
        missing: What becomes of gaps in a table, one of `jaxnn.data.encoding.MISSING`.
        embedded: Which columns of categories become codes.
    """
    encoders = fit_encoders(examples.x, examples.columns, missing, embedded)
    x, shape = examples.x, examples.x.shape[1:]
    if encoders:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `inputs` says it
            x, _ = encode("fit", x, encoders)
    x = Blocks(flattened(x) if flatten else x)
    return fit_encoded(examples, x, encoders, features, target, flatten, shape)


def fit_at(
    examples: Dataset,
    index: np.ndarray,
    features: str,
    target: bool,
    missing: str = "fill",
    embedded: Embedded = BY_DEFAULT,
) -> Preparation:
    """The same by those at ``index`` of the examples of a table, of which none is kept twice."""
    encoders = fit_encoders(examples.x, examples.columns, missing, embedded, index)
    blocks = EncodedBlocks(examples.x, index, encoders)
    training = examples._replace(target=examples.target[index])
    return fit_encoded(training, blocks, encoders, features, target)


def fit_encoded(
    examples: Dataset,
    x: Iterable[np.ndarray],
    encoders: tuple[Encoder, ...],
    features: str,
    target: bool,
    flatten: bool = True,
    shape: tuple[int, ...] | None = None,
) -> Preparation:
    """The same of features that are encoded already, in blocks; of a table unless a shape is
    given."""
    names = examples.feature_names
    if encoders:
        names = tuple(name for encoder in encoders for name in encoder.names)
        features = features if names else "none"
    return Preparation(
        (len(encoders),) if shape is None else shape,
        names,
        examples.class_names,
        examples.target_names,
        examples.task,
        encoders,
        PIXELS if examples.images and features == "none" else STANDARDIZATIONS[features](x),
        STANDARDIZATIONS["features" if target else "none"](Blocks(examples.target)),
        flatten,
        examples.images,
    )


ARRAYS = ("mean", "deviation", "target_mean", "target_deviation")


def from_facts(where: str, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> Preparation:
    """The preparation that `Preparation.facts` wrote.

    Raises:
        ValueError: It is of another version, or not as it was written.
    """
    try:
        if facts["version"] != VERSION:
            raise ValueError(f"version {facts['version']}")
        mean, deviation, *of_target = (_numbers(arrays[name]) for name in ARRAYS)
        return Preparation(
            tuple(map(int, facts["shape"])),
            tuple(map(str, facts["feature_names"])),
            tuple(map(str, facts["class_names"])),
            tuple(map(str, facts["target_names"])),
            str(facts["task"]),
            encoding.from_facts(facts["columns"]),
            Standardization(mean, deviation),
            Standardization(*of_target),
            bool(facts["flatten"]),
            _pixels(facts.get("images")),
        )
    except BAD_FACTS as error:
        raise ValueError(
            f"{where}: expected a preparation of version {VERSION}, as this version of jaxnn "
            f"writes it, got {error}"
        ) from None


def _pixels(facts: Mapping[str, Any] | None) -> Pixels | None:
    return None if facts is None else Pixels(**{name: bool(v) for name, v in facts.items()})


def _numbers(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.float64:
        raise ValueError(f"an array of {array.dtype}")
    return array


def flattened(x: np.ndarray) -> np.ndarray:
    """[examples, features]."""
    return x.reshape(len(x), int(np.prod(x.shape[1:])))
