import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, differentiated, value_and_gradient

import jaxnn as nn


def test_sigmoid_binary_cross_entropy_is_exact_for_logits_of_any_size(x64):
    z, t = jnp.asarray([1e4, -1e4, 1e4, -1e4]), jnp.asarray([1, 0, 0, 1])
    values, gradient = value_and_gradient(nn.sigmoid_binary_cross_entropy(), z, t)
    np.testing.assert_allclose(values, [0, 0, 1e4, 1e4])
    np.testing.assert_allclose(gradient, [0, 0, 1, -1])


@pytest.mark.parametrize(
    ("loss", "y", "t", "slopes"),
    [
        (nn.sum_absolute_error(), [2.0], [2.0], [0.0]),
        (nn.hinge(), [1.0, -1.0], [1.0, -1.0], [0.0, 0.0]),
        (nn.huber(), [3.0, 1.0, 2.0], [2.0, 2.0, 2.0], [1.0, -1.0, 0.0]),
    ],
)
def test_gradients_at_kinks_and_ties_are_those_of_differentiated(loss, y, t, slopes):
    y, t, slopes = (jnp.asarray(np.transpose([a])) for a in (y, t, slopes))
    np.testing.assert_array_equal(value_and_gradient(loss, y, t)[1], slopes)
    np.testing.assert_array_equal(differentiated(loss.value, y, t)[1], slopes)


@pytest.mark.parametrize("loss", [nn.binary_cross_entropy(), nn.categorical_cross_entropy()])
def test_the_small_constant_keeps_certain_but_wrong_probabilities_finite(loss):
    y, t = jnp.asarray([[0.0, 1.0]]), jnp.asarray([[1.0, 0.0]])
    value, gradient = value_and_gradient(loss, y, t)
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(gradient))


def test_integer_targets_of_a_regression_are_refused():
    with pytest.raises(TypeError, match="expected target to have the dtype of prediction"):
        nn.mean_squared_error().value(jnp.ones((4, 5)), jnp.ones((4, 5), int))


@pytest.mark.parametrize("certain", [0.0, 1.0])
def test_a_certain_and_right_probability_has_no_loss(certain, x64):
    y = t = jnp.full((2, 1), certain)
    value, gradient = value_and_gradient(nn.binary_cross_entropy(0.0), y, t)
    np.testing.assert_array_equal(value, [0, 0])
    np.testing.assert_array_equal(gradient, np.full((2, 1), 1 - 2 * certain))
    assert_agree((value, gradient), differentiated(nn.binary_cross_entropy(0.0).value, y, t), 1e-12)


def test_a_certain_and_wrong_probability_without_the_small_constant_is_infinite():
    y, t = jnp.array([[0.0], [1.0]]), jnp.array([[1.0], [0.0]])
    value, gradient = value_and_gradient(nn.binary_cross_entropy(0.0), y, t)
    np.testing.assert_array_equal(value, [np.inf, np.inf])
    np.testing.assert_array_equal(gradient, [[-np.inf], [np.inf]])


def test_an_infinite_and_right_logit_has_no_loss():
    z, t = jnp.array([[jnp.inf], [-jnp.inf]]), jnp.array([[1.0], [0.0]])
    loss = nn.sigmoid_binary_cross_entropy()
    for value, gradient in (value_and_gradient(loss, z, t), differentiated(loss.value, z, t)):
        np.testing.assert_array_equal(value, [0, 0])
        np.testing.assert_array_equal(gradient, [[0], [0]])


@pytest.mark.parametrize("loss", [nn.huber(), nn.sum_absolute_error(), nn.hinge()])
def test_a_loss_without_a_known_root_refuses_it_by_name(loss):
    assert not loss.root_known
    with pytest.raises(ValueError, match=f"{loss.name}: expected a loss whose hessian_root is kno"):
        loss.hessian_root(jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.ones((1, 1)))


@pytest.mark.parametrize(
    "loss",
    [
        nn.mean_squared_error(),
        nn.half_squared_error(),
        nn.sum_squared_error(),
        nn.sigmoid_binary_cross_entropy(),
    ],
)
def test_roots_are_those_of_the_hessian(loss, x64):
    y, t = jnp.array([[0.3, -1.0, 2.0]]), jnp.array([[0.0, 1.0, 0.5]])

    @jax.jit
    def both(y):
        hessian = jax.hessian(lambda y: loss.value(y[None], t)[0])(y[0])
        return jax.vmap(lambda v: loss.hessian_root(y, t, v[None])[0])(jnp.eye(3)).T, hessian

    root, hessian = both(y)
    assert loss.root_known
    assert_agree(root @ root.T, hessian, 1e-12)
