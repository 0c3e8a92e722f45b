"""What a piece of a table knows of the pieces before it."""

from collections.abc import Sequence
from typing import NamedTuple


class Piece(NamedTuple):
    """Some rows of a table, of which the others are not there."""

    before: int
    """How many rows came before."""
    as_text: frozenset[str]
    """The columns that are kept as they are written in all pieces,"""
    beside: frozenset[str]
    """those that are no features,"""
    settled: frozenset[str]
    """and those of which all cells have been seen."""
    decimals: dict[tuple[str, ...], str]
    """Of the columns beside the features, and of the features, what is decimal by the pieces so
    far; shared by all of them."""

    def decimal(self, names: Sequence[str], found: str) -> str:
        """What is decimal in these columns, by this piece and those before: see `find_decimal`."""
        group = tuple(name for name in names if name in self.beside)
        before = self.decimals.get(group)
        if before and found in ("", "?"):
            found = before
        elif (before and found != before) or (before == "" and found == ","):
            found = "?"
        self.decimals[group] = found
        return found


class ReadAgain(Exception):
    """A piece shows that those before it were read otherwise than it has to be: the whole table is
    to be read again, with these columns as they are written, for this task, or once it is known
    what these columns hold as a whole (see `jaxnn.data.tables.features.column_of`)."""

    def __init__(
        self, as_text: Sequence[str] = (), task: str | None = None, unsettled: Sequence[str] = ()
    ):
        super().__init__(as_text, task, unsettled)
        self.as_text, self.task, self.unsettled = tuple(as_text), task, tuple(unsettled)
