"""English and Japanese sentences of one meaning, by a grammar: numbers, dates, times and prices.

    "the train leaves at 3:05 PM."      ↔  "電車は午後3時5分に出ます。"
    "twelve thousand three hundred"     ↔  "一万二千三百"

Dates, times and prices are written as the Unicode locale data have them (Babel); numbers in words
by the rules of each language: the units of English grow by thousands, those of Japanese by ten
thousands. A token is a Latin word with the space before it, or any other character.
"""

import datetime
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxnn.core.validation import require_integer, require_positive_integer
from jaxnn.data.optional import require_library
from jaxnn.data.pairs import Pairs, encode_pairs

_ONES = (
    *("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_DIGITS = "〇一二三四五六七八九"
_UNITS = ((10_000, "万"), (1000, "千"), (100, "百"), (10, "十"))
LARGEST = 99_999
_TOKEN = re.compile(" ?[A-Za-z]+|.")

EVENTS = {"meeting": "会議", "exam": "試験", "game": "試合", "wedding": "結婚式", "trip": "旅行"}
VEHICLES = {"train": "電車", "bus": "バス", "plane": "飛行機", "ship": "船"}
GOODS = {"book": "本", "hat": "帽子", "watch": "時計", "bag": "鞄", "chair": "椅子", "tea": "お茶"}
CURRENCIES = ("JPY", "USD", "EUR")


class Sentence(NamedTuple):
    """One meaning in two languages."""

    kind: str
    """number, cost, price, date, time or appointment."""
    english: str
    japanese: str


class Translations(NamedTuple):
    """Sentences, each to be translated from either language: the Japanese ones come second."""

    sentences: tuple[Sentence, ...]
    pairs: Pairs
    """Of the English texts with the Japanese ones, then the other way round."""


def make_translations(
    training: int = 6000, held_out: int = 1000, seed: int = 0
) -> tuple[Translations, Translations]:
    """Sentences to train on, and others: none is in both parts, in either language.

    Raises:
        ImportError: Babel is missing.
    """
    require_positive_integer("make_translations", "training", training)
    require_positive_integer("make_translations", "held_out", held_out)
    require_integer("make_translations", "seed", seed, 0)
    kinds = tuple(_kinds().items())
    rng = np.random.default_rng(seed)
    drawn: dict[str, Sentence] = {}
    while len(drawn) < training + held_out:
        kind, make = kinds[rng.integers(len(kinds))]
        english, japanese = make(rng)
        drawn[english] = Sentence(kind, english, japanese)
    sentences = [*drawn.values()]
    parts = sentences[held_out:], sentences[:held_out]
    both_ways = (
        [(s.english, s.japanese) for s in part] + [(s.japanese, s.english) for s in part]
        for part in parts
    )
    encoded = encode_pairs([[(cut(a), cut(b)) for a, b in pairs] for pairs in both_ways])
    first, second = (
        Translations(tuple(part), pairs) for part, pairs in zip(parts, encoded, strict=True)
    )
    return first, second


def cut(text: str) -> tuple[str, ...]:
    """A text as tokens, which put together are the text."""
    return tuple(_TOKEN.findall(text))


def english_number(number: int) -> str:
    """A number from 1 to `LARGEST` in English words."""
    _require_number("english_number", number)
    if number >= 1000:
        rest = f" {english_number(number % 1000)}" if number % 1000 else ""
        return f"{english_number(number // 1000)} thousand{rest}"
    if number >= 100:
        rest = f" {english_number(number % 100)}" if number % 100 else ""
        return f"{_ONES[number // 100]} hundred{rest}"
    if number >= 20:
        rest = f"-{_ONES[number % 10]}" if number % 10 else ""
        return f"{_TENS[number // 10 - 2]}{rest}"
    return _ONES[number]


def japanese_number(number: int) -> str:
    """The same in Japanese, where a single 十, 百 or 千 has no 一 before it, but 万 has."""
    _require_number("japanese_number", number)
    text = ""
    for size, unit in _UNITS:
        count, number = divmod(number, size)
        if count:
            text += (_DIGITS[count] if count > 1 or unit == "万" else "") + unit
    return text + (_DIGITS[number] if number else "")


def _require_number(what: str, number: int) -> None:
    require_integer(what, "number", number, 1)
    if number > LARGEST:
        raise ValueError(f"{what}: expected number to be at most {LARGEST}, got {number}")


def _kinds() -> dict[str, Callable]:
    dates = require_library("babel.dates", "make_translations")
    currency = require_library("babel.numbers", "make_translations").format_currency
    first, days = datetime.date(1950, 1, 1), 36_525

    def one(of: dict[str, str], rng: np.random.Generator) -> tuple[str, str]:
        return tuple(of.items())[rng.integers(len(of))]

    def number(rng: np.random.Generator) -> tuple[str, str]:
        # As many of each count of digits, so that small ones are not rare.
        value = int(10 ** rng.uniform(0, np.log10(LARGEST + 1)))
        return english_number(value), japanese_number(value)

    def cost(rng: np.random.Generator) -> tuple[str, str]:
        (thing, mono), (english, japanese) = one(GOODS, rng), number(rng)
        return f"the {thing} costs {english} yen.", f"{mono}は{japanese}円です。"

    def price(rng: np.random.Generator) -> tuple[str, str]:
        (thing, mono), name = one(GOODS, rng), CURRENCIES[rng.integers(len(CURRENCIES))]
        value = int(10 ** rng.uniform(1, 5)) / (1 if name == "JPY" else 100)
        english = currency(value, name, locale="en")
        japanese = currency(value, name, locale="ja", format_type="name")
        return f"the {thing} costs {english}.", f"{mono}は{japanese}です。"

    def date(rng: np.random.Generator) -> tuple[str, str]:
        event, gyouji = one(EVENTS, rng)
        day = first + datetime.timedelta(int(rng.integers(days)))
        english, japanese = (dates.format_date(day, "full", locale=of) for of in ("en", "ja"))
        return f"the {event} is on {english}.", f"{gyouji}は{japanese}です。"

    def clock(rng: np.random.Generator) -> tuple[str, str]:
        time = datetime.time(int(rng.integers(24)), int(rng.integers(60)))
        return (
            dates.format_time(time, "h:mm a", locale="en"),
            dates.format_time(time, "aK時m分", locale="ja"),
        )

    def time(rng: np.random.Generator) -> tuple[str, str]:
        (vehicle, norimono), (english, japanese) = one(VEHICLES, rng), clock(rng)
        return f"the {vehicle} leaves at {english}.", f"{norimono}は{japanese}に出ます。"

    def appointment(rng: np.random.Generator) -> tuple[str, str]:
        (event, gyouji), (english, japanese) = one(EVENTS, rng), clock(rng)
        day = first + datetime.timedelta(int(rng.integers(days)))
        on = dates.format_date(day, "MMMM d", locale="en")
        hi = dates.format_date(day, "M月d日", locale="ja")
        return (
            f"the {event} begins at {english} on {on}.",
            f"{gyouji}は{hi}の{japanese}に始まります。",
        )

    return {
        "number": number,
        "cost": cost,
        "price": price,
        "date": date,
        "time": time,
        "appointment": appointment,
    }
