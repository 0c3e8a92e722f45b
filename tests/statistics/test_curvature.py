"""K-FAC, Hessians, Monte Carlo estimates and influence against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_agree, normal, started
from jax.flatten_util import ravel_pytree

import jaxnn as nn
from jaxnn import statistics

BATCH = 3
WEIGHTS = np.array([0.5, 2.0, 1.0])


def full_ggn(network, loss, *arguments):
    """The Gauss-Newton matrix of the mean loss, by jax.jacrev and jax.hessian alone."""

    @jax.jit
    def compute(params, state, x, target):
        flat, unravel = ravel_pytree(params)

        def predict(flat):
            return network.forward(unravel(flat), state, x, None)[0]

        def mean_loss(prediction):
            return jnp.mean(loss.value(prediction, target))

        prediction = predict(flat)
        jacobian = jax.jacrev(lambda flat: predict(flat).ravel())(flat)
        hessian = jax.hessian(lambda y: mean_loss(y.reshape(prediction.shape)))(prediction.ravel())
        return jacobian.T @ hessian @ jacobian

    return np.asarray(compute(*arguments))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("positions", ["expand", "reduce"])
def test_kfac_of_one_example_with_one_position_is_its_gauss_newton_matrix(positions, use_bias, x64):
    network, loss = nn.dense(3, use_bias=use_bias), nn.softmax_cross_entropy()
    x, target = normal(0, (1, 4)), jnp.array([2])
    params, state = started(network, x)
    compute = jax.jit(statistics.kfac_factors(network, loss, samples=None, positions=positions))
    factors = compute(params, state, x, target)
    assert factors["inputs"].shape == (4 + use_bias,) * 2
    # A dict is ravelled with the bias first; the factors have it last.
    order = np.roll(np.arange((4 + use_bias) * 3), -3) if use_bias else np.arange(12)
    exact = full_ggn(network, loss, params, state, x, target)[np.ix_(order, order)]
    assert_agree(np.kron(factors["inputs"], factors["deltas"]), exact, 1e-9)


def test_kfac_factors_are_the_weighted_means_of_their_definitions(x64):
    """One dense layer at five positions: its deltas are the columns themselves."""
    network, loss = nn.dense(2), nn.half_squared_error()
    x, target = normal(0, (BATCH, 5, 3)), normal(1, (BATCH, 5, 2))
    params, state = started(network, x)
    shares = np.asarray(WEIGHTS / WEIGHTS.sum())
    a = np.concatenate([np.asarray(x), np.ones((BATCH, 5, 1))], -1)
    ways = {
        # The root of the loss Hessian is the identity: a column is one output at one position.
        "expand": (np.einsum("b,bti,btj->ij", shares, a, a) / 5, 5 * np.eye(2)),
        "reduce": (np.einsum("b,bi,bj->ij", shares, a.mean(1), a.mean(1)), 5 * np.eye(2)),
    }
    for positions, (inputs, deltas) in ways.items():
        compute = statistics.kfac_factors(network, loss, samples=None, positions=positions)
        factors = jax.jit(compute)(params, state, x, target, None, jnp.asarray(WEIGHTS))
        assert_agree(factors, {"inputs": inputs, "deltas": deltas}, 1e-12)


def test_kfac_of_a_convolution_is_that_of_the_dense_layer_on_its_patches(x64):
    conv, loss = nn.conv(4, (2, 2), groups=2, padding="VALID"), nn.half_squared_error()
    network = nn.serial(conv, nn.layer_norm())
    x = normal(0, (BATCH, 3, 3, 2))
    params, state = started(network, x)
    target = jnp.zeros((BATCH, 2, 2, 4))
    compute = statistics.kfac_factors(network, loss, samples=None)
    factors, of_norm = jax.jit(compute)(params, state, x, target)
    assert of_norm is None
    corners = [np.asarray(x)[:, i : i + 2, j : j + 2, :] for i in (0, 1) for j in (0, 1)]
    for group in range(2):
        patches = np.stack([c[..., group].reshape(BATCH, 4) for c in corners], 1)
        a = np.concatenate([patches, np.ones((BATCH, 4, 1))], -1).reshape(-1, 5)
        assert_agree(factors["inputs"][group], a.T @ a / len(a), 1e-12)
    assert factors["deltas"].shape == (2, 2, 2)


def test_kfac_of_stacked_layers_is_stacked_and_an_embedding_has_none(x64):
    network = nn.serial(nn.embedding(5, 3), nn.repeat(nn.serial(nn.dense(3), nn.tanh()), 2))
    x, target = jnp.array([[0, 1], [2, 2], [4, 3]]), jnp.zeros((BATCH, 2), int)
    params, state = started(network, x)
    compute = jax.jit(statistics.kfac_factors(network, nn.softmax_cross_entropy()))
    of_embedding, ((of_dense, _),) = compute(params, state, x, target, jax.random.key(0))
    assert of_embedding is None
    assert {name: f.shape for name, f in of_dense.items()} == {
        "inputs": (2, 4, 4),
        "deltas": (2, 3, 3),
    }


def test_weights_of_the_factors_are_shares_of_the_examples(x64):
    network, loss = nn.dense(2), nn.half_squared_error()
    x = normal(0, (3, 2))
    params, state = started(network, x)
    weights = jnp.array([1.0, 0.0, 3.0])
    compute = jax.jit(statistics.kfac_factors(network, loss, samples=None))
    factors = compute(params, state, x, jnp.zeros((3, 2)), None, weights)
    rows = np.concatenate([x, np.ones((3, 1))], 1)
    expected = (rows * (np.asarray(weights) / 4)[:, None]).T @ rows
    assert_agree({"inputs": factors["inputs"]}, {"inputs": expected}, 1e-12)


def test_monte_carlo_is_exact_for_a_single_output_and_near_for_several(x64):
    loss, x = nn.sigmoid_binary_cross_entropy(), normal(0, (BATCH, 3))

    def both(outputs, samples):
        network = nn.dense(outputs)
        computations = [
            statistic(network, loss, samples=n)
            for statistic in (statistics.diagonal_ggn, statistics.kfac_factors)
            for n in (samples, None)
        ]
        arguments = (*started(network, x), x, jnp.zeros((BATCH, outputs)), jax.random.key(0))
        return jax.jit(lambda *arguments: [compute(*arguments) for compute in computations])(
            *arguments
        )

    diagonal, exact_diagonal, factors, exact_factors = both(1, 1)
    assert_agree((diagonal, factors), (exact_diagonal, exact_factors), 1e-12)
    # Each weight belongs to one output, and the square of its sign is 1; products of different
    # outputs are noise of relative size 1 / √samples.
    diagonal, exact_diagonal, factors, exact_factors = both(3, 4000)
    assert_agree(diagonal, exact_diagonal, 1e-12)
    assert_agree(factors, exact_factors, 5 / np.sqrt(4000))
    assert np.abs(factors["deltas"] - exact_factors["deltas"]).max() > 0


def test_hessian_products_traces_and_diagonals_are_those_of_jax_hessian(x64):
    network, loss = nn.serial(nn.dense(2), nn.tanh(), nn.dense(2)), nn.softmax_cross_entropy()
    x, target = normal(0, (BATCH, 2)), jnp.array([0, 1, 1])
    params, state = started(network, x)
    flat, unravel = ravel_pytree(params)

    def mean_loss(flat):
        values = loss.value(network.forward(unravel(flat), state, x, None)[0], target)
        return jnp.sum(WEIGHTS * values) / jnp.sum(WEIGHTS)

    hessian = np.asarray(jax.jit(jax.hessian(mean_loss))(flat))
    arguments = (params, state, x, target, jax.random.key(0), jnp.asarray(WEIGHTS))
    vector = jnp.cos(flat)
    product = jax.jit(statistics.hessian_vector_product(network, loss))
    assert_agree(product(unravel(vector), *arguments), unravel(hessian @ vector), 1e-9)

    samples = 4000
    off_diagonal = hessian - np.diag(np.diag(hessian))
    diagonal = jax.jit(statistics.hessian_diagonal(network, loss, samples=samples))(*arguments)
    error = np.abs(ravel_pytree(diagonal)[0] - np.diag(hessian))
    assert np.all(error < 5 * np.sqrt((off_diagonal**2).sum(1) / samples))
    trace = jax.jit(statistics.hessian_trace(network, loss, samples=samples))(*arguments)
    deviation = np.sqrt(2 * (off_diagonal**2).sum() / samples)
    assert abs(trace - np.trace(hessian)) < 5 * deviation


def test_a_diagonal_hessian_is_found_by_a_single_sample(x64):
    network, loss = nn.dense(2, use_bias=False), nn.half_squared_error()
    x, target = jnp.eye(BATCH) * 2, jnp.zeros((BATCH, 2))
    params, state = started(network, x)
    compute = jax.jit(statistics.hessian_diagonal(network, loss, samples=1))
    diagonal = compute(params, state, x, target, jax.random.key(0))
    assert_agree(diagonal, {"weight": jnp.full((3, 2), 4 / BATCH)}, 1e-12)


def test_influence_is_the_product_with_the_inverse_of_the_damped_gauss_newton_matrix(x64):
    network, loss = nn.serial(nn.dense(2), nn.tanh(), nn.dense(2)), nn.softmax_cross_entropy()
    x, target = normal(0, (BATCH, 2)), jnp.array([0, 1, 1])
    queries, asked = normal(1, (2, 2)), jnp.array([1, 0])
    params, state = started(network, x)
    compute = statistics.influence(network, loss, damping=0.1, tolerance=1e-13)
    influences = jax.jit(compute)(params, state, x, target, queries, asked)

    @jax.jit
    def gradients(x, target):
        flat, unravel = ravel_pytree(params)

        def values(flat):
            return loss.value(network.forward(unravel(flat), state, x, None)[0], target)

        return jax.jacrev(values)(flat)

    ggn = full_ggn(network, loss, params, state, x, target)
    damped = ggn + 0.1 * np.eye(len(ggn))
    products = np.linalg.solve(damped, np.transpose(gradients(x, target)))
    assert_agree(influences, -np.asarray(gradients(queries, asked)) @ products, 1e-9)
