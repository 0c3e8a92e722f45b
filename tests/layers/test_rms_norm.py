import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import HALVES_AND_FLOATS, assert_agree, normal, passes, started
from hypothesis import given
from hypothesis import strategies as st

import jaxnn as nn
from jaxnn.statistics import per_example_gradients


@given(
    shape=st.sampled_from([(1, 1), (3, 4), (2, 3, 5)]),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
)
def test_value_and_backward_agree_with_the_formula(shape, scale):
    layer = nn.rms_norm()
    with jax.enable_x64(True):
        x, dy = scale * np.asarray(normal(0, shape)), normal(1, shape)
        params, _ = started(layer, x)

        def reference(params, x):
            return params["scale"] * x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)

        @jax.jit
        def both(params, x, dy):
            expected, vjp = jax.vjp(reference, params, x)
            return passes(layer, params, (), x, dy), (expected, *vjp(dy))

        (y, dx, gradients), (expected, expected_gradients, expected_dx) = both(params, x, dy)
        assert_agree((y, gradients), (expected, expected_gradients), 1e-10)
        # One feature leaves nothing of x: its gradient is rounding.
        floor = 1e-12 * np.linalg.norm(dy) / min(scale, 1)
        error = np.linalg.norm(np.asarray(dx) - np.asarray(expected_dx))
        assert error <= 1e-10 * np.linalg.norm(expected_dx) + floor


def test_it_agrees_with_pytorch(x64):
    torch = pytest.importorskip("torch", reason="PyTorch is an independent reference")
    x = normal(0, (5, 4))
    params, _ = started(nn.rms_norm(), x)
    scale = torch.tensor(np.asarray(params["scale"]))
    expected = torch.nn.functional.rms_norm(torch.tensor(np.asarray(x)), (4,), scale, 1e-5)
    for both in (passes, passes.__wrapped__):  # with jit and without
        assert_agree(both(nn.rms_norm(), params, (), x)[0], expected.numpy(), 1e-12)


@pytest.mark.parametrize("dtype", HALVES_AND_FLOATS)
def test_the_dtype_of_the_input_is_that_of_everything(dtype, x64):
    x = jnp.asarray([[1000, 2000], [3, 5]], dtype)  # whose squares overflow in half precision
    params, _ = nn.rms_norm().init(None, x)
    leaves = jax.tree.leaves((params, passes(nn.rms_norm(), params, (), x)))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}
    assert all(np.all(np.isfinite(np.asarray(leaf, float))) for leaf in leaves)


def test_gradients_of_single_examples_have_no_offset(x64):
    x = normal(0, (3, 4))
    params, state = started(nn.rms_norm(), x)
    compute = jax.jit(per_example_gradients(nn.rms_norm(), nn.half_squared_error()))
    gradients = compute(params, state, x, normal(1, (3, 4)))
    assert set(gradients) == {"scale"}
    assert gradients["scale"].shape == (3, 4)


def test_unfit_input_and_arguments_are_refused(untyped):
    params, _ = nn.rms_norm().init(None, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="rms_norm: expected the last axis of x to be 3, got 4"):
        nn.rms_norm().predict(params, (), jnp.ones((2, 4)))
    with pytest.raises(TypeError, match="rms_norm: expected x to be floating-point"):
        nn.rms_norm().init(None, jnp.ones((2, 3), int))
    with pytest.raises(ValueError, match="rms_norm: expected epsilon"):
        nn.rms_norm(-1.0)
