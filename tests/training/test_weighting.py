"""A loss whose examples have weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.training import weighted_examples

LOSS = weighted_examples(nn.softmax_cross_entropy())
Y = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
T, W = jnp.asarray([0, 2, 1, 1]), jnp.asarray([0.5, 0.0, 2.0, 1.5])


def test_a_weight_multiplies_value_gradient_and_hessian():
    plain = nn.softmax_cross_entropy()
    np.testing.assert_allclose(LOSS.value(Y, (T, W)), W * plain.value(Y, T), rtol=1e-6)
    np.testing.assert_allclose(LOSS.gradient(Y, (T, W)), W[:, None] * plain.gradient(Y, T))
    root = LOSS.hessian_root(Y, (T, W), Y) ** 2
    np.testing.assert_allclose(root, W[:, None] * plain.hessian_root(Y, T, Y) ** 2, rtol=1e-5)


def test_a_whole_weight_is_a_repetition():
    network, key = nn.serial(nn.dense(3)), jax.random.key(0)
    params, state = network.init(key, Y)
    repeated = jnp.asarray([0, 2, 2, 2, 3])
    weights = jnp.asarray([1.0, 0.0, 3.0, 1.0]) * 4 / 5
    found = nn.backprop(network, LOSS)(params, state, Y, (T, weights))
    plain = nn.backprop(network, LOSS.loss)(params, state, Y[repeated], T[repeated])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, plain)


def test_what_has_no_weight_may_hold_anything():
    broken = Y.at[1].set(jnp.nan)

    def total(y):
        return jnp.sum(LOSS.value(y, (T, W)))

    value, gradient = jax.value_and_grad(total)(broken)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient, LOSS.gradient(broken, (T, W)), rtol=1e-5)
    assert not gradient[1].any()


def test_sums_of_half_precision_keep_their_dtype():
    assert LOSS.value(Y.astype(jnp.bfloat16), (T, W)).dtype == jnp.bfloat16
    assert LOSS.gradient(Y.astype(jnp.float16), (T, W)).dtype == jnp.float16


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (T, TypeError),
        ((T, T), TypeError),
        ((T, W[:3]), ValueError),
        ((T, W[:1]), ValueError),
        ((T, W[0]), ValueError),
        ((T, W[:, None]), ValueError),
        ((T, -W), ValueError),
    ],
)
@pytest.mark.parametrize("method", ["value", "gradient", "hessian_root"])
def test_what_is_no_weight_for_each_example_is_refused(method, target, error, untyped):
    others = (Y,) if method == "hessian_root" else ()
    with pytest.raises(error, match="weighted softmax_cross_entropy: expected"):
        getattr(LOSS, method)(Y, target, *others)
