import datetime

import numpy as np
import pytest

from jaxnn.data.dates import DIGITS, make_dates
from jaxnn.data.text import python_topics


def test_texts_are_encoded_with_their_lengths_and_dates():
    pytest.importorskip("babel")
    training, held_out = make_dates(200, 50)
    for dates in (training, held_out):
        for text, row, length, target in zip(
            dates.texts, dates.source, dates.lengths, dates.target, strict=True
        ):
            assert "".join(dates.alphabet[i - 1] for i in row[:length]) == text
            assert not row[length:].any()
            iso = "".join(DIGITS[i] for i in target)
            date = datetime.date.fromisoformat(iso)
            assert str(date.year) in text
            assert str(date.day) in text
        np.testing.assert_array_equal(dates.given[:, 0], np.full(len(dates.texts), len(DIGITS)))
        np.testing.assert_array_equal(dates.given[:, 1:], dates.target[:, :-1])
    assert training.alphabet == held_out.alphabet


def test_no_day_is_both_trained_on_and_held_out():
    pytest.importorskip("babel")
    training, held_out = (
        {tuple(row) for row in dates.target} for dates in make_dates(3000, 1000, fraction=0.5)
    )
    assert len(training) > 2000
    assert not training & held_out


def test_a_text_means_one_date():
    pytest.importorskip("babel")
    meanings = {}
    for dates in make_dates(3000, 10):
        for text, target in zip(dates.texts, dates.target, strict=True):
            assert meanings.setdefault(text, tuple(target)) == tuple(target)


def test_the_same_seed_draws_the_same_dates():
    pytest.importorskip("babel")
    assert make_dates(20, 5)[0].texts == make_dates(20, 5)[0].texts
    assert make_dates(20, 5)[0].texts != make_dates(20, 5, seed=1)[0].texts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"training": 0}, "training to be at least 1"),
        ({"seed": -1}, "seed to be at least 0"),
        ({"fraction": 1.0}, "fraction to lie in"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=f"make_dates: expected {message}"):
        make_dates(**options)


def test_windows_of_text_are_followed_by_their_targets():
    training, held_out = python_topics(50)
    for text in (training, held_out):
        np.testing.assert_array_equal(text.x[:, 1:], text.target[:, :-1])
        np.testing.assert_array_equal(text.x[1:, 0], text.target[:-1, -1])
    assert training.x.size > 300_000
    assert "statement" in training.decode(training.x[:200].reshape(-1))
    assert training.alphabet == held_out.alphabet
    with pytest.raises(ValueError, match="length to be below"):
        python_topics(10**6)
