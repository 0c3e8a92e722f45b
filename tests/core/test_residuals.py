"""The check of dy, for every layer."""

import jax
import jax.numpy as jnp
import pytest
from helpers import normal
from samples import LAYERS

import jaxnn as nn


def shapes_after(layer, x):
    """(params, residuals, y) of a forward pass, as shapes."""

    def forward(key, x):
        params, state = layer.init(key, x)
        y, _, residuals = layer.forward(params, state, x, key)
        return params, residuals, y

    return jax.eval_shape(forward, jax.random.key(0), x)


def floating(y, change):
    return jax.tree.map(lambda a: change(a) if jnp.issubdtype(a.dtype, jnp.floating) else None, y)


@pytest.mark.parametrize("name", LAYERS)
def test_a_dy_of_another_batch_is_refused_by_name(name):
    layer, x = LAYERS[name]
    params, residuals, y = shapes_after(layer, x)
    dy = floating(y, lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype))
    with pytest.raises(ValueError, match=r"expected dy(\[\d\])* to have the shape of y"):
        jax.eval_shape(layer.backward, params, residuals, dy)


@pytest.mark.parametrize("name", LAYERS)
def test_a_dy_without_its_batch_axis_is_refused_by_name(name):
    layer, x = LAYERS[name]
    params, residuals, y = shapes_after(layer, x)
    dy = floating(y, lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype))
    with pytest.raises(ValueError, match=r"expected dy(\[\d\])* to have the shape of y"):
        jax.eval_shape(layer.backward, params, residuals, dy)


@pytest.mark.parametrize("name", LAYERS)
def test_a_dy_of_another_dtype_is_refused_by_name(name):
    layer, x = LAYERS[name]
    params, residuals, y = shapes_after(layer, x)
    dy = floating(y, lambda a: jax.ShapeDtypeStruct(a.shape, jnp.float16))
    with pytest.raises(TypeError, match=r"expected dy(\[\d\])* to be float32 as y is, got float16"):
        jax.eval_shape(layer.backward, params, residuals, dy)


def test_a_dy_of_another_structure_is_refused_by_name():
    layer, x = nn.fork(nn.relu(), nn.tanh()), normal(0, (2, 3))
    y, _, residuals = layer.forward(((), ()), ((), ()), x, None)
    for dy in (y[0], (y[0],), (*y, y[0]), list(y)):
        with pytest.raises(
            TypeError, match="fork: expected dy to have the structure of y, a tuple"
        ):
            layer.backward(((), ()), residuals, dy)


def test_a_number_is_no_dy():
    layer = nn.relu()
    residuals = layer.forward((), (), normal(0, (2, 3)), None)[2]
    with pytest.raises(TypeError, match="relu: expected dy to be an array, got float"):
        layer.backward((), residuals, 1.0)


def test_residuals_that_no_forward_pass_returned_are_refused():
    with pytest.raises(TypeError, match="relu: expected residuals to be what its forward returned"):
        nn.relu().backward((), jnp.ones(3), jnp.ones(3))


def test_a_member_without_gradient_is_none():
    layer, x = nn.parallel(nn.relu(), nn.identity()), (normal(0, (2, 3)), jnp.arange(2))
    y, _, residuals = layer.forward(((), ()), ((), ()), x, None)
    dx, _ = layer.backward(((), ()), residuals, (y[0], None))
    assert dx[1] is None


def test_the_check_costs_a_compiled_program_nothing():
    x = normal(0, (2, 3))

    def through(backward):
        def run(x, dy):
            return backward((), nn.relu().forward((), (), x, None)[2], dy)[0]

        return jax.make_jaxpr(run)(x, x)

    unchecked = through(
        lambda params, r, dy: nn.relu.backward.__wrapped__(nn.relu(), params, r.kept, dy)
    )
    assert str(through(nn.relu().backward)) == str(unchecked)


class doubled(nn.dense):
    """A subclass that calls both passes of its base."""

    def forward(self, params, state, x, key):
        y, state, kept = super().forward(params, state, x, key)
        return 2 * y, state, kept

    def backward(self, params, residuals, dy):
        return super().backward(params, residuals, 2 * dy)


class reversed_gradient(nn.dense):
    """A subclass that calls the backward pass of its base alone."""

    def backward(self, params, residuals, dy):
        dx, capture = super().backward(params, residuals, dy)
        return -dx, capture


def test_a_subclass_may_call_the_passes_of_its_base():
    nn.check_layer(doubled(3), normal(0, (2, 4))).require()


def test_a_subclass_may_exchange_the_backward_pass_alone():
    layer, x = reversed_gradient(3), normal(0, (2, 4))
    params, state = layer.init(jax.random.key(0), x)
    y, _, residuals = layer.forward(params, state, x, None)
    dx, capture = layer.backward(params, residuals, y)
    plain = nn.dense(3)
    expected, same = plain.backward(params, plain.forward(params, state, x, None)[2], y)
    assert (dx == -expected).all()
    assert (nn.contract(capture)["weight"] == nn.contract(same)["weight"]).all()
