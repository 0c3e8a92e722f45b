"""Which files are tables, and how one is read."""

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxnn.core.validation import unknown_name
from jaxnn.data.tables.columns import KINDS

TEXTS = {".csv": "", ".tsv": "\t", ".tab": "\t", ".txt": ""}
"""Suffixes of tables in text, and the separator that they say."""
BINARIES = {
    ".parquet": "read_parquet",
    ".pq": "read_parquet",
    ".feather": "read_feather",
    ".arrow": "read_feather",
    ".xlsx": "read_excel",
}
"""Suffixes of other tables, and pandas' functions for them."""
MISSING_TARGETS = ("refuse", "drop", "class")


class Reading(NamedTuple):
    """How a table is read; what is empty is found out."""

    separator: str = ""
    decimal: str = ""
    """"." or ","."""
    encoding: str = ""
    header: str = ""
    """"yes" or "no": whether the first row holds the names of the columns."""
    kinds: tuple[str, ...] = ()
    """COLUMN=KIND, of a column that is otherwise than it looks, one of
    `jaxnn.data.tables.columns.KINDS`; a date may have a format, "when=date:%d/%m/%Y"."""
    missing_target: str = ""
    """What becomes of rows without a target: "refuse", "drop", or "class" where NA is one."""

    def require_valid(self) -> None:
        """Raise ValueError for an option that there is not."""
        for name, valid in (
            ("decimal", (".", ",")),
            ("header", ("yes", "no")),
            ("missing_target", MISSING_TARGETS),
        ):
            value = getattr(self, name)
            if value and value not in valid:
                raise ValueError(f"table: {unknown_name(name, value, valid)}")
        if self.encoding:
            try:
                codecs.lookup(self.encoding)
            except LookupError:
                raise ValueError(f"table: unknown encoding {self.encoding!r}") from None
        if len(self.separator.replace("\\t", "\t")) > 1:
            raise ValueError(
                f"table: expected separator to be one character, got {self.separator!r}"
            )
        self.kind_of("")

    def kind_of(self, name: str) -> str:
        """What a column is said to be; "" where nothing is said."""
        said = {}
        for text in self.kinds:
            column, equals, kind = text.rpartition("=")
            if not equals or kind.partition(":")[0] not in KINDS:
                raise ValueError(
                    f"table: expected kinds as COLUMN=KIND with a kind of {', '.join(KINDS)}, got "
                    f"{text!r}"
                )
            said[column] = kind
        return said.get(name, "")

    def saying_categories(self, names: Sequence[str]) -> "Reading":
        """The same where these columns are categories; raises ValueError where one is said to be
        something else."""
        for name in names:
            if (kind := self.kind_of(name)) not in ("", "category"):
                raise ValueError(
                    f"table: expected column {name!r}, which is to be embedded, to be a category, "
                    f"got kinds {name}={kind}"
                )
        others = (f"{name}=category" for name in names if not self.kind_of(name))
        return self._replace(kinds=(*self.kinds, *others))


FOUND = Reading()
"""Everything is found out."""


def is_table(path: Path) -> bool:
    """Whether the suffix is that of a table."""
    return suffix_of(path) in {**TEXTS, **BINARIES}


def is_in_text(path: Path) -> bool:
    """Whether the suffix is that of a table in text."""
    return suffix_of(path) in TEXTS


def is_compressed(path: Path) -> bool:
    """Whether the file is compressed by gzip."""
    return path.suffix.lower() == ".gz"


def suffix_of(path: Path) -> str:
    """In lower case, that before .gz where a file is compressed."""
    return (path.with_suffix("") if is_compressed(path) else path).suffix.lower()
