"""Augmentations move pixels in training, leave inference alone, and move deltas back."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

IMAGES = np.random.default_rng(0).normal(size=(5, 6, 7, 2)).astype(np.float32)
KEY = jax.random.key(3)


def augment(layer, x=IMAGES, key=KEY):
    return np.asarray(jax.jit(layer.forward)((), (), jnp.asarray(x), key)[0])


@pytest.mark.parametrize(
    "layer",
    [nn.random_flip(), nn.random_crop((4, 7)), nn.random_shift(2), nn.random_shift((0, 3))],
    ids=["flip", "crop", "shift", "shift one way"],
)
def test_dx_is_that_of_autodiff(layer):
    nn.check_layer(layer, IMAGES, KEY).require()


@pytest.mark.parametrize("shape", [(4, 9, 1), (3, 5, 4, 6, 2), (0, 4, 4, 1), (1, 1, 1, 1)])
def test_any_number_of_spatial_dimensions_and_examples(shape):
    nn.check_layer(nn.serial(nn.random_flip(), nn.random_shift(1)), np.ones(shape), KEY).require()


@pytest.mark.parametrize(
    "layer",
    [nn.random_flip(), nn.random_crop((4, 4)), nn.random_shift(2)],
    ids=lambda layer: layer.name,
)
def test_inference_mode_needs_no_key_and_its_backward_belongs_to_predict(layer):
    quiet = nn.in_inference_mode(nn.serial(layer)).parts[0]
    nn.check_layer(quiet, IMAGES).require()
    y = quiet.forward((), (), jnp.asarray(IMAGES), None)[0]
    np.testing.assert_array_equal(y, layer.predict((), (), jnp.asarray(IMAGES)))


def test_flip_mirrors_some_examples_and_leaves_the_others():
    flipped = augment(nn.random_flip(), np.repeat(IMAGES, 8, axis=0))
    original = np.repeat(IMAGES, 8, axis=0)
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, original, strict=True)]
    same = [np.array_equal(a, b) for a, b in zip(flipped, original, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 5 < sum(mirrored) < 35


def test_crop_is_a_window_of_its_example():
    cropped = augment(nn.random_crop((3, 4)))
    for window, image in zip(cropped, IMAGES, strict=True):
        places = [image[i : i + 3, j : j + 4] for i in range(4) for j in range(4)]
        assert any(np.array_equal(window, place) for place in places)


def test_crop_takes_the_middle_in_inference():
    y = nn.random_crop(2).predict((), (), jnp.asarray(IMAGES))
    chex.assert_trees_all_equal(y, IMAGES[:, 2:4, 2:4])


def test_shift_moves_an_example_and_fills_with_zeros():
    moved = augment(nn.random_shift(1))
    padded = np.pad(IMAGES, [(0, 0), (1, 1), (1, 1), (0, 0)])
    for y, image in zip(moved, padded, strict=True):
        places = [image[i : i + 6, j : j + 7] for i in range(3) for j in range(3)]
        assert any(np.array_equal(y, place) for place in places)


def test_every_shift_occurs_and_about_equally_often():
    x = np.zeros((900, 5, 5, 1), np.float32)
    x[:, 2, 2] = 1
    counts = augment(nn.random_shift(1), x).sum((0, 3))[1:4, 1:4]
    assert counts.sum() == 900
    assert counts.min() > 60


@pytest.mark.parametrize("make", [nn.random_flip, lambda: nn.random_shift(2)])
def test_inference_is_the_identity(make):
    chex.assert_trees_all_equal(make().predict((), (), jnp.asarray(IMAGES)), IMAGES)


def test_crop_takes_the_middle_at_rest_and_the_others_do_nothing():
    assert repr(nn.random_crop((4, 2)).at_rest()) == "center_crop((4, 2))"
    assert nn.random_flip().at_rest() == nn.random_shift(2).at_rest() == nn.identity()


def test_the_middle_keeps_the_laws_and_gives_nothing_to_what_is_cut_off():
    middle = nn.random_crop(3).at_rest()
    nn.check_layer(middle, IMAGES).require()
    _, _, residuals = middle.forward((), (), jnp.asarray(IMAGES), None)
    dx, _ = middle.backward((), residuals, jnp.ones((5, 3, 3, 2)))
    chex.assert_trees_all_equal(
        dx, np.pad(np.ones((5, 3, 3, 2), "f"), [(0, 0), (1, 2), (2, 2), (0, 0)])
    )


def test_training_without_a_key_is_refused():
    with pytest.raises(ValueError, match="random_shift: expected key"):
        nn.random_shift(1).forward((), (), jnp.asarray(IMAGES), None)


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="random_crop: expected size to fit into x"):
        nn.random_crop(7).init(None, jnp.asarray(IMAGES))


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="random_flip"):
        nn.random_flip().init(None, jnp.ones((3, 4)))
