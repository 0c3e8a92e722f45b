import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, passes, started

import jaxnn as nn
from jaxnn import statistics

LOSS = nn.half_squared_error()


def test_it_is_that_of_pytorch(x64):
    x = (jnp.sin(jnp.arange(6.0).reshape(2, 3)), jnp.cos(jnp.arange(4.0).reshape(2, 2)))
    weight = jnp.moveaxis(jnp.sin(jnp.arange(12.0).reshape(2, 3, 2) / 5), 0, -1)
    params, dy = (
        {"weight": weight, "bias": jnp.asarray([0.5, -1])},
        jnp.asarray([[1, 2], [-1, 0.5]]),
    )
    for both in (passes, passes.__wrapped__):  # with jit and without
        y, (da, db), gradients = both(nn.bilinear(2), params, (), x, dy)
        expected = [[2.1500991628605846, 1.5079032090895872]]
        expected += [[2.103029688801608, 0.9824171501767491]]
        np.testing.assert_allclose(y, expected, rtol=1e-12)
        expected = [[3.036301192328106, 3.745987419813516, 3.8642646005033736]]
        expected += [[-0.48504533102278846, 0.03101140306653627, 0.5421721184905648]]
        np.testing.assert_allclose(da, expected, rtol=1e-12)
        expected = [[4.315842272719623, 4.349534108584145]]
        expected += [[0.23415403773196475, 0.5195783335860331]]
        np.testing.assert_allclose(db, expected, rtol=1e-12)
        expected = [[0.05872664492762098, 0.13970774909946293]]
        expected += [[0.5265300204945186, -0.29458007835050176]]
        expected += [[0.5102441234363535, -0.45803234029064976]]
        np.testing.assert_allclose(gradients["weight"][..., 0], expected, rtol=1e-12)
        np.testing.assert_allclose(gradients["bias"], [0, 2.5], atol=1e-15)


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 2), (2, 0)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_it_keeps_the_laws_for_any_shape(shape, use_bias):
    x = (np.asarray(normal(2, (*shape, 3))), np.asarray(normal(3, (*shape, 4))))
    nn.check_layer(nn.bilinear(2, use_bias=use_bias), x).require()


@pytest.mark.parametrize("positions", [(), (2,), (5,)])
def test_the_gradients_of_examples_and_their_norms_are_those_of_autodiff(positions, x64):
    network = nn.bilinear(3)
    x, target = (
        (normal(0, (4, *positions, 2)), normal(1, (4, *positions, 3))),
        normal(2, (4, *positions, 3)),
    )
    params, state = started(network, x)

    def of_one(x, t):
        one = jax.tree.map(lambda a: a[None], (x, t))
        return nn.autodiff(network, LOSS)(params, state, *one)[1]

    expected = jax.jit(jax.vmap(of_one))(x, target)
    measured = jax.jit(
        statistics.measure(
            network,
            LOSS,
            gradients=statistics.per_example_gradients,
            norms=statistics.per_example_squared_norms,
            moment=statistics.gradient_second_moment,
            products=statistics.dot_products,
        )
    )(params, state, x, target)
    assert_agree(measured["gradients"], expected, 1e-10)
    flat = jnp.concatenate([g.reshape(4, -1) for g in jax.tree.leaves(expected)], 1)
    assert_agree(measured["products"], flat @ flat.T, 1e-10)
    assert_agree(measured["norms"], jnp.sum(flat**2, 1), 1e-10)
    moment = jax.tree.map(lambda g: jnp.mean(g**2, 0), expected)
    assert_agree(measured["moment"], moment, 1e-10)


def test_its_curvature_has_the_factors_of_a_linear_map(x64):
    network = nn.bilinear(3)
    x, target = (normal(0, (4, 2)), normal(1, (4, 3))), normal(2, (4, 3))
    params, state = started(network, x)
    factors = statistics.kfac_factors(network, LOSS, samples=None)(params, state, x, target)
    assert factors["inputs"].shape == (7, 7)
    assert_agree(factors["deltas"], jnp.eye(3), 1e-12)


def test_shared_uses_join_as_positions(x64):
    network = nn.serial(nn.share(nn.bilinear(2)), nn.add())
    pairs = tuple((normal(i, (2, 3)), normal(i + 5, (2, 4))) for i in range(2))
    nn.check_layer(network, jax.tree.map(np.asarray, pairs)).require()


def test_half_precision_products_are_not_rounded_before_they_are_summed():
    x = (jnp.full((2, 4), 300, jnp.float16), jnp.full((2, 4), 300, jnp.float16))
    weight = jnp.asarray(np.tile([[1e-3, -1e-3], [-1e-3, 1e-3]], (2, 2))[..., None], jnp.float16)
    y, dx, gradients = passes(nn.bilinear(1, use_bias=False), {"weight": weight}, (), x)
    np.testing.assert_array_equal(y, [[0], [0]])  # of terms of 90, whose products exceed a half
    assert all(np.isfinite(np.asarray(a, float)).all() for a in dx)
    assert gradients["weight"].dtype == jnp.float16


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (jnp.ones((2, 3)), TypeError, "bilinear: expected x to be a tuple of 2"),
        ((jnp.ones((2, 3)),) * 3, TypeError, "bilinear: expected x to be a tuple of 2"),
        ((jnp.ones((2, 3)), jnp.ones((1, 3))), ValueError, "one batch, positions and dtype"),
        ((jnp.ones((2, 3)), jnp.ones((2, 3), jnp.float16)), ValueError, "one batch, positions"),
        ((jnp.ones((2, 3)), jnp.ones((2, 3), int)), TypeError, "to be floating-point"),
        ((jnp.ones((2, 4)), jnp.ones((2, 3))), ValueError, "the last axis of x to be 3, got 4"),
    ],
)
def test_what_does_not_fit_is_refused(x, error, message):
    params, _ = nn.bilinear(2).init(jax.random.key(0), (jnp.ones((2, 3)), jnp.ones((2, 3))))
    with pytest.raises(error, match=message):
        nn.bilinear(2).predict(params, (), x)
