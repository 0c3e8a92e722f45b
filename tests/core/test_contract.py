"""Layers and losses of one's own, defined outside of the package, in everything that takes one."""

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started

import jaxnn as nn
from jaxnn import statistics
from jaxnn.core.validation import require_positive

X, TARGET = normal(0, (4, 3)), normal(1, (4, 3))


class gain(nn.Layer):
    """y = factor · scale · x; dx = factor · scale · dy, ∂L/∂scale = Σ factor x dy."""

    factor: Annotated[float, require_positive] = 1.0

    def init(self, key, x):
        return {"scale": jnp.ones(x.shape[-1], x.dtype)}, ()

    def forward(self, params, state, x, key):
        return self.factor * params["scale"] * x, state, x

    def backward(self, params, residuals, dy):
        dx = self.factor * params["scale"] * dy
        return dx, nn.AffineCapture(self.factor * residuals, dy, use_offset=False)


class fourth_power(nn.Loss):
    """Σ (y − t)⁴; gradient 4 (y − t)³."""

    def value(self, prediction, target):
        return jnp.sum((prediction - target) ** 4, -1)

    def gradient(self, prediction, target):
        return 4 * (prediction - target) ** 3


NETWORK = nn.serial(nn.dense(3), gain(2.0), nn.tanh())


def test_the_laws_are_checked_in_one_line():
    nn.check_layer(gain(2.0), X).require()


def test_its_gradient_is_that_of_autodiff_and_of_differences(x64):
    x, target = jnp.asarray(X, float), jnp.asarray(TARGET, float)
    params, state = started(NETWORK, x)
    nn.check_gradients(NETWORK, fourth_power(), params, state, x, target).require()


def test_it_is_a_value_with_checked_fields():
    assert gain(2.0) == gain(factor=2.0) != gain()
    assert (repr(gain(2.0)), repr(gain())) == ("gain(2.0)", "gain()")
    with pytest.raises(ValueError, match=r"gain: expected factor to lie in \(0, inf\), got -1"):
        gain(-1)


@pytest.mark.parametrize(
    "wrap",
    [
        nn.recompute,
        lambda network: nn.repeat(network, 2),
        nn.feedback_alignment,
        nn.fuse,
        nn.in_inference_mode,
        lambda network: nn.serial(named=network),
    ],
)
def test_it_goes_through_every_wrapper(wrap):
    nn_wrapped = wrap(NETWORK)
    params, state = started(nn_wrapped, X)
    y, _, residuals = nn_wrapped.forward(params, state, X, jax.random.key(0))
    _, captures = nn_wrapped.backward(params, residuals, y)
    assert jax.tree.structure(nn.contract(captures)) == jax.tree.structure(params)


def test_its_examples_have_gradients_of_their_own(x64):
    x, target = jnp.asarray(X, float), jnp.asarray(TARGET, float)
    params, state = started(NETWORK, x)
    norms = statistics.per_example_squared_norms(NETWORK, fourth_power())(params, state, x, target)

    def of_one(x, t):
        gradient = nn.autodiff(NETWORK, fourth_power())(params, state, x[None], t[None])[1]
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient))

    assert_agree(norms, jax.vmap(of_one)(x, target), 1e-10)


def test_a_layer_without_backward_cannot_be_made():
    class half(nn.Layer):
        def forward(self, params, state, x, key):
            return x, state, ()

    with pytest.raises(TypeError, match=r"abstract method '?backward"):
        half()  # pyright: ignore


def test_a_loss_of_ones_own_is_refused_by_name_where_its_hessian_root_is_asked_for():
    params, state = started(NETWORK, X)
    with pytest.raises(ValueError, match=r"fourth_power.*hessian_root|hessian_root.*fourth_power"):
        statistics.diagonal_ggn(NETWORK, fourth_power())(params, state, X, TARGET)


def test_a_layer_of_functions_has_the_name_it_is_given():
    def forward(params, state, x, key):
        return 2 * x, state, ()

    def backward(params, residuals, dy):
        return 2 * dy, ()

    double = nn.layer("double", lambda key, x: ((), ()), forward, backward)
    assert double.name == "double"
    nn.check_layer(double, X).require()
    np.testing.assert_array_equal(double.predict((), (), X), 2 * X)


def test_the_contract_is_read_in_five_minutes():
    import inspect

    from jaxnn.core import contract

    assert len(inspect.getsource(contract).splitlines()) < 200
