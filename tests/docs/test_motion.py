"""Pictures that move: what they show, and when."""

import re

import numpy as np
import pytest

pytest.importorskip("IPython", reason="the book's pages need the extra docs")
from docs.chapters.motion import choice, sliding_window, there_and_back


def test_a_window_fills_y_with_what_the_convolution_gives():
    x, weight = np.arange(16.0).reshape(4, 4), np.eye(2)
    film = sliding_window(x, weight, 2).data
    y = [x[r : r + 2, c : c + 2].trace() for r in (0, 2) for c in (0, 2)]
    shown = re.findall(r">([\d−.]+)</text>", film)
    assert [*map(float, shown[-4:])] == y
    assert film.count('opacity="0"') == 4  # the frames, where nothing moves


def test_deltas_come_after_values_and_backwards():
    film = there_and_back(("x", "y"), ([1.0], [2.0]), ([-3.0], [4.0])).data
    seen = dict(re.findall(r"@keyframes (e\d+) \{0% \{opacity: 0\} ([\d.]+)%", film))
    moments = {}
    for name, content in re.findall(r'<g class="(e\d+)">(.*?)</g>', film):
        moments[re.sub("<[^>]+>", "", content)] = float(seen.get(name, 0))
    assert moments["1"] < moments["2"] < moments["∂ 4"] < moments["∂ −3"]


def test_one_picture_is_shown_and_the_others_are_chosen_by_their_labels():
    picture = sliding_window(np.ones((2, 2)), np.ones((2, 2)), 1)
    page = choice({"η < 1": picture, "large": picture}, "rates").data
    assert re.findall(r'id="([\w-]+)"( checked)?', page) == [
        ("rates-0", " checked"),
        ("rates-1", ""),
    ]
    assert '<label for="rates-0">η &lt; 1</label>' in page
    assert page.count("#rates-1:checked ~ .rates-1 {display: block}") == 1
