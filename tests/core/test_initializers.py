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
        ("glorot_normal", np.sqrt(2 / 500)),
        ("glorot_uniform", np.sqrt(2 / 500)),
        ("he_normal", np.sqrt(2 / 300)),
        ("he_uniform", np.sqrt(2 / 300)),
        ("lecun_normal", np.sqrt(1 / 300)),
        ("lecun_uniform", np.sqrt(1 / 300)),
        ("truncated_normal(2)", 2 * 0.8796257),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mean_deviation_and_dtype(name, deviation, dtype, x64):
    weight = nn.initializer(name)(jax.random.key(0), SHAPE, dtype)
    assert weight.dtype == dtype
    assert weight.shape == SHAPE
    np.testing.assert_allclose(weight.std(), deviation, rtol=0.02)
    assert abs(float(weight.mean())) <= 5 * deviation / np.sqrt(weight.size)


JAX = {
    "ones": jax.nn.initializers.ones,
    "truncated_normal": jax.nn.initializers.truncated_normal(),
    "truncated_normal(0.5)": jax.nn.initializers.truncated_normal(0.5),
    "uniform": jax.nn.initializers.uniform(),
    "uniform(3)": jax.nn.initializers.uniform(3.0),
    "glorot": jax.nn.initializers.glorot_uniform(),
    "glorot_normal": jax.nn.initializers.glorot_normal(),
    "he": jax.nn.initializers.he_normal(),
    "he_uniform": jax.nn.initializers.he_uniform(),
    "lecun_uniform": jax.nn.initializers.lecun_uniform(),
}


@pytest.mark.parametrize("name", JAX)
def test_the_numbers_are_those_of_the_initialiser_of_jax(name):
    drawn, expected = (
        f(jax.random.key(3), (3, 5), np.float32) for f in (nn.initializer(name), JAX[name])
    )
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
@pytest.mark.parametrize(
    "name", ["uniform(2)", "truncated_normal(2)", "he_uniform", "glorot_normal"]
)
def test_half_precision_numbers_are_finite_and_keep_their_dtype(name, dtype):
    weight = nn.initializer(name)(jax.random.key(0), (50, 40), dtype)
    assert weight.dtype == dtype
    assert np.isfinite(np.asarray(weight, float)).all()
    assert np.asarray(weight, float).std() > 0


def test_uniform_numbers_lie_between_0_and_the_scale_and_truncated_ones_within_2_scales():
    uniform = nn.initializer("uniform(3)")(jax.random.key(0), SHAPE, np.float32)
    assert 0 <= uniform.min() < 0.01 < 2.99 < uniform.max() < 3
    truncated = nn.initializer("truncated_normal(3)")(jax.random.key(0), SHAPE, np.float32)
    assert 5.9 < abs(np.asarray(truncated)).max() <= 6


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
        ("glorot_normal(2)", "'glorot_normal' takes no scale"),
        ("truncated_normal(-1)", "expected scale to lie in"),
        ("uniform(nan)", "expected scale to lie in"),
        ("glorot_unifrom", "did you mean 'glorot_uniform'"),
    ],
)
def test_a_wrong_name_or_scale_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        nn.initializer(name)


@pytest.mark.parametrize("given", [None, 3, ["he"]])
def test_what_is_neither_function_nor_name_is_refused(given):
    with pytest.raises(TypeError, match="initializer: expected a function or a name"):
        nn.initializer(given)
