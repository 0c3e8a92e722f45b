import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_equal
from helpers import normal
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnn as nn

LAYER = nn.dropout(0.5, spatial=True)


@given(
    batch=st.integers(0, 3),
    positions=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    channels=st.integers(1, 3),
)
@settings(max_examples=4)
def test_the_layer_keeps_the_laws_for_any_shape(batch, positions, channels):
    nn.check_layer(LAYER, np.asarray(normal(0, (batch, *positions, channels)))).require()


def test_a_feature_map_is_kept_or_dropped_as_a_whole():
    x = jnp.ones((20, 3, 4, 10))
    y, _, kept = LAYER.forward((), (), x, jax.random.key(0))
    assert_trees_all_equal(y, jnp.broadcast_to(y[:, :1, :1], x.shape))
    assert set(jnp.unique(y).tolist()) == {0.0, 2.0}
    assert_trees_all_equal(LAYER.backward((), kept, x)[0], y)


def test_the_share_of_maps_that_are_dropped_is_the_rate():
    x = jnp.ones((100, 2, 100))
    y = nn.dropout(0.3, spatial=True).forward((), (), x, jax.random.key(0))[0]
    # Five standard deviations of the mean of 10,000 draws.
    assert abs(float(jnp.mean(y == 0)) - 0.3) < 5 * (0.3 * 0.7 / 10_000) ** 0.5


def test_what_is_kept_for_backward_is_one_number_for_each_example_and_channel():
    _, _, residuals = LAYER.forward((), (), jnp.ones((2, 5, 6, 3)), jax.random.key(0))
    assert residuals.kept.shape == (2, 1, 1, 3)


def test_inference_is_the_identity():
    x = normal(0, (2, 3, 4))
    assert_trees_all_equal(LAYER.predict((), (), x), x)


def test_an_input_without_positions_is_refused():
    with pytest.raises(ValueError, match="dropout: expected x to have at least 3 axes"):
        LAYER.init(None, jnp.ones((2, 3)))


def test_training_without_a_key_is_refused():
    with pytest.raises(ValueError, match="dropout: expected key"):
        LAYER.forward((), (), jnp.ones((2, 3, 4)), None)


def test_spatial_that_is_no_truth_value_is_refused(untyped):
    with pytest.raises(TypeError, match="dropout: expected spatial to be True or False, got 1"):
        nn.dropout(0.5, spatial=1)
