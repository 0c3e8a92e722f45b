"""The examples of a table that is read piece by piece, with their cells in a file.

What the columns hold is found out on the first piece, and the table is read again where a later
one shows that it is otherwise.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxnn.data.dataset import Dataset
from jaxnn.data.tables.columns import Column, may_be_other
from jaxnn.data.tables.examples import feature_columns, kept_as_text, table_examples
from jaxnn.data.tables.features import column_of, read_categories, read_columns
from jaxnn.data.tables.numerals import INTEGER
from jaxnn.data.tables.pieces import ReadAgain
from jaxnn.data.tables.reading import Reading
from jaxnn.data.tables.table import table_pieces
from jaxnn.data.tables.targets import Target, are_many, has_fractions, read_target, read_weights

_ROWS = 1 << 16
"""How many rows are there at a time."""


def decode_pieces(
    path: Path,
    cells_file: Path,
    targets: tuple[str, ...] | None,
    inputs: Sequence[str] | None,
    task: str | None,
    reading: Reading,
    groups: str | None,
    prefer_numbers: bool,
    weights: str | None,
) -> Dataset:
    """The examples of a table, whose x is mapped from a new file; the others of the arguments are
    those of `jaxnn.data.load`."""
    texts, aside = kept_as_text(reading, targets, groups, weights)
    options = (targets, inputs, reading, groups, prefer_numbers, weights, aside)
    settled: dict[str, Column] = {}
    while True:
        try:
            return _decode(path, cells_file, texts, task, settled, *options)
        except ReadAgain as again:
            texts, task = (*dict.fromkeys((*texts, *again.as_text)),), again.task or task
            for name in again.unsettled:
                wanted = (*aside, *(inputs or ()))
                settled[name] = column_of(path, reading, texts, wanted, name)


def slices(count: int) -> Iterator[slice]:
    """Of so many rows, those that are there at a time."""
    return (slice(start, start + _ROWS) for start in range(0, count, _ROWS))


def _decode(
    path: Path,
    cells_file: Path,
    texts: tuple[str, ...],
    said: str | None,
    settled: dict[str, Column],
    targets: tuple[str, ...] | None,
    inputs: Sequence[str] | None,
    reading: Reading,
    groups: str | None,
    prefer_numbers: bool,
    weights: str | None,
    aside: tuple[str, ...],
) -> Dataset:
    """The examples, whose cells are in a file that is mapped; or what `ReadAgain` says."""
    task = said
    found: dict[str, list[np.ndarray]] = {"target": [], "groups": [], "weights": []}
    classes, of_groups = _Codes(), _Codes()
    columns: list[Column] = []
    categories: dict[str, _Codes] = {}
    with cells_file.open("wb") as file:
        wanted = (*aside, *(inputs or ()))
        pieces = 0
        for piece in table_pieces(path, reading, texts, wanted, aside, _ROWS, [*settled]):
            pieces += 1
            if not columns:
                names = feature_columns(piece, targets, inputs, groups, weights)
                told = read_columns(piece, [name for name in names if name not in settled])[0]
                by_name = {column.name: column for column in told} | settled
                columns = [by_name[name] for name in names if name in by_name]
                empty = [c.name for c in told if c.kind == "category" and not c.values]
                if unsaid := [name for name in empty if not reading.kind_of(name)]:
                    raise ReadAgain(unsettled=unsaid)
                if not columns:
                    raise ValueError(f"{path}: expected columns that are not dropped, got none")
                categories = {c.name: _Codes() for c in columns if c.kind == "category"}
            target, kept = read_target(piece, targets or (), task, prefer_numbers=prefer_numbers)
            task = target.task or task
            x = np.empty((len(kept), len(columns)))
            plain = [place for place, c in enumerate(columns) if c.name not in categories]
            known = [columns[place] for place in plain]
            x[:, plain] = read_columns(piece, [c.name for c in known], known)[1] if known else 0
            for place, column in enumerate(columns):
                if column.name in categories:
                    values, cells = read_categories(piece, column.name)
                    x[:, place] = categories[column.name].renumber(values, cells)
            if not kept.any():
                continue
            file.write(np.ascontiguousarray(x[kept]).data)
            own = target.values
            if target.class_names:
                assert targets is not None
                if said is None and has_fractions(piece, targets[0], target.class_names):
                    raise ReadAgain(task="regression")
                own = classes.renumber(target.class_names, own).astype(np.int32)
            found["target"].append(own)
            if groups:
                names = piece.texts(groups)
                of_groups.renumber([name for name in names if name], np.zeros(0))
                own = np.array([of_groups.values.get(name, -1) for name in names])
                found["groups"].append(own[kept])
            if weights:
                found["weights"].append(read_weights(piece, weights, kept))
    if not found["target"]:
        raise ValueError(f"{path}: expected rows with a target, got none")
    joined = {name: np.concatenate(arrays) for name, arrays in found.items() if arrays}
    labels, class_names, count = joined["target"], (), len(joined["target"])
    if classes.values:
        whole = all(map(INTEGER.fullmatch, classes.values))
        if whole and said is None and are_many(len({*map(int, classes.values)}), count):
            raise ReadAgain(task="regression")
        class_names, places = classes.in_order(whole=whole)
        labels = places[labels].astype(np.int32)
    x = np.memmap(cells_file, np.float64, "r+", shape=(count, len(columns)))
    for place, column in enumerate(columns):
        if column.name in categories:
            values, places = categories[column.name].in_order()
            columns[place] = column._replace(values=values)
            new = np.append(places.astype(float), np.nan)
            for rows in slices(count):
                cells = x[rows, place]
                x[rows, place] = new[np.where(np.isnan(cells), -1, cells).astype(int)]
    for column in columns if pieces > 1 else ():
        if column.name in settled or reading.kind_of(column.name) or not may_be_other(column):
            continue
        if column_of(path, reading, texts, wanted, column.name) != column:
            raise ReadAgain(unsettled=(column.name,))
    target = Target(labels, class_names, task or "")
    others = joined.get("groups"), joined.get("weights")
    return table_examples(x, columns, target, targets or (), *others)


class _Codes:
    """Names in the order in which they are met."""

    def __init__(self):
        self.values: dict[str, int] = {}

    def renumber(self, names: Sequence[str], codes: np.ndarray) -> np.ndarray:
        """Codes of these names as codes of all that have been met; NaN stays."""
        places = [self.values.setdefault(name, len(self.values)) for name in names]
        table = np.append(np.array(places, float), np.nan)
        return table[np.where(np.isnan(codes), -1, codes).astype(int)]

    def in_order(self, *, whole: bool = False) -> tuple[tuple[str, ...], np.ndarray]:
        """The names in the order of the text or of the whole numbers that they are; and the
        place of each code among them."""
        names = [str(int(name)) if whole else name for name in self.values]  # 01 is a 1
        ordered = sorted({*names}, key=int if whole else None)
        place = {name: number for number, name in enumerate(ordered)}
        return tuple(ordered), np.array([place[name] for name in names], int)
