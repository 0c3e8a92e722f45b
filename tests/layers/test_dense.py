import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import HALVES_AND_FLOATS, assert_agree, normal, passes, started
from hypothesis import given
from hypothesis import strategies as st

import jaxnn as nn


@given(
    shape=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    features=st.integers(1, 4),
    out=st.integers(1, 4),
    use_bias=st.booleans(),
)
def test_value_and_backward_agree_with_an_einsum(shape, features, out, use_bias):
    with jax.enable_x64(True):
        layer = nn.dense(out, use_bias=use_bias)
        x, dy = normal(0, (*shape, features)), normal(1, (*shape, out))
        params, state = started(layer, x)

        def reference(params, x):
            y = jnp.einsum("...i,io->...o", x, params["weight"])
            return y + params["bias"] if use_bias else y

        @jax.jit
        def both(params, x, dy):
            expected, vjp = jax.vjp(reference, params, x)
            return passes(layer, params, state, x, dy), (expected, *reversed(vjp(dy)))

        (y, *by_hand), (expected, *by_autodiff) = both(params, x, dy)
        assert_agree(y, expected, 1e-13)
        assert_agree(by_hand, by_autodiff, 1e-12)


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (2, 3), (2, 2, 3), (2, 1, 2, 3)])
def test_the_layer_keeps_the_laws(shape):
    nn.check_layer(nn.dense(2), np.random.default_rng(0).normal(size=shape)).require()


def test_it_is_pytorchs_linear_with_the_weight_transposed(x64):
    torch = pytest.importorskip("torch", reason="PyTorch is an independent reference")
    linear = torch.nn.Linear(4, 3, dtype=torch.float64)
    params = {
        "weight": jnp.asarray(linear.weight.detach().numpy().T),
        "bias": jnp.asarray(linear.bias.detach().numpy()),
    }
    x = normal(0, (5, 4))
    y = linear(torch.tensor(np.asarray(x)))
    y.square().sum().backward()
    dy = jnp.asarray(2 * y.detach().numpy())
    for both in (passes, passes.__wrapped__):  # with jit and without
        own, _, gradients = both(nn.dense(3), params, (), x, dy)
        assert_agree(own, y.detach().numpy(), 1e-14)
        assert_agree(gradients["weight"], linear.weight.grad.numpy().T, 1e-13)
        assert_agree(gradients["bias"], linear.bias.grad.numpy(), 1e-13)


@pytest.mark.parametrize("dtype", HALVES_AND_FLOATS)
def test_the_dtype_of_the_input_is_that_of_everything(dtype, x64):
    layer = nn.dense(4)

    @jax.jit
    def run(x):
        params, state = layer.init(jax.random.key(0), x)
        return params, passes(layer, params, state, x)

    leaves = jax.tree.leaves(run(jnp.ones((2, 3), dtype)))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}


def test_a_layer_without_bias_has_no_bias():
    params, _ = nn.dense(3, use_bias=False).init(jax.random.key(0), jnp.ones((1, 2)))
    assert set(params) == {"weight"}


def test_initialisers_are_used():
    layer = nn.dense(3, weight_init="zeros", bias_init=jax.nn.initializers.ones)
    params, _ = layer.init(jax.random.key(0), jnp.ones((1, 2)))
    np.testing.assert_array_equal(params["weight"], np.zeros((2, 3)))
    np.testing.assert_array_equal(params["bias"], np.ones(3))


@pytest.mark.parametrize("features", ["a", 2.0, True, None])
def test_features_must_be_an_integer(features, untyped):
    with pytest.raises(TypeError, match="dense: expected features to be an integer"):
        nn.dense(features)


@pytest.mark.parametrize("features", [0, -3])
def test_features_must_be_positive(features):
    with pytest.raises(ValueError, match="dense: expected features to be at least 1"):
        nn.dense(features)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (jnp.ones((2, 100)), ValueError, "dense: expected the last axis of x to be 3, got 100"),
        (jnp.ones(3), ValueError, "dense: expected x to have at least 2 axes"),
        (jnp.ones((2, 3), int), TypeError, "dense: expected x to be floating-point, got int32"),
        (
            jnp.ones((2, 3), jnp.float16),
            TypeError,
            "dense: expected x to be float32 as its parameters are, got float16",
        ),
        ([[1.0, 2.0, 3.0]], TypeError, "dense: expected x to be an array, got list"),
    ],
)
def test_an_unfit_input_is_refused(x, error, message, untyped):
    params, state = nn.dense(2).init(jax.random.key(0), jnp.ones((2, 3)))
    with pytest.raises(error, match=message):
        nn.dense(2).forward(params, state, x, None)


def test_init_needs_a_key():
    with pytest.raises(ValueError, match="dense: expected key to be a random key, got None"):
        nn.dense(2).init(None, jnp.ones((2, 3)))


def test_use_bias_must_be_boolean(untyped):
    with pytest.raises(TypeError, match="dense: expected use_bias to be True or False, got 'no'"):
        nn.dense(2, use_bias="no")
