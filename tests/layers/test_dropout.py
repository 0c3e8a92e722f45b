import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import HALVES_AND_FLOATS, normal

import jaxnn as nn


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_the_layer_keeps_the_laws(rate):
    nn.check_layer(nn.dropout(rate), normal(0, (3, 4))).require()


def test_inference_is_the_identity():
    x = normal(0, (3, 4))
    assert nn.dropout(0.5).predict((), (), x) is x


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_it_keeps_the_mean_and_drops_at_the_rate(rate):
    n = 40_000
    y, _, _ = nn.dropout(rate).forward((), (), jnp.ones((1, n)), jax.random.key(0))
    deviation = np.sqrt(rate * (1 - rate) / n)
    assert abs(np.mean(np.asarray(y) == 0) - rate) < 5 * deviation
    assert abs(float(y.mean()) - 1) < 5 * deviation / (1 - rate)
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)], rtol=1e-6)


def test_backward_drops_what_forward_dropped():
    y, _, residuals = nn.dropout(0.5).forward((), (), jnp.ones((4, 8)), jax.random.key(0))
    dx, captures = nn.dropout(0.5).backward((), residuals, jnp.ones((4, 8)))
    np.testing.assert_array_equal(dx, y)
    assert captures == ()


def test_a_key_decides_the_mask():
    x = jnp.ones((4, 16))
    first, again, other = (
        nn.dropout(0.5).forward((), (), x, jax.random.key(seed))[0] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_rate_zero_drops_nothing():
    x = normal(0, (3, 4))
    y, _, _ = nn.dropout(0.0).forward((), (), x, jax.random.key(0))
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("dtype", HALVES_AND_FLOATS)
def test_the_dtype_is_kept(dtype, x64):
    y, _, kept = nn.dropout(0.3).forward((), (), jnp.ones((2, 3), dtype), jax.random.key(0))
    assert y.dtype == nn.dropout(0.3).backward((), kept, y)[0].dtype == dtype


def test_at_rest_it_is_the_identity():
    assert nn.dropout(0.5).at_rest() == nn.identity()


def test_training_needs_a_key():
    with pytest.raises(ValueError, match="dropout: expected key to be a random key, got None"):
        nn.dropout(0.5).forward((), (), jnp.ones((1, 2)), None)


@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan"), 2])
def test_rates_outside_of_the_interval_are_refused(rate):
    with pytest.raises(ValueError, match=r"dropout: expected rate to lie in \[0, 1\)"):
        nn.dropout(rate)


@pytest.mark.parametrize("rate", ["a", None, True, np.float64(0.5)])
def test_rates_of_a_wrong_type_are_refused(rate, untyped):
    with pytest.raises(TypeError, match="dropout: expected rate to be a Python number"):
        nn.dropout(rate)
