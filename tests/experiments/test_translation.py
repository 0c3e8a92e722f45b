"""English and Japanese sentences, and the script that learns to translate them."""

import json

import jax
import numpy as np
import optax
import pytest

from experiments.demos import translation
from experiments.demos.dates import inputs, network_for, translate
from jaxnn.data.translation import (
    cut,
    english_number,
    japanese_number,
    make_translations,
)
from jaxnn.training import create_state


@pytest.mark.parametrize(
    ("number", "english", "japanese"),
    [
        (1, "one", "一"),
        (10, "ten", "十"),
        (19, "nineteen", "十九"),
        (101, "one hundred one", "百一"),
        (1000, "one thousand", "千"),
        (10_000, "ten thousand", "一万"),
        (12_345, "twelve thousand three hundred forty-five", "一万二千三百四十五"),
        (90_070, "ninety thousand seventy", "九万七十"),
    ],
)
def test_numbers_are_spelled_by_the_rules_of_each_language(number, english, japanese):
    assert english_number(number) == english
    assert japanese_number(number) == japanese


def test_every_number_has_words_of_its_own():
    numbers = range(1, 100_000, 7)
    for spell in (english_number, japanese_number):
        assert len({spell(number) for number in numbers}) == len(numbers)
    with pytest.raises(ValueError, match="english_number: expected number to be at most 99999"):
        english_number(100_000)


def test_sentences_are_held_out_in_both_languages_and_mean_one_thing():
    pytest.importorskip("babel")
    training, held_out = make_translations(1500, 500)
    assert len(held_out.sentences) == 500
    for language in ("english", "japanese"):
        texts = [getattr(s, language) for part in (training, held_out) for s in part.sentences]
        assert len({*texts}) == len(texts)
    pairs, half = held_out.pairs, len(held_out.sentences)
    for place in (0, 7):
        sentence = held_out.sentences[place]
        assert "".join(pairs.texts[place]) == sentence.english
        assert "".join(pairs.read(pairs.target[place])) == sentence.japanese
        assert "".join(pairs.texts[half + place]) == sentence.japanese
        assert "".join(pairs.read(pairs.target[half + place])) == sentence.english


def test_words_are_tokens_with_the_space_before_them():
    assert cut("the bus leaves at 3:05 PM.") == (
        *("the", " bus", " leaves", " at", " ", "3", ":", "0", "5", " PM", "."),
    )
    assert cut("午後3時") == ("午", "後", "3", "時")


def test_the_script_trains_translates_both_ways_and_draws(tmp_path, capsys):
    pytest.importorskip("babel")
    folder = tmp_path / "run"
    sizes = ["--sentences", "40", "--held-out", "12", "--features", "8", "--batch-size", "20"]
    translation.main(["--network", "lstm", *sizes, "--epochs", "1", "--output", str(folder)])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["test"].keys() == {*translation.DIRECTIONS}
    assert (folder / "attention.png").stat().st_size > 0
    assert "Japanese to English, right as a whole: all" in capsys.readouterr().out


def test_one_pass_over_the_target_says_whether_greedy_decoding_gives_it():
    pytest.importorskip("babel")
    pairs = make_translations(3, 1)[0].pairs
    network = network_for(pairs, translation.Options("lstm", features=4))
    x = inputs(pairs)
    state = create_state(network, optax.identity(), jax.random.key(0), x)
    decoded = translate(network, state, pairs)
    assert translation.exact(network, state, pairs._replace(target=decoded)).all()
    decoded[2, -1] = (decoded[2, -1] + 1) % len(pairs.symbols)
    told = translation.exact(network, state, pairs._replace(target=decoded))
    np.testing.assert_array_equal(told, [True, True, False, True, True, True])
