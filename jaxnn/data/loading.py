"""`load`: a data set by name or from a file, split and standardised."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.core.validation import require_boolean, require_integer, require_number, unknown_name
from jaxnn.data.bundled import BUNDLED, read_bundled
from jaxnn.data.cache import in_background
from jaxnn.data.dataset import Dataset, require_two_classes
from jaxnn.data.digests import digest
from jaxnn.data.encoding import EMBED_ABOVE, MISSING, Embedded
from jaxnn.data.files import SUFFIXES, examples_like, is_file_name, read_file, read_inputs
from jaxnn.data.generated import GENERATED
from jaxnn.data.images import find_examples, is_image_folder, read_images
from jaxnn.data.mapped import map_splits
from jaxnn.data.mnist import MNIST, read_mnist
from jaxnn.data.preparation import (
    are_features,
    fit,
    fit_at,
    flattened,
    require_standardization,
)
from jaxnn.data.splitting import Source, Splits, split_fold, split_off, take
from jaxnn.data.tables.columns import Column
from jaxnn.data.tables.reading import FOUND, Reading, is_table

AUTO = "auto"
NAMES = (*BUNDLED, *GENERATED, *MNIST)
_WITHOUT = {
    "validation_fraction": "validation-fraction 0",
    "standardize": "standardize none",
    "standardize_target": "no-standardize-target",
}
"""How options are left out that a configuration may have."""


def load(
    name: str | os.PathLike[str] = "digits",
    *,
    folder: str | os.PathLike[str] | None = None,
    target: str | Sequence[str] | None = None,
    inputs: str | Sequence[str] | None = None,
    task: str | None = None,
    prefer_numbers: bool = False,
    test: str | os.PathLike[str] | None = None,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.0,
    stratify: bool = True,
    groups: str | None = None,
    weights: str | None = None,
    fold: tuple[int, int] | None = None,
    seed: int = 0,
    standardize: str = "none",
    standardize_target: bool = False,
    flatten: bool = True,
    missing: str = "fill",
    embed: Sequence[str] = (),
    embed_above: int = EMBED_ABOVE,
    embed_width: int = 0,
    reading: Reading = FOUND,
    images: str | None = None,
    size: tuple[int, int] | None = None,
    colors: str = "",
) -> Splits:
    """A data set, checked, split into training, validation and test examples.

    ==================  ==========  ======================  ==========================
    name                examples    x                       target
    ==================  ==========  ======================  ==========================
    digits              1,797       8 × 8 × 1 in [0, 1]     10 classes
    wine                178         13 measurements         3 classes
    breast_cancer       569         30 measurements         2 classes
    iris                150         4 measurements          3 classes
    diabetes            442         10 measurements         progression, 25 to 346
    waves               1,600       128 × 1, a signal       4 forms
    solids              800         12 × 12 × 12 × 1        4 solids
    mnist               70,000      28 × 28 × 1 in [0, 1]   10 classes
    fashion_mnist       70,000      28 × 28 × 1 in [0, 1]   10 classes
    ``FILE.npz``        your own    array ``inputs``        array ``target``
    a table             your own    columns ``inputs``      columns ``target``
    ``FOLDER``          your own    train_x.npy, …          train_target.npy, …
    ``FOLDER``          your own    images in [0, 1]        the folder that each lies in
    ==================  ==========  ======================  ==========================

    mnist and fashion_mnist have a test split of their own (10,000 examples): ``test_fraction`` is
    ignored for them. All other splits are drawn by ``seed``, and stratified: the classes keep their
    proportions. The test split does not depend on ``validation_fraction``.

    A folder has its splits as files (see `map_splits`); its training examples are mapped, not read.

    x becomes float32, labels int32, regression targets float32 [examples, outputs]. What is
    standardised is so before it is rounded to float32.

    Args:
        name: A name of the table, or the path of a file or folder. An .npz holds arrays of numbers
            (labels 0 to classes − 1) and, if you like, the string arrays feature_names and
            class_names. A table is .csv, .tsv or .txt (also .gz), .parquet, .feather or .xlsx; its
            columns may be numbers, truth values, words, dates, and have gaps: see
            `jaxnn.data.encoding`. What is read of it is kept in the cache folder ($JAXNN_CACHE or
            the platform's).
        folder: Where the files of mnist or fashion_mnist are; unless given, the folder
            $JAXNN_DATA, then where Debian's dataset-fashion-mnist puts them, then a download.
        target: For files: the target's array ("target" unless given) or its column or columns.
        inputs: For files: the array of x ("x" unless given) or the feature columns (all others
            unless given).
        task: For files: "classification", "regression" or, of several truth values, "labels".
            Unless given, text and few whole numbers are a classification, other numbers a
            regression.
        prefer_numbers: Whether, where no task is given, whole numbers are a regression.
        test: A file with the test examples, in place of drawing them.
        test_fraction: The share of all examples in the test split.
        validation_fraction: The share of all examples, or of mnist's and fashion_mnist's 60,000
            training examples, in the validation split; 0 for none.
        stratify: Whether the classes keep their proportions in a split.
        groups: Of a table, a column; examples of one group stay together in a split.
        weights: Of a file, the column or array of what each example counts, in training and in
            metrics (scikit-learn's sample_weight): numbers of at least 0. Splits and preparation do
            not regard them.
        fold: (i, k), with i from 0: of k parts into which ``seed`` divides the examples, the i-th
            is the test split, in place of ``test_fraction`` and of a test that the data have;
            classes and groups are regarded as they are otherwise.
        seed: The same seed gives the same splits.
        standardize: "none"; "features", (x − mean) / deviation for each feature or pixel by itself;
            "all", one mean and deviation for all of x. Both are fitted on the training split only;
            a feature that is constant there gets deviation 1.
            "auto": features where they have names and otherwise all, and a regression target too.
        standardize_target: Whether to do the same to a regression target.
        flatten: Whether images and other x of more than two axes become [examples, features].
        missing: What becomes of gaps in a table: "fill" (by the median beside a feature that says
            so), "frequent" (by the most frequent value) or "refuse".
        embed: Of a table, columns that are categories (numbers too) and become codes, of which a
            network learns an embedding; x is a tuple then, see `Preparation.together`.
        embed_above: So do those of which the file has more categories than this.
        embed_width: The length of the vectors; 0 for min(50, (n + 1) // 2) of n categories.
        reading: How a table is written, where that is not to be found out.
        images: Of a table, the column with the paths of images, which then are x.
        size: Height and width to which images are resized; they have one size without.
        colors: Of images, "gray" or "rgb"; gray where all are, unless given.

    Raises:
        ValueError: An option or the data are not as described; the message says which, what was
            expected and what was given.
        FileNotFoundError: There is no such file, or no way was found to get mnist's.
        ImportError: scikit-learn or pooch is missing: ``pip install "jaxnn[datasets]"``.
    """
    _require_path("load", "name", name)
    if folder is not None:
        _require_path("load", "folder", folder)
    require_options(test_fraction, validation_fraction, seed)
    if fold is not None:
        require_integer("load", "folds", fold[1], 2)
        require_integer("load", "fold", fold[0], 0, fold[1] - 1)
        if test is not None:
            raise ValueError(f"load: expected no test where there are folds, got {str(test)!r}")
    require_boolean("load", "standardize_target", standardize_target)
    require_boolean("load", "stratify", stratify)
    require_boolean("load", "flatten", flatten)
    embedded = Embedded(tuple(embed), embed_above, embed_width)
    require_prepared("load", standardize, missing, embedded)
    if is_mapped(name):
        _refuse(name, folder=folder, target=target, inputs=inputs, task=task, embed=embed or None)
        _refuse(name, test=test, groups=groups, weights=weights, fold=fold)
        _refuse(
            name,
            validation_fraction=validation_fraction or None,
            standardize=None if standardize in ("none", AUTO) else standardize,
            standardize_target=standardize_target or None,
        )
        splits = map_splits(Path(name))
        return _flatten_splits(splits) if flatten else splits
    if embed and (images is not None or name in NAMES or not is_table(Path(name))):
        _refuse(name, embed=embedded.columns)
    reading = reading.saying_categories(embedded.columns)
    with in_background() as thread:
        if images is not None or are_images(name):
            _refuse(name, folder=folder, inputs=inputs)
            if images is None:
                _refuse(name, target=target, task=task, groups=groups, weights=weights)
            columns = (target,) if isinstance(target, str) else target
            path, how = Path(name).expanduser(), {"size": size, "colors": colors, "task": task}
            how |= {"reading": reading, "groups": groups, "prefer_numbers": prefer_numbers}
            how |= {"weights": weights}
            examples, own_test = read_images(find_examples(path, images, columns, **how)), None
            if test is not None:
                test = Path(test).expanduser()
                own_test = examples_like(examples, test, target, images, reading, weights)
        else:
            _refuse(name, size=size, colors=colors or None)
            examples, own_test = _read(
                name, folder, target, inputs, task, test, reading, groups, prefer_numbers, weights
            )
        standardize, standardize_target = standardizing(examples, standardize, standardize_target)
        require_two_classes(f"load: {name}", examples)
        if fold is not None:
            own_test = None
        indices = draw(examples, own_test, test_fraction, validation_fraction, fold, seed, stratify)
        whole = (*told(examples), *(() if own_test is None else told(own_test)))
        data = thread.submit(digest, *whole)
        del whole
        others = [] if own_test is None else [own_test]
        numbered = examples._replace(x=np.arange(len(examples.target)))
        weighed = [*(take(numbered, index) for index in indices), *others]
        require_some_weight(f"load: {name}", weighed)
        require_embedded(name, examples.columns, embedded.columns)
        how = standardize, standardize_target
        if are_features(examples):
            preparation = fit_at(examples, indices[0], *how, missing, embedded)
            found = [preparation.apply(str(name), examples, index) for index in indices]
            del examples
        else:
            parts = [take(examples, index) for index in indices[::-1]]
            data.result()
            del examples  # the parts are copies, and standardising makes others
            preparation = fit(parts[-1], *how, flatten, missing, embedded)
            found = [preparation.apply(str(name), parts.pop()) for _ in indices]
        found += [preparation.apply(str(name), test) for test in others]
        train, validation, held_out = found
        source = Source(data.result(), digest(*indices))
        return Splits(train, validation, held_out, preparation, source)


def require_prepared(where: str, standardize: str, missing: str, embedded: Embedded) -> None:
    """Raise ValueError for a way to prepare the features that there is not."""
    if standardize != AUTO:
        require_standardization(where, standardize)
    if missing not in MISSING:
        raise ValueError(f"{where}: {unknown_name('missing', missing, MISSING)}")
    require_integer(where, "embed_above", embedded.above, 0)
    require_integer(where, "embed_width", embedded.width, 0)


def require_embedded(name: Any, columns: Sequence[Column], embed: Sequence[str]) -> None:
    """Raise ValueError where a column that is to be embedded is none of the features."""
    names = [column.name for column in columns]
    for column in embed:
        if column not in names:
            raise ValueError(f"{name}: embed: {unknown_name('feature column', column, names)}")


def standardizing(examples: Dataset, how: str, of_target: bool) -> tuple[str, bool]:
    """``standardize`` and ``standardize_target``, without AUTO: what it stands for on these."""
    if how == AUTO:
        of_target |= not examples.class_names and not examples.task
        how = "features" if examples.columns or examples.feature_names else "all"
    if of_target and examples.class_names:
        raise ValueError("load: expected standardize_target only for a regression, got classes")
    return how, of_target


def require_some_weight(where: str, parts: Sequence[Dataset]) -> None:
    """Raise ValueError where no example of the training, validation or test part counts."""
    for part, of in zip(parts, ("training", "validation", "test"), strict=True):
        if part.weights is not None and len(part.weights) and not part.weights.any():
            raise ValueError(
                f"{where}: expected weights above 0 among the {of} examples, got all "
                f"{len(part.weights)} of weight 0: leave such rows out of the table, or draw other "
                "splits with --data.seed"
            )


def told(examples: Dataset) -> list:
    """What their digest is of: all but how files became pixels, which the pixels say, and how the
    numbers were written."""
    facts = examples._asdict()
    if examples.columns:
        facts["columns"] = tuple(
            column._replace(format="") if column.kind == "number" else column
            for column in examples.columns
        )
    if examples.weights is None:
        facts.pop("weights")
    return [fact for name, fact in facts.items() if name != "images"]


def draw(
    examples: Dataset,
    test: Dataset | None,
    test_fraction: float,
    validation_fraction: float,
    fold: tuple[int, int] | None,
    seed: int,
    stratify: bool,
) -> list[np.ndarray]:
    """The indices of training and validation examples and, unless there are some, of the test."""
    train = np.arange(len(examples.target))
    count, drawn = len(train), []
    if fold is not None:
        train, held_out = split_fold("load", examples, fold, seed, stratify)
        drawn = [held_out]
    elif test is None:
        name = "test_fraction"
        train, held_out = split_off(
            "load", examples, train, round(test_fraction * count), seed, name, stratify
        )
        drawn = [held_out]
    validation = train[:0]
    if validation_fraction > 0:
        name, part = "validation_fraction", round(validation_fraction * count)
        train, validation = split_off("load", examples, train, part, seed, name, stratify)
    return [train, validation, *drawn]


def read_features(
    path: str | os.PathLike[str],
    feature_names: str | Sequence[str] = (),
    *,
    inputs: str | Sequence[str] | None = None,
    flatten: bool = True,
) -> np.ndarray:
    """x of a file without a target, for prediction: [examples, ...] as the file has it.

    Apply the ``standardization`` of the `Splits` that the network was trained on.

    Args:
        path: An .npz archive or a .csv table.
        feature_names: The features that the network was trained on, in their order; other columns
            of a table are passed over. Where it is empty, all columns of a table are taken.
        inputs: The array of x ("x" unless given), or the columns where they have other names.
        flatten: As in `load`.

    Raises:
        ValueError: As `load` does.
        FileNotFoundError: There is no such file.
    """
    _require_path("read_features", "path", path)
    x = read_inputs(Path(path).expanduser(), feature_names, inputs)
    return flattened(x) if flatten else x


def _read(
    name, folder, target, inputs, task, test, reading, groups, prefer_numbers, weights
) -> tuple[Dataset, Dataset | None]:
    """The examples, and the test examples of a data set that has its own."""
    if name not in NAMES:
        path = Path(name).expanduser()
        if not is_file_name(path):
            if len(path.parts) > 1 and not path.exists():
                raise FileNotFoundError(f"{path}: expected a file or folder, got none")
            nearest = unknown_name("data set", str(name), NAMES)
            raise ValueError(f"load: {nearest}, or the path of a {', '.join(SUFFIXES)} file")
        _refuse(name, folder=folder)
        examples = read_file(path, target, inputs, task, reading, groups, prefer_numbers, weights)
        if test is None:
            return examples, None
        test = Path(test).expanduser()
        return examples, examples_like(examples, test, target, inputs, reading, weights)
    _refuse(name, target=target, inputs=inputs, task=task, test=test)
    _refuse(name, groups=groups, weights=weights)
    _refuse(name, **{option: value or None for option, value in reading._asdict().items()})
    if name in MNIST:
        return read_mnist(name, folder)
    _refuse(name, folder=folder)
    return (GENERATED[name]() if name in GENERATED else read_bundled(name)), None


def are_images(name: str | os.PathLike[str]) -> bool:
    """Whether this is a folder of images, and not a name."""
    return str(name) not in ("", *NAMES) and is_image_folder(Path(name).expanduser())


def is_mapped(name: str | os.PathLike[str]) -> bool:
    """Whether this is the folder of a mapped data set, and not a file, a name or images."""
    path = Path(name).expanduser()
    is_folder = str(name) not in ("", *NAMES) and not is_file_name(path) and path.is_dir()
    return is_folder and not is_image_folder(path)


def _refuse(name, **options) -> None:
    for option, value in options.items():
        if value is not None:
            way_out = f": say --data.{_WITHOUT[option]}" if option in _WITHOUT else ""
            raise ValueError(
                f"load: {option} has no meaning for {str(name)!r}, got {value!r}{way_out}"
            )


def _require_path(where: str, argument: str, value: Any) -> None:
    if not isinstance(value, str | os.PathLike):
        raise TypeError(
            f"{where}: expected {argument} to be a string or a path, got {type(value).__name__}"
        )


def require_options(test_fraction: float, validation_fraction: float, seed: int) -> None:
    """Raise ValueError unless these can split a data set."""
    bounds = {"minimum": 0, "maximum": 1, "open_maximum": True}
    require_number("load", "test_fraction", test_fraction, open_minimum=True, **bounds)
    require_number("load", "validation_fraction", validation_fraction, **bounds)
    require_integer("load", "seed", seed, 0)
    require_number("load", "seed", seed, maximum=2**32 - 1)


def _flatten_splits(splits: Splits) -> Splits:
    if splits.preparation.encoders:  # a table's are flat
        return splits
    train, validation, test = (part._replace(x=flattened(part.x)) for part in splits[:3])
    preparation = splits.preparation.flattening()
    return splits._replace(train=train, validation=validation, test=test, preparation=preparation)
