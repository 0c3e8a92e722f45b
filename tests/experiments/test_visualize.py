"""Pictures of what is inside of a network, whatever stands around its layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, initialized, normal

import jaxnn as nn
from experiments import train, visualize
from experiments.support.watching import Watched, unrolled, watched

IMAGES = normal(0, (5, 8, 8, 2), np.float32)


def block():
    return nn.skip(nn.conv(4, (3, 3)), nn.batch_norm(), nn.relu())


def network():
    return nn.serial(
        *(nn.random_crop((6, 6)), nn.random_flip(), nn.random_shift(1), nn.conv(4, (3, 3))),
        *(nn.tanh(), nn.repeat(block(), 2), nn.dropout(0.5), nn.flatten(), nn.dense(3)),
    )


WRAPPED = {
    "bare": lambda network: network,
    "bfloat16": lambda network: nn.with_precision(network, nn.POLICIES["bfloat16"]),
    "float16": lambda network: nn.with_precision(network, nn.POLICIES["float16"]),
    "feedback_alignment": nn.feedback_alignment,
    "kolen_pollack": nn.kolen_pollack,
    "precision of a rule": lambda network: nn.with_precision(
        nn.feedback_alignment(network), nn.POLICIES["bfloat16"]
    ),
}
HALVES = ("bfloat16", "float16", "precision of a rule")


@pytest.mark.parametrize("name", WRAPPED)
def test_saliency_is_the_slope_of_the_largest_output_by_the_pixels(name):
    wrapped = WRAPPED[name](network())
    params, state = initialized(wrapped, IMAGES)
    dx, units = visualize.saliency(wrapped, params, state, IMAGES)

    @jax.jit
    def reference(params, state, x):
        y, vjp = jax.vjp(lambda x: wrapped.predict(params, state, x), x)
        largest = jnp.argmax(y, 1)
        return largest, *vjp(jax.nn.one_hot(largest, 3, dtype=y.dtype))

    largest, slope = reference(params, state, IMAGES)
    np.testing.assert_array_equal(units, largest)
    assert_agree(dx, slope, 0.05 if name in HALVES else 1e-5)


COPY = ("0.1.0 conv", "0.1.1 batch_norm", "0.1.2 relu", "1 add")
PLACES = [
    *("0 random_crop", "3 conv", "4 tanh"),
    *(f"5.{number}.{layer}" for number in range(2) for layer in COPY),
]


@pytest.mark.parametrize("name", WRAPPED)
def test_feature_maps_are_what_the_layers_return_of_a_repeated_one_each_copy(name):
    whole = network()
    wrapped = WRAPPED[name](whole)
    params, state = initialized(wrapped, IMAGES)
    maps = visualize.feature_maps(wrapped, params, state, IMAGES[:1])
    assert [place for place, _ in maps] == PLACES
    assert all(image.dtype == np.float32 for _, image in maps)
    tolerance = 0.05 if name in HALVES else 1e-6
    places = {"3 conv": 4, "4 tanh": 5, "5.1.1 add": 6}

    @jax.jit
    def images_of(params):
        _, state = whole.init(jax.random.key(0), IMAGES)
        first = {place: nn.serial(*whole.layers[:count]) for place, count in places.items()}
        return {
            place: part.predict(params[: places[place]], state[: places[place]], IMAGES[:1])[0]
            for place, part in first.items()
        }

    for place, expected in images_of(params).items():
        assert_agree(dict(maps)[place], np.asarray(expected), tolerance)


def test_feature_maps_look_into_recomputed_parts_and_use_names():
    whole = nn.serial(
        stem=nn.recompute(nn.serial(nn.conv(2, (3, 3)), nn.relu())), pool=nn.max_pool(2)
    )
    maps = visualize.feature_maps(whole, *initialized(whole, IMAGES), IMAGES[:1])
    assert [place for place, _ in maps] == ["stem.0.0 conv", "stem.0.1 relu", "pool max_pool"]


def test_an_unrolled_network_is_the_same_function():
    nested = nn.serial(nn.repeat(nn.serial(nn.dense(3), nn.repeat(nn.skip(nn.dense(3)), 2)), 3))
    x = normal(0, (4, 3), np.float32)
    params, state = initialized(nested, x)
    y = unrolled(nested).predict(params, state, x)
    np.testing.assert_allclose(y, nested.predict(params, state, x), rtol=1e-6)
    kinds = {type(layer) for _, layer in nn.walk(unrolled(nested))}
    assert kinds == {nn.dense, nn.identity, nn.add}


def test_a_watched_network_is_the_same_value_where_the_watch_changes_nothing():
    whole = nn.with_precision(nn.feedback_alignment(network()), nn.POLICIES["float16"])
    assert watched(whole, lambda path, layer: layer) == whole


def test_a_watch_sees_what_flows_forward_and_back():
    seen = []
    layer = nn.straight_through(nn.heaviside(), nn.tanh())
    x = normal(0, (4, 3), np.float32)
    look = Watched(layer, lambda what, value: seen.append((what, value)), slope=True)
    y, _, residuals = look.forward(((), ()), ((), ()), x, None)
    look.backward(((), ()), residuals, 2 * y)
    assert [what for what, _ in seen] == ["y", "slope", "dy"]
    expected = (y, 1 - jnp.tanh(x) ** 2, 2 * y)
    for (_, value), right in zip(seen, expected, strict=True):
        np.testing.assert_allclose(value, right, rtol=1e-6)


def test_pictures_of_a_run_in_half_precision_are_drawn(tmp_path):
    run, pictures = str(tmp_path / "run"), tmp_path / "pictures"
    layers = ("random_crop((6, 6))", "conv(4, (3, 3))", "relu()", "repeat(conv(4, (3, 3)), 2)")
    arguments = ["--network", *layers, "flatten()", "dense(10)", "--precision", "bfloat16"]
    train.main(["digits_cnn", *arguments, "--epochs", "1", "--output", run])
    visualize.main([run, "--examples", "3", "--output", str(pictures)])
    drawn = {path.name for path in pictures.iterdir()}
    assert drawn == {"kernels.png", "feature_maps.png", "saliency.png"}
