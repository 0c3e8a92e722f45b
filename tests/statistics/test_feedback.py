"""Curvature of a network under a rule of feedback is that of the plain network."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started

import jaxnn as nn
from jaxnn import statistics
from jaxnn.learning.preconditioning import kfac

BATCH = 4
LOSS = nn.softmax_cross_entropy()
PLAIN = nn.serial(nn.dense(4), nn.tanh(), nn.dense(3))
FED = {
    "feedback_alignment": nn.feedback_alignment(PLAIN),
    "sign_concordant": nn.sign_concordant(PLAIN),
    "kolen_pollack": nn.kolen_pollack(PLAIN),
    "straight_through": nn.serial(
        nn.dense(4), nn.straight_through(nn.tanh(), nn.identity()), nn.dense(3)
    ),
}
TRUE = {
    "straight_through": nn.serial(
        nn.dense(4), nn.straight_through(nn.tanh(), nn.tanh()), nn.dense(3)
    ),
}
"""What a network's curvature is that of, where it is not `PLAIN`."""
CURVATURE = {
    "GGN product": statistics.ggn_vector_product,
    "GGN diagonal": statistics.diagonal_ggn,
    "Fisher": statistics.fisher_information,
    "empirical Fisher": partial(statistics.fisher_information, empirical=True),
    "K-FAC": partial(statistics.kfac_factors, samples=None),
    "Hessian product": statistics.hessian_vector_product,
    "Hessian diagonal": partial(statistics.hessian_diagonal, samples=1),
    "kernel": lambda network, loss: statistics.empirical_ntk(network),
    "influence": partial(statistics.influence, damping=0.1),
}


def batch():
    return normal(0, (BATCH, 4)), jnp.array([0, 2, 1, 1])


@cache
def curvature(quantity, network):
    """Of params that are the same for every network of these shapes; in float64."""
    x, target = batch()
    params, state = started(network, x)
    vector = (jax.tree.map(jnp.cos, params),) if "product" in quantity else ()
    key = (jax.random.key(0),) if quantity == "Hessian diagonal" else ()
    rest = () if quantity == "kernel" else (target, *key)
    queries = (x[:2] + 1, target[:2]) if quantity == "influence" else ()
    compute = CURVATURE[quantity](network, LOSS)
    return jax.jit(compute)(*vector, params, state, x, *rest, *queries)


@pytest.mark.parametrize("rule", FED)
@pytest.mark.parametrize("quantity", CURVATURE)
def test_curvature_is_that_of_the_plain_network(quantity, rule, x64):
    expected = curvature(quantity, TRUE.get(rule, PLAIN))
    assert_agree(curvature(quantity, FED[rule]), expected, 1e-10)


def test_the_gauss_newton_matrix_of_a_fed_network_is_symmetric(x64):
    x, target = batch()
    network = FED["feedback_alignment"]
    params, state = jax.jit(network.init)(jax.random.key(1), x)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    product = statistics.ggn_vector_product(network, LOSS)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def column(vector, state):
        return jax.flatten_util.ravel_pytree(product(unravel(vector), params, state, x, target))[0]

    matrix = np.asarray(column(jnp.eye(flat.size), state))
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)


@pytest.mark.parametrize("rule", FED)
def test_quantities_of_the_update_keep_the_rule(rule, x64):
    x, target = batch()
    network = FED[rule]
    params, state = jax.jit(network.init)(jax.random.key(1), x)

    @jax.jit
    def both(params, state, x, target):
        each = statistics.per_example_gradients(network, LOSS)(params, state, x, target)
        mean = jax.tree.map(lambda g: jnp.mean(g, 0), each)
        true = nn.autodiff(network, LOSS)(params, state, x, target)[1]
        return mean, nn.backprop(network, LOSS)(params, state, x, target)[1], true

    mean, update, true = both(params, state, x, target)
    assert_agree(mean, update, 1e-12)
    first, of_first = (np.asarray(tree[0]["weight"]) for tree in (update, true))
    assert np.abs(first - of_first).max() > 1e-3


def test_preconditioning_takes_the_plain_curvature(x64):
    x, target = batch()
    network = FED["feedback_alignment"]
    params, state = jax.jit(network.init)(jax.random.key(1), x)
    _, own = jax.eval_shape(PLAIN.init, jax.random.key(1), x)

    def factors(network, state):
        transformation = kfac(network, LOSS, x, target, damping=0.1, samples=None)
        arguments = (state, x, target, None, None)
        update = jax.jit(transformation.update)
        return update(params, transformation.init(params), params, arguments=arguments)[1].factors

    assert_agree(factors(network, state), factors(PLAIN, own), 1e-12)
