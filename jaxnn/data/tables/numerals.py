"""Numbers as people write them in a table: with a point or a comma, thousands grouped or not."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

INTEGER = re.compile(r"[+-]?[0-9]+")
NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
LARGEST_EXACT = 2**53
"""Up to this float64 tells whole numbers apart."""


def as_numbers(given: Any, decimal: str) -> np.ndarray:
    """Texts as float64: NaN where one is no number, infinity where it is too large for one."""
    import pandas as pd

    plain = given
    if decimal == ",":
        grouped = plain.str.fullmatch(r"[+-]?\d{1,3}(?:\.\d{3})+(?:,\d+)?")
        plain = plain.where(~grouped, plain.str.replace(".", "", regex=False))
        # A point that does not group thousands has no meaning where the comma is decimal.
        odd = plain.str.contains(".", regex=False)
        plain = plain.str.replace(",", ".", regex=False).where(~odd, "x")
    else:
        grouped = plain.str.fullmatch(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d*)?")
        plain = plain.where(~grouped, plain.str.replace(",", "", regex=False))
    fits = plain.str.fullmatch(NUMBER)
    numbers = pd.to_numeric(plain.where(fits, ""), errors="coerce")
    return np.asarray(numbers, np.float64)


def find_decimal(texts: Sequence[Any], separator: str) -> str:
    """ "," or ".", by the cells of all columns that could be meant so; "?" where both could be,
    and "" where nothing says it."""
    comma = point = unclear = False
    for cells in texts:
        found = cells[cells.str.contains(",", regex=False)].str.strip()
        if not len(found):
            continue
        is_comma = found.str.fullmatch(r"[+-]?\d*,\d*|[+-]?\d{1,3}(?:\.\d{3})+,\d+")
        is_point = found.str.fullmatch(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d*)?")
        if not (is_comma | is_point).all():
            continue
        comma |= bool((is_comma & ~is_point).any())
        point |= bool((is_point & ~is_comma).any())
        unclear |= bool((is_comma & is_point).any())
    if comma and point:
        return "?"
    if comma:
        return ","
    return "." if point or (unclear and separator == ",") else "?" if unclear else ""
