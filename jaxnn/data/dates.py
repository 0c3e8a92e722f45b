"""Dates as people write them in ten languages, and as ISO 8601 has them: a translation.

    "sábado, 7 de marzo de 1998"  →  "1998-03-07"

Every day from 1900 to 2099 is either for training or held out, whatever the language and format.
The formats are those of the Unicode locale data as Babel has them, with four digits for the year
and, where the month is a number, the day in front of it, so that every text means one date.
"""

import datetime

import numpy as np

from jaxnn.core.validation import require_integer, require_number, require_positive_integer
from jaxnn.data.optional import require_library
from jaxnn.data.pairs import Pairs, encode_pairs

LANGUAGES = ("de", "en", "es", "fi", "fr", "it", "nl", "pl", "pt", "sv")
_PATTERNS = (
    "long",
    "full",
    "d MMMM yyyy",
    "d MMM yyyy",
    "EEE d MMM yyyy",
    "dd/MM/yyyy",
    "d.M.yyyy",
)
_FIRST, _LAST = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)
DIGITS = "0123456789-"
"""The characters of an ISO date; their ids are their places."""


def make_dates(
    training: int = 20_000, held_out: int = 2_000, seed: int = 0, fraction: float = 0.1
) -> tuple[Pairs, Pairs]:
    """Dates to train on, and dates of other days.

    Args:
        training: How many examples for training.
        held_out: How many on days that are held out.
        seed: Draws days, languages and formats.
        fraction: The share of all days that is held out.

    Raises:
        ImportError: Babel is missing.
    """
    require_positive_integer("make_dates", "training", training)
    require_positive_integer("make_dates", "held_out", held_out)
    require_integer("make_dates", "seed", seed, 0)
    require_number(
        "make_dates",
        "fraction",
        fraction,
        minimum=0,
        maximum=1,
        open_minimum=True,
        open_maximum=True,
    )
    formatted = require_library("babel.dates", "make_dates").format_date
    rng = np.random.default_rng(seed)
    days = rng.permutation((_LAST - _FIRST).days + 1)
    cut = max(round(fraction * len(days)), 1)

    def draw(among: np.ndarray, examples: int) -> list[tuple[str, str]]:
        pairs = []
        for day in rng.choice(among, examples):
            date = _FIRST + datetime.timedelta(int(day))
            language, pattern = rng.choice(LANGUAGES), rng.choice(_PATTERNS)
            text = formatted(date, str(pattern), locale=str(language)).lower()
            pairs.append((text, date.isoformat()))
        return pairs

    parts = draw(days[cut:], training), draw(days[:cut], held_out)
    first, second = encode_pairs(parts, DIGITS)
    return first, second
