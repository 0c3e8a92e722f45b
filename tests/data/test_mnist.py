import re
from pathlib import Path

import numpy as np
import pooch
import pytest
import requests
from idx_files import write_idx

from jaxnn.data import idx, load, mnist
from jaxnn.data.mnist import FILES, MNIST

FASHION = MNIST["fashion_mnist"].installed


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Neither installed files nor a network."""

    def unreachable(*_, **__):
        raise requests.exceptions.ConnectionError("no network here")

    monkeypatch.setattr(pooch, "retrieve", unreachable)
    monkeypatch.setitem(
        MNIST, "fashion_mnist", MNIST["fashion_mnist"]._replace(installed=Path("/nowhere"))
    )


def arrays(train=40, test=20):
    rng = np.random.default_rng(0)
    for count in (train, test):
        yield rng.integers(0, 256, (count, 28, 28), np.uint8)
        yield (np.arange(count) % 10).astype(np.uint8)


def write_all(folder, suffix=".gz", **counts):
    written = list(arrays(**counts))
    for file, array in zip(FILES, written, strict=True):
        write_idx(folder / f"{file}{suffix}", array)
    return written


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("subfolder", ["", "mnist"])
def test_the_files_of_a_folder_are_read(tmp_path, suffix, subfolder):
    images, labels, test_images, test_labels = write_all(tmp_path / subfolder, suffix)
    splits = load("mnist", folder=tmp_path, flatten=False)
    np.testing.assert_array_equal(splits.train.x[..., 0], images / np.float32(255))
    np.testing.assert_array_equal(splits.train.target, labels)
    np.testing.assert_array_equal(splits.test.x[..., 0], test_images / np.float32(255))
    np.testing.assert_array_equal(splits.test.target, test_labels)
    assert splits.train.x.dtype == np.float32
    assert splits.train.x.shape == (40, 28, 28, 1)
    assert len(splits.validation.x) == 0


def test_names_with_a_point_are_found(tmp_path):
    labels = write_all(tmp_path)[1]
    for path in tmp_path.iterdir():
        path.rename(tmp_path / path.name.replace("-idx", ".idx"))
    np.testing.assert_array_equal(load("mnist", folder=tmp_path).train.target, labels)


def test_images_are_flattened_unless_asked_otherwise(tmp_path):
    images = write_all(tmp_path)[0]
    x = load("mnist", folder=tmp_path).train.x
    np.testing.assert_array_equal(x, images.reshape(40, 784) / np.float32(255))


def test_validation_examples_come_from_the_training_files(tmp_path):
    write_all(tmp_path)
    splits = load("fashion_mnist", folder=tmp_path, validation_fraction=0.25)
    assert [len(part.x) for part in splits[:3]] == [30, 10, 20]
    assert splits.train.class_names[9] == "Ankle boot"
    assert sorted(splits.validation.target) == list(range(10))


def test_the_environment_variable_names_a_folder_of_data_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNN_DATA", str(tmp_path))
    write_all(tmp_path / "mnist")
    write_all(tmp_path / "fashion_mnist", train=50)
    assert len(load("mnist").train.x) == 40
    assert len(load("fashion_mnist").train.x) == 50


def test_an_installed_package_is_found(tmp_path, monkeypatch):
    write_all(tmp_path)
    source = MNIST["fashion_mnist"]._replace(installed=tmp_path)
    monkeypatch.setitem(MNIST, "fashion_mnist", source)
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("JAXNN_DATA", str(tmp_path / "other"))
    assert len(load("fashion_mnist").train.x) == 40


def test_files_are_downloaded_with_their_checksums(tmp_path, monkeypatch):
    write_all(tmp_path)
    asked = []

    def retrieve(url, known_hash, fname, path, **_):
        asked.append((url, known_hash))
        return str(tmp_path / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert len(load("mnist").test.x) == 20
    source = MNIST["mnist"]
    assert asked == [
        (f"{source.url}{file}.gz", f"sha256:{sha256}")
        for file, sha256 in zip(FILES, source.sha256, strict=True)
    ]


@pytest.mark.parametrize("name", MNIST)
def test_the_error_without_files_and_network_says_every_way_to_get_them(name):
    with pytest.raises(FileNotFoundError) as raised:
        load(name)
    message = str(raised.value)
    for way in ("JAXNN_DATA", "`folder`", MNIST[name].url, *FILES, "no network here"):
        assert way in message
    assert "apt-get install dataset-fashion-mnist" in message


def test_a_folder_without_the_files_is_refused_and_nothing_else_tried(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNN_DATA", str(tmp_path / "data"))
    write_all(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="got a folder without them"):
        load("mnist", folder=tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"expected a folder, got .*nowhere, which is none"):
        load("mnist", folder=tmp_path / "nowhere")


def test_an_environment_variable_that_names_no_folder_is_refused(monkeypatch):
    monkeypatch.setenv("JAXNN_DATA", "nowhere")
    with pytest.raises(FileNotFoundError, match="JAXNN_DATA to name a folder, got 'nowhere'"):
        load("mnist")


def test_missing_companions_are_named(tmp_path):
    write_all(tmp_path)
    (tmp_path / f"{FILES.test_labels}.gz").unlink()
    with pytest.raises(FileNotFoundError, match=f"got all but {FILES.test_labels} "):
        load("mnist", folder=tmp_path)


def test_labels_in_the_place_of_images_are_refused(tmp_path):
    write_all(tmp_path, "")
    (tmp_path / FILES.train_labels).rename(tmp_path / FILES.train_images)
    write_idx(tmp_path / FILES.train_labels, np.zeros(40, np.uint8))
    with pytest.raises(ValueError, match=f"{FILES.train_images}: expected 3 axes, got 1"):
        load("mnist", folder=tmp_path)


def test_another_number_of_labels_than_of_images_is_refused(tmp_path):
    write_all(tmp_path)
    write_idx(tmp_path / f"{FILES.test_labels}.gz", np.zeros(19, np.uint8))
    with pytest.raises(ValueError, match=f"{FILES.test_labels}.gz: expected 20 labels.*got 19"):
        load("mnist", folder=tmp_path)


def test_labels_out_of_range_are_refused(tmp_path):
    write_all(tmp_path)
    write_idx(tmp_path / f"{FILES.test_labels}.gz", np.arange(20, dtype=np.uint8))
    with pytest.raises(ValueError, match="expected labels 0 to 9 for 10 classes, got 10 at ex"):
        load("mnist", folder=tmp_path)


def test_images_of_another_size_are_refused(tmp_path):
    write_all(tmp_path)
    write_idx(tmp_path / f"{FILES.train_images}.gz", np.zeros((40, 32, 32), np.uint8))
    with pytest.raises(ValueError, match=re.escape("28 by 28 pixels, got (32, 32)")):
        load("mnist", folder=tmp_path)


def test_empty_files_are_refused(tmp_path):
    write_all(tmp_path, train=0)
    with pytest.raises(ValueError, match="expected at least one example"):
        load("mnist", folder=tmp_path)


def test_the_second_load_decodes_nothing(tmp_path, monkeypatch):
    write_all(tmp_path)
    calls = []
    original = idx.read_idx
    monkeypatch.setattr(
        idx, "read_idx", lambda path, **o: calls.append(path) or original(path, **o)
    )
    first, second = (load("mnist", folder=tmp_path) for _ in range(2))
    assert len(calls) == len(FILES)
    for a, b in zip(first[:3], second[:3], strict=True):
        np.testing.assert_array_equal(a.x, b.x)
        np.testing.assert_array_equal(a.target, b.target)


@pytest.mark.skipif(
    not mnist.MNIST["fashion_mnist"].installed.is_dir(),
    reason="Debian's package dataset-fashion-mnist is not installed",
)
def test_the_real_fashion_mnist_is_read_as_published():
    splits = load("fashion_mnist", folder=FASHION, standardize="all")
    assert [len(part.x) for part in splits[:3]] == [60000, 0, 10000]
    assert splits.train.x.shape[1:] == (784,)
    for part in (splits.train, splits.test):
        np.testing.assert_array_equal(np.bincount(part.target), len(part.target) // 10)
    assert splits.train.target[:5].tolist() == [9, 0, 0, 3, 0]
    # The mean and deviation of its training pixels, as commonly cited: 0.2860 and 0.3530.
    np.testing.assert_allclose(splits.standardization.mean, 0.2860, atol=5e-5)
    np.testing.assert_allclose(splits.standardization.deviation, 0.3530, atol=5e-5)
