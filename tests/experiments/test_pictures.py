"""Pictures of whatever people's data are called and look like: none can fail a run."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from experiments import train
from experiments.support import figures, style


def drawn(path, make):
    assert style.draw(path, make) == path
    height, width, _ = matplotlib.image.imread(path).shape
    return height, width


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("classes", [2, 31, 1100])
def test_a_confusion_matrix_has_a_bounded_size(classes, tmp_path):
    labels = np.arange(3 * classes) % classes
    names = [f"class {k}" for k in range(classes)]
    size = drawn(tmp_path / "m.png", lambda: figures.confusion_matrix(labels, labels, names, "t"))
    assert max(size) < 6000


def test_of_many_classes_the_worst_pairs_are_named_and_no_share_goes_unseen():
    classes = 1000
    labels = np.repeat(np.arange(classes), 4)
    decided = labels.copy()
    decided[:3], decided[40:41] = 7, 999  # class 0 for 7 three times, class 10 for 999 once
    names = [f"kind {k}" for k in range(classes)]
    figure = figures.confusion_matrix(labels, decided, names, "test")
    first, second = texts(figure)
    assert first == "3 of 4: kind 0 taken for kind 7"
    assert second == "1 of 4: kind 10 taken for kind 999"
    cells = figure.axes[0].images[0].get_array()
    assert cells.shape == (500, 500)
    assert cells[0, 3] == 0.75
    assert cells[5, 499] == 0.25


def test_memory_is_that_of_the_examples_however_many_classes_there_are():
    classes = 300_000
    names = ["x"] * classes
    labels = np.array([0, classes - 1], np.int32)
    figure = figures.confusion_matrix(labels, labels[::-1], names, "test")
    assert len(texts(figure)) == 2


NAMES = {
    "dollars": "$0_to_$50",
    "broken formula": "$5_$10",
    "no dollar": "a_b^c",
    "formula": r"\frac{$1}",
    "CJK": "猫と犬",
    "RTL": "قطة חתול",
    "lines": "two\nlines",
    "long": "x" * 500,
    "empty": "",
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_are_drawn_as_they_are(name, tmp_path):
    labels = np.array([0, 1, 1])
    images = np.ones((3, 4, 4, 1))
    about = labels, labels[::-1], (name, "other"), f"of {name}"
    drawn(tmp_path / "m.png", lambda: figures.confusion_matrix(*about))
    drawn(tmp_path / "i.png", lambda: figures.mistakes(images, *about))
    drawn(tmp_path / "s.png", lambda: figures.saliency(images, images, [name] * 3))


def test_a_dollar_is_no_formula():
    figure = figures.confusion_matrix(np.array([0, 1]), np.array([0, 1]), ("$5_$10", "b"), "t")
    label = figure.axes[0].get_xticklabels()[0]
    text, is_math = label._preprocess_math(label.get_text())
    assert (text, is_math) == ("$5_$10", False)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 40])
def test_images_of_any_channels_and_range_are_drawn(channels, tmp_path):
    images = np.linspace(-300, 500, 2 * 6 * 5 * channels).reshape(2, 6, 5, channels)
    labels = np.array([0, 1])
    about = labels, labels[::-1], ("a", "b"), "t"
    figure = figures.mistakes(images, *about)
    assert drawn(tmp_path / "i.png", lambda: figure)
    shape = figure.axes[0].images[0].get_array().shape
    planes = 1 if channels in (3, 4) else min(channels, 8)
    assert shape[:2] == (6, 5 * planes)


def test_what_goes_wrong_with_a_picture_is_a_warning_and_the_next_is_drawn(tmp_path):
    def fail():
        raise MemoryError

    with pytest.warns(UserWarning, match="bad.png could not be drawn: MemoryError"):
        assert style.draw(tmp_path / "bad.png", fail) is None
    assert style.draw(tmp_path / "none.png", lambda: None) is None
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_exists_is_refused_before_it_is_made(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(FileExistsError):
        style.draw(tmp_path / "a.png", lambda: 1 / 0)


def test_a_run_on_images_of_two_channels_with_dollars_in_their_names_draws_all(capsys):
    random = np.random.default_rng(0)
    x, names = random.normal(size=(40, 3, 3, 2)), ["$0_to_$50", "$5_$10"]
    np.savez("t.npz", x=x, target=np.arange(40) % 2, class_names=names)
    options = ["--network", "dense(2)", "--epochs", "1", "--output", "run"]
    train.main(["wine_mlp", "--data.name", "t.npz", *options])
    last = capsys.readouterr().out.splitlines()[-1]
    pictures = ("learning_curves.png", "confusion_matrix.png", "mistakes.png")
    assert f"run: {', '.join(pictures)}, metrics.jsonl" in last
    assert all(Path("run", name).stat().st_size for name in pictures)


def test_a_picture_that_fails_is_a_warning_after_the_metrics_are_safe(monkeypatch, capsys):
    monkeypatch.setattr(figures, "learning_curves", lambda *_: 1 / 0)
    options = ["--network", "dense(3)", "--epochs", "1", "--output", "run"]
    with pytest.warns(UserWarning, match="learning_curves.png could not be drawn"):
        train.main(["wine_mlp", *options])
    assert '"test"' in Path("run/metrics.jsonl").read_text()
    assert "run: confusion_matrix.png, metrics.jsonl" in capsys.readouterr().out
