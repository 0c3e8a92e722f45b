import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

SHAPE = (300, 200)


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("zeros", 0.0),
        ("normal", 0.01),
        ("normal(2.5)", 2.5),
        ("glorot", np.sqrt(2 / 500)),
        ("he", np.sqrt(2 / 300)),
        ("lecun", np.sqrt(1 / 300)),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mean_deviation_and_dtype(name, deviation, dtype, x64):
    weight = nn.initializer(name)(jax.random.key(0), SHAPE, dtype)
    assert weight.dtype == dtype
    assert weight.shape == SHAPE
    np.testing.assert_allclose(weight.std(), deviation, rtol=0.02)
    assert abs(float(weight.mean())) <= 5 * deviation / np.sqrt(weight.size)


@pytest.mark.parametrize(("name", "scale"), [("orthogonal", 1.0), ("orthogonal(3)", 3.0)])
def test_orthogonal_columns(name, scale, x64):
    weight = nn.initializer(name)(jax.random.key(0), (6, 4), np.float64)
    np.testing.assert_allclose(weight.T @ weight, scale**2 * np.eye(4), atol=1e-12)


def test_a_function_is_returned_as_it_is():
    assert nn.initializer(jnp.zeros) is jnp.zeros


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kaiming", "unknown initializer 'kaiming': .*valid are"),
        ("lecum", "did you mean 'lecun'"),
        ("normal(x)", r"expected a scale as in 'normal\(0.01\)', got 'normal\(x\)'"),
        ("normal(0.1", "expected a scale as in"),
        ("normal()", "expected a scale as in"),
        ("normal(-1)", "expected scale to lie in"),
        ("orthogonal(inf)", "expected scale to lie in"),
        ("zeros()", r"'zeros' takes no scale, got 'zeros\(\)'"),
        ("he(2)", "'he' takes no scale"),
    ],
)
def test_a_wrong_name_or_scale_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        nn.initializer(name)


@pytest.mark.parametrize("given", [None, 3, ["he"]])
def test_what_is_neither_function_nor_name_is_refused(given):
    with pytest.raises(TypeError, match="initializer: expected a function or a name"):
        nn.initializer(given)
